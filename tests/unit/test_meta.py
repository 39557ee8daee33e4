"""Lists of data sets, the kinds of samples that they hold, and what is wrong with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_data import KINDS, said, write_lines, write_list
from PIL import Image

from diptych.contracts import BadSample, Picture
from diptych.data.captioned.index import build
from diptych.data.conversations.meta import read_meta
from diptych.data.conversations.readers import JsonlSource, TextSource, within
from diptych.data.pictures import save_picture
from diptych.systems.u1.config import Stage, TrainConfig
from diptych.systems.u1.conversation import Bounds, Conversation
from diptych.systems.u1.recipes import RECIPES
from diptych.systems.u1.sources import Fitting, Nothing, default_shares, kept_sources, sources_of


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return write_list(tmp_path)


def run_of(listed: Path, **changes: Any) -> TrainConfig:
    base = {
        "name": "toy",
        "model": RECIPES["u1"](size=2).model,
        "meta": (str(listed),),
        "draw_pixels": (32 * 32, 96 * 96),
        "conversation": Conversation(form="neo1_0", read=Bounds(least=1024, most=4096)),
        "stages": (Stage(name="one", steps=1, mixture={}),),
    }
    return TrainConfig(**{**base, **changes})


def test_every_task_of_a_list_becomes_its_kind_of_sample(listed):
    sources = sources_of(run_of(listed))
    kinds = {"t2i": "generate", "it2i": "edit", "interleave_gen": "interleave", "none": "understand"}
    for task, kind in {**kinds, "text": "text"}.items():
        sample = sources[f"my-{task}"].draw(0)
        assert sample.task == kind
    tale = sources["my-interleave_gen"].draw(0).turns[1].parts
    assert [part.drawn if isinstance(part, Picture) else part for part in tale] == [
        "first ",
        True,
        " then ",
        True,
        " end",
    ]
    assert sources.notes[0] == f"{listed}: my-t2i: of no effect here: language"


def test_a_list_is_shared_out_by_repeats_and_lengths(listed):
    values = json.loads(listed.read_text())
    values["my-t2i"] |= {"repeat_time": 3}
    values["my-text"] |= {"repeat_time": 0.5, "length": 40}
    listed.write_text(json.dumps(values))
    config = run_of(listed)
    shares = default_shares(config, sources_of(config))
    # 3 repeats of the four lines that are counted, half of the 40 that are told
    assert {name: share * 44 for name, share in shares.items()} == pytest.approx(
        {"my-t2i": 12, "my-it2i": 4, "my-interleave_gen": 4, "my-text": 20, "my-none": 4}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": "nowhere"}, r"meta\.json: 'my-t2i': root 'nowhere' is no folder"),
        ({"root": None}, "'my-t2i' has no root"),
        ({"annotation": "gone.jsonl"}, r"gone\.jsonl: no such file"),
        ({"task": "t2v"}, "task 't2v' is none of t2i, it2i"),
        ({"task": ["t2i"]}, "is none of t2i, it2i"),
        ({"root": "a" * 5000}, "is no folder"),
        ({"annotation": "a" * 5000}, "cannot be opened .File name too long"),
        ({"repeat_time": 0}, "repeat_time is 0, which is no share"),
        ({"length": -1}, "length is -1, which is no share"),
        ({"repeat_time": "3"}, "repeat_time: Expected `float`, got `str`"),
        ({"repeat_times": 2}, "unknown key 'repeat_times' .nearest: 'repeat_time'"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_sentence(listed, change, message):
    values = json.loads(listed.read_text())
    values["my-t2i"] |= change
    listed.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as raised:
        read_meta(listed)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_names_that_two_sources_would_have_are_refused(listed):
    values = json.loads(listed.read_text())
    listed.write_text(json.dumps({"edit": values["my-it2i"]}))
    with pytest.raises(ValueError, match="'edit' would name two sources"):
        sources_of(run_of(listed))


@pytest.mark.parametrize(
    ("row", "task", "message"),
    [
        (said("a", "<image>", "rad.png"), "generate", r"image 'rad\.png' is not in .* .nearest: 'red\.png'"),
        (said("a", "<image>", "../meta.json"), "generate", "lies outside"),
        (said("<image>\na", "<image>", "red.png", "red.png"), "generate", "make no sample of the task"),
        (said("a", "<image>", "red.png"), "edit", "1 pictures to draw and none to read"),
        (said("a", "<image>", "red.png"), "understand", "make no sample of the task 'understand'"),
        (said("a", "<image>", "strip.png"), "generate", "1x10000 px is to be drawn, and one side may be"),
        (said("<image>a", "b", "strip.png"), "understand", "1x10000 px is attached, and one side may be"),
        (said("<video>a", "b", video="a.mp4"), "understand", "this model looks at none"),
        (said("<video>a", "b"), None, "1 <video> marks, but 0 clips"),
        (said("a", "<video>", video="a.mp4"), None, "no clips are drawn"),
        (said("a", " "), None, "no gpt turn says or draws anything"),
        ({"conversations": [{"from": "human", "value": "a"}]}, None, "no gpt turn says or draws anything"),
        (said("a", "<image>", "red.png", video=3), None, "'video' must be a name or a list of names"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(listed, row, task, message):
    Image.new("RGB", (1, 10_000), "red").save(listed.parent / "media" / "strip.png")
    path = write_lines(listed.parent / "one.jsonl", row)
    conversation = Conversation(form="neo1_0", read=Bounds(least=1024, most=4096))
    sizes = Fitting(conversation, Bounds(least=1024, most=4096), 32, 64)
    source = JsonlSource(path, seed=0, sizes=sizes, media=listed.parent / "media", task=task)
    with pytest.raises(BadSample, match=message) as raised:
        source.draw(0)
    assert str(raised.value).startswith(f"{path}:1: ")


@pytest.mark.parametrize(
    ("answer", "pictures", "kind"),
    [
        ("<image>", 1, "generate"),
        ("<think>a red\none</think><image>", 1, "generate"),
        ("here: <image>", 1, "interleave"),
        ("<image><image>", 2, "interleave"),
        ("no", 0, "text"),
    ],
)
def test_what_a_line_holds_tells_what_it_is_for(listed, answer, pictures, kind):
    path = write_lines(listed.parent / "one.jsonl", said("a", answer, *["red.png"] * pictures))
    source = JsonlSource(path, seed=0, sizes=within(32, 64), media=listed.parent / "media")
    assert source.draw(0).task == kind


def test_pictures_keep_their_size_within_their_own_bounds():
    conversation = Conversation(
        form="neo1_0", read=Bounds(least=1, most=10**6), source=Bounds(least=4096, most=9216)
    )
    sizes = Fitting(conversation, Bounds(least=1024, most=96 * 64), 32, 64)

    def size(height: int, width: int, task: str, drawn: bool) -> tuple[int, ...]:
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        return sizes(pixels, task=task, drawn=drawn, together=1).shape[:2]

    assert size(70, 95, "generate", True) == (64, 96)
    assert size(700, 950, "generate", True) == (64, 64)
    assert size(500, 900, "understand", False) == (512, 896)
    assert size(20, 20, "edit", False) == (64, 64)


def test_what_is_kept_is_never_trained_on_and_a_larger_share_keeps_it_too(listed):
    path = write_lines(listed.parent / "many.jsonl", *[{**KINDS["text"], "id": n} for n in range(400)])

    def numbers(share: float) -> tuple[set[int], set[int]]:
        source = JsonlSource(path, seed=0, sizes=within(32, 64), validation=share)
        kept = source.kept()
        return set(source.lines[:, 0].tolist()), set() if kept is None else set(kept.lines[:, 0].tolist())

    learnt, kept = numbers(0.1)
    assert learnt | kept == set(range(1, 401))
    assert not learnt & kept
    assert len(kept) == pytest.approx(40, abs=20)
    assert kept < numbers(0.3)[1]
    assert numbers(0.0) == (set(range(1, 401)), set())
    book = listed.parent / "book.txt"
    book.write_text("\n\n".join(f"paragraph {n}" for n in range(100)))
    text = TextSource(book, seed=0, validation=0.2)
    assert len(text) + len(text.kept()) == 100


def test_captioned_pictures_are_a_source(listed):
    for name in ("red", "blue"):
        (listed.parent / "media" / f"{name}.txt").write_text(f"a {name} one")
    build(listed.parent / "media")
    config = run_of(listed, meta=(), pictures=(str(listed.parent / "media"),))
    sources = sources_of(config)
    drawn = {sources["media"].draw(n).turns[0].parts[0] for n in range(2)}
    assert drawn == {"a red one", "a blue one"}
    sample = sources["media"].draw(0)
    assert sample.task == "generate"
    assert sample.pictures[0].pixels.shape in ((32, 64, 3), (64, 64, 3), (32, 32, 3))
    assert default_shares(config, sources) == {"media": 1.0}


def test_sources_that_keep_nothing_say_so(listed):
    config = run_of(listed)
    kept = kept_sources(config, sources_of(config))
    assert set(kept) == set(kept_sources(run_of(listed, meta=()), {}))
    data = RECIPES["u1"](size=2).data
    found = kept_sources(run_of(listed, data=data), sources_of(run_of(listed, data=data)))["my-text"]
    assert isinstance(found, Nothing | JsonlSource)


def test_a_finished_run_needs_its_list_no_more(listed):
    config = run_of(listed, mixture={"my-t2i": 1.0})
    listed.unlink()
    sources = sources_of(config)
    assert "my-t2i" in sources
    with pytest.raises(ValueError, match="no such file"):
        sources["my-t2i"]
    with pytest.raises(ValueError, match="no such file"):
        sources_of(run_of(listed))
    # a mixture that names nothing of it does not do without
    with pytest.raises(ValueError, match="no such file"):
        sources_of(run_of(listed, mixture={"generate": 1.0}))


def test_a_run_with_the_shares_of_its_stages_needs_none_of_its_lists_or_their_pictures(listed):
    other = listed.with_name("other.json")
    other.write_text(json.dumps({"more": json.loads(listed.read_text())["my-text"]}))
    config = run_of(listed, meta=(str(listed), str(other)))
    shares = {"my-t2i": 0.5, "more": 0.5}
    config = replace(config, stages=tuple(replace(stage, mixture=shares) for stage in config.stages))
    (listed.parent / "media").rename(listed.parent / "away")
    sources = sources_of(config)
    for name in shares:
        with pytest.raises(ValueError, match="root 'media' is no folder"):
            sources[name]


def test_a_clip_is_read_as_its_frames_with_their_times(listed):
    frames = np.zeros((4, 32, 64, 3), dtype=np.uint8)
    frames[:, :, :, 0] = np.arange(0, 240, 60)[:, None, None]
    save_picture(frames, listed.parent / "media" / "a.gif", fps=2.0)
    row = said("<video>\nwhat happens?", "it reddens", video="a.gif")
    write_lines(listed.parent / "none.jsonl", row)
    bounds = Bounds(least=1024, most=4096)
    conversation = Conversation(form="neo1_0", read=bounds, clip_frames=2)
    sample = sources_of(run_of(listed, conversation=conversation))["my-none"].draw(0)
    first, one, line, second, other, *_ = sample.turns[0].parts
    assert (first, line, second, sample.task) == ("0.0 s: ", "\n", "1.5 s: ", "understand")
    assert one.pixels[..., 0].mean() < other.pixels[..., 0].mean()
    assert not one.drawn
