"""Training on clips of one's own: lines that draw them, batches, sheets, and runs that go on to the bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.contracts import CLEAN, NOISY, BadSample, Picture
from diptych.data.captioned.index import Index, build
from diptych.data.captioned.source import CaptionedSource
from diptych.data.clips import encoded
from diptych.data.conversations.readers import JsonlSource
from diptych.data.pictures import open_picture, save_picture
from diptych.models.mot import by_size
from diptych.systems import registry
from diptych.systems.u1.config import Stage, TrainConfig
from diptych.systems.u1.conversation import CLIP_GUIDES, Conversation
from diptych.systems.u1.job import JointJob, make_job
from diptych.systems.u1.probe import micro_batch
from diptych.systems.u1.recipes import RECIPES
from diptych.systems.u1.shown import show
from diptych.systems.u1.sources import Clips, sources_of
from diptych.systems.u1.system import U1System
from diptych.training.parallel import fill
from diptych.training.run import train
from diptych.training.trainer import Trainer
from diptych.worlds.emoji.motion_source import CLIP_TASKS

FAMILY = next(family for family in registry.FAMILIES if family.name == "u1")
SIDE, TOKEN, FRAMES, FPS = 16, 8, 3, 4.0
TALK = Conversation(
    max_media=3,
    clip_frames=FRAMES,
    drawn_frames=FRAMES,
    clip_side=SIDE,
    fps=FPS,
    clip_guides=tuple(CLIP_GUIDES),
)


def turns(asked: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}], **more}


LINES = [
    turns("a bar grows", "<video>", video="grows.gif"),
    turns("<image> it grows", "<video>", image="first.png", video="grows.gif"),
    turns(
        "<image>\n<image> it grows",
        "<video>",
        image=["first.png", "last.png"],
        video="grows.gif",
        roles=["first", "last"],
    ),
    turns("<video> make it red", "<video>", video=["grows.gif", "red.gif"]),
    turns("along <video> a red bar", "<video>", video=["grows.gif", "red.gif"], roles=["control"]),
    turns("<image> of this grows", "<video>", image="last.png", video="red.gif", roles="reference"),
    turns("<video> what does it do?", "it grows", video="grows.gif"),
]


def bar(count: int, colour: tuple[int, int, int]) -> np.ndarray:
    frames = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for number in range(count):
        frames[number, :, : (number + 1) * SIDE // count] = colour
    return frames


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    for name, colour in (("grows", (255, 255, 255)), ("red", (255, 0, 0))):
        # at twice the model's own rate: every other frame is drawn
        save_picture(bar(6, colour), tmp_path / f"{name}.gif", 2 * FPS)
    for name, frame in zip(("first", "last"), bar(6, (255, 255, 255))[[0, 4]], strict=True):
        save_picture(frame, tmp_path / f"{name}.png")
    return write(tmp_path, LINES)


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "films.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(path: Path, conversation: Conversation = TALK) -> JsonlSource:
    clips = Clips(conversation, TOKEN, SIDE)
    drawn = clips.drawn if conversation.drawn_frames else None
    return JsonlSource(path, seed=0, sizes=lambda pixels, **_: pixels, clips=clips.asked, films=drawn)


def config(path: Path, **changes: Any) -> TrainConfig:
    stage = Stage(name="one", steps=4, mixture={"films": 1.0})
    base = TrainConfig(
        name="films",
        model=by_size(2, 320, TOKEN // 2),
        conversation=TALK,
        jsonl=(str(path),),
        data=replace(
            TrainConfig(name="", model=by_size(1, 320, 4)).data,
            documents_per_step=4,
            row_tokens=64,
            workers=0,
        ),
        stages=(stage,),
        bf16=False,
        save_every=2,
        sample_every=100,
    )
    return replace(base, **changes)


def test_lines_that_draw_clips_are_laid_out_as_requests_are(lines):
    found = [source(lines).read(number) for number in range(len(LINES))]
    assert [sample.task for sample in found] == ["clip", *["clip-edit"] * 5, "understand"]
    words = [[part for part in sample.turns[0].parts if isinstance(part, str)] for sample in found]
    assert words == [
        ["a bar grows"],
        ["it grows", " first"],
        ["it grows", " first", " last"],
        ["make it red"],
        ["along a red bar", " control"],
        ["of this grows", " reference"],
        ["what does it do?"],
    ]
    shown = [
        [part.frames.shape[0] for part in sample.turns[0].parts if isinstance(part, Picture)]
        for sample in found
    ]
    assert shown == [[], [1], [1, 1], [FRAMES], [FRAMES], [1], [FRAMES]]
    for sample in found[:-1]:
        (drawn,) = sample.turns[1].parts
        assert drawn.drawn
        red = sample in (found[3], found[4], found[5])
        assert np.array_equal(drawn.pixels, bar(6, (255, 0, 0) if red else (255, 255, 255))[::2])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (turns("a", "<video> b", video="grows.gif"), "a clip is drawn as the whole answer"),
        (turns("a", "<video><video>", video=["grows.gif"] * 2), "a clip is drawn as the whole answer"),
        (
            turns("<image> a", "<video>", video="grows.gif", image="first.png", roles=["above"]),
            "'roles' has one of",
        ),
        (turns("a", "<video>", video="grows.gif", roles=["first"]), "for each of 0 media, got 'first'"),
        (turns("a", "<video>", video="first.png"), "not a readable clip"),
        (turns("a", "<video>", video="still.gif"), "shows a single picture at 4 frames a second"),
        (turns("a", "<video>", video="none.mp4"), "video 'none.mp4' is not in"),
        (turns("a", "<video>", video="strip.gif"), "one side may be at most 200 times the other"),
        (turns("<image> a", "<video>", video="grows.gif", image="grows.mp4"), "is not in"),
    ],
)
def test_lines_that_draw_no_clip_are_named(lines, row, message):
    save_picture(bar(6, (9, 9, 9))[:1].repeat(2, 0), lines.parent / "still.gif", 1000.0)
    save_picture(
        np.random.default_rng(0).integers(0, 255, (4, 2, 500, 3), dtype=np.uint8), lines.parent / "strip.gif"
    )
    with pytest.raises(BadSample, match=message):
        source(write(lines.parent, [row])).read(0)


def test_a_model_of_pictures_learns_no_clips(lines):
    with pytest.raises(BadSample, match="a clip in a gpt turn, and no clips are drawn by this model"):
        source(lines, replace(TALK, drawn_frames=0, clip_guides=())).read(0)


def test_a_batch_holds_clips_of_every_kind(lines, tmp_path):
    job = make_job(config(lines), tmp_path / "run", registry.open_system)
    data = job.dataset(job.config.stages[0], 0, 1)
    batch = data[0].batches[0]
    assert not data[0].bad
    drawn = int((batch.frames == FRAMES).sum())
    assert drawn == len(batch.level) == len(batch.noisy_task) > 0
    assert int((batch.kind == NOISY).sum()) == drawn * (SIDE // TOKEN) ** 2
    # a clip's frames have one level, and noise of their own
    levels = batch.level.view(-1, FRAMES)
    assert bool((levels == levels[:, :1]).all())
    assert len({frame.numpy().tobytes() for run in batch.noise for frame in run}) == drawn
    assert int((batch.kind == CLEAN).sum()) == sum(len(run) for run in batch.clean) * (SIDE // TOKEN) ** 2
    assert int((micro_batch(config(lines)).frames == FRAMES).sum()) > 0


def test_a_folder_of_clips_with_captions_is_indexed_and_drawn(lines, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, frames in (("grows.mp4", bar(6, (255, 255, 255))), ("still.png", bar(6, (0, 0, 255))[0])):
        save_picture(frames, folder / name, 2 * FPS)
        (folder / name).with_suffix(".txt").write_text(f"{name} of a bar\n")
    (folder / "broken.webm").write_bytes(b"nothing of the kind")
    (folder / "single.mp4").write_bytes(encoded(bar(1, (255, 0, 0)), "mp4", FPS))
    index = Index(build(folder))
    assert [row.id for row in index.rows] == ["still.png"]
    assert [(row.id, row.width, row.height) for row in index.clips] == [("grows.mp4", SIDE, SIDE)]
    problems = {row.id: row.problem for row in index.problems}
    assert "not a readable clip" in problems["broken.webm"]
    assert problems["single.mp4"] == "the clip shows a single picture"
    films = Clips(TALK, TOKEN, SIDE).drawn
    both = CaptionedSource(index, "mine", seed=0, sizes=lambda pixels, **_: pixels, films=films)
    drawn = {sample.task: sample for sample in (both.draw(number) for number in range(2))}
    assert set(drawn) == {"generate", "clip"}
    assert drawn["clip"].turns[1].parts[0].pixels.shape == (FRAMES, SIDE, SIDE, 3)
    assert len(CaptionedSource(index, "mine", seed=0, sizes=lambda pixels, **_: pixels)) == 1
    job = make_job(
        config(lines, jsonl=(), pictures=(str(folder),), mixture={"mine": 1.0}),
        tmp_path / "r",
        registry.open_system,
    )
    batch = job.dataset(job.config.stages[0], 0, 1)[0].batches[0]
    assert set(batch.noisy_task) == {"generate", "clip"}
    (folder / "still.png").unlink()
    (folder / "still.txt").unlink()
    alone = Index(build(folder))
    with pytest.raises(ValueError, match="and 1 clips, which this model does not draw"):
        CaptionedSource(alone, "mine", seed=0, sizes=lambda pixels, **_: pixels)


def test_the_moving_world_is_learnt_beside_pictures(world, tokenizer):
    del world  # which has the font
    recipe = RECIPES["emoji-clips"](size=1)
    shares = recipe.shares(recipe.stages[0])
    assert set(shares) > set(CLIP_TASKS)
    assert sum(shares.values()) == pytest.approx(1.0)
    mixture = {**dict.fromkeys(CLIP_TASKS, 0.1), "clip": 0.2, "clip-understand": 0.2, "edit": 0.2}
    chosen = replace(
        recipe,
        model=by_size(1, 3072, recipe.model.patch),
        data=replace(recipe.data, documents_per_step=24, workers=0),
        mixture=mixture,
    )
    job = JointJob(chosen, sources_of(chosen), tokenizer)
    step = job.dataset(chosen.stages[0], 0, 1)[0]
    assert not step.bad
    (batch,) = step.batches
    assert set(batch.label_task) == {"understand", "clip", "clip-edit", "edit"}
    assert sorted(set(batch.frames.tolist())) == [1.0, 8.0]
    assert {tuple(run.shape[-2:]) for run in batch.noisy} == {(64, 64), (96, 96)}
    assert "clip" in micro_batch(replace(chosen, mixture=dict.fromkeys(CLIP_TASKS, 1 / 6))).noisy_task
    job.task.to_empty(device="cpu")
    fill(job.model, job.starting_values())
    losses = job.task(batch)
    assert all(bool(value.isfinite()) for value in losses.sums.values())
    assert {"flow/clip", "flow/clip-edit", "text/understand"} <= set(losses.by_kind(batch))


def test_a_run_on_clips_goes_on_to_the_bit(lines, tmp_path):
    chosen = config(lines)
    straight = train(FAMILY, chosen, tmp_path / "straight", registry.open_system, quiet=True)
    stopped = Trainer(
        FAMILY.job(chosen, tmp_path / "cut", registry.open_system), tmp_path / "cut", quiet=True
    )
    told = stopped.log.step

    def tell(number: int, *rest: Any) -> None:
        told(number, *rest)
        stopped.asked_to_stop = number == 1

    stopped.log.step = tell  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert stopped.step == 2
    resumed = train(FAMILY, chosen, tmp_path / "cut", registry.open_system, quiet=True)
    for (name, one), other in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_sheets_of_a_run_show_film_strips(lines, tmp_path):
    job = make_job(config(lines), tmp_path / "run", registry.open_system)
    job.task.to_empty(device="cpu")
    fill(job.model, job.starting_values())
    job.sample(tmp_path / "sheet.png")
    sheet = open_picture(tmp_path / "sheet.png")
    # four of the first samples, some of which are asked about, each with what was given
    assert sheet.shape[1] == FRAMES * 192 + 20
    system = job.system({})
    assert isinstance(system, U1System)
    show([(source(lines), False)], system, None)
