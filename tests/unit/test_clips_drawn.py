"""Clips of a model that draws them: planned, drawn together, held to what is given, written, and refused."""

import errno
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path
from time import process_time

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diptych import planning
from diptych.cli import main
from diptych.contracts import Prompt, Stack
from diptych.data import pictures
from diptych.data.captioned.buckets import Bucket, fit
from diptych.data.clips import encoded, open_clip
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.pictures import format_of, open_picture, save_picture
from diptych.flow import FlowConfig, Objective, SamplerConfig
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.mot import MoT
from diptych.planning import Intent, settle
from diptych.planning.normalise import plan_of
from diptych.planning.schema import Step
from diptych.request import Media, Message, Plan, RequestError, Role, Task
from diptych.systems.registry import settings_of
from diptych.systems.u1.conversation import CLIP_GUIDES, Conversation
from diptych.systems.u1.system import U1System

SIDE, FRAMES, FPS = 32, 4, 4.0
TALK = Conversation(
    max_media=3,
    clip_frames=FRAMES,
    drawn_frames=FRAMES,
    clip_side=SIDE,
    fps=FPS,
    clip_guides=tuple(CLIP_GUIDES),
)
FLOW = FlowConfig(
    objective=Objective(sigma_min=0.02),
    sampler=SamplerConfig(num_steps=6, shift=4.0, guidance_scale=2.0, image_guidance_scale=1.5),
)
WORDS = "a cat above two carrots"


@pytest.fixture
def system(tiny_model: MoT, tokenizer: TextTokenizer) -> U1System:
    return U1System(tiny_model, tokenizer, FLOW, native=48, conversation=TALK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Path:
    from conftest import TINY

    model = MoT(replace(TINY, vocab_size=tokenizer.vocab_size))
    model.initialise(torch.Generator().manual_seed(0))
    made = tmp_path_factory.mktemp("clips") / "model"
    U1System(model, tokenizer, FLOW, native=48, conversation=TALK).save(made, torch.float32)
    return made


def moving(count: int = FRAMES, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """A red square that goes to the right on a blue ground."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 2] = 200
    for number in range(count):
        left = number * (width - 8) // max(1, count - 1)
        frames[number, 8:16, left : left + 8] = (230, 20, 30)
    return frames


def plan(task: Task, system: U1System, *inputs: Role, **fields) -> Plan:
    fields = {"frames": FRAMES, "seed": 3, **fields}
    return settle(Plan(task=task, prompt=WORDS, inputs=inputs, **fields), system.settings)


def test_a_model_of_clips_says_what_it_draws(system, folder):
    told = settings_of(str(folder))
    assert told == system.settings
    clips = {Task.TEXT_TO_CLIP, *CLIP_GUIDES.values()}
    assert clips <= told.tasks
    assert (told.max_frames, told.fps, told.clip_frames) == (FRAMES, FPS, FRAMES)
    clip = [planning.Attached(kind="clip", width=SIDE, height=SIDE, frames=FRAMES, seconds=0.75)]
    along = planning.understood(told, "a video of a dog along these edges", clip).plans[0]
    assert (along.task, along.inputs) == (Task.CONTROL_TO_CLIP, (Role.CONTROL,))
    found = plan(Task.TEXT_TO_CLIP, system)
    assert (found.width, found.height, found.frames, found.fps) == (SIDE, SIDE, FRAMES, FPS)
    assert settle(Plan(task=Task.TEXT_TO_IMAGE, prompt=WORDS), told).width == 48
    pictures_alone = replace(TALK, drawn_frames=0, clip_guides=())
    left = U1System(system.model, system.tokenizer, FLOW, 48, conversation=pictures_alone).settings
    assert not left.tasks & clips


@pytest.mark.parametrize(
    ("said", "frames", "note"),
    [
        ({"seconds": 1.0}, 4, ""),
        ({"seconds": 0.5}, 2, ""),
        ({"seconds": 5.0}, 4, r"20 frames -> 4 \(1 s at 4 a second\)"),
        ({"seconds": 1.0, "fps": 24.0}, 4, r"24 frames a second -> 4 \(this model's own\)"),
        ({"frames": 3, "fps": 12.0}, 3, r"12 frames a second -> 4 \(this model's own\)"),
        ({"frames": 4, "seconds": 2.0}, 4, r"2 frames a second -> 4 \(this model's own\)"),
    ],
)
def test_lengths_and_rates_are_the_models_own_and_told(system, said, frames, note):
    step = Step(task=Task.TEXT_TO_CLIP, prompt=WORDS, **said)
    found = settle(plan_of(Intent(steps=(step,)), 0, system.settings), system.settings)
    assert (found.frames, found.fps) == (frames, FPS)
    assert settle(found, system.settings) == found
    assert len(found.adjustments) == bool(note)
    assert not note or re.search(note, found.adjustments[0])


def test_an_override_of_the_rate_is_told_too(system):
    found = Pipeline(system).plan("a clip of a cat", task="text-to-clip", fps=30.0)
    assert found.fps == FPS
    assert "30 frames a second -> 4 (this model's own)" in found.adjustments


@pytest.mark.parametrize(
    ("task", "roles"),
    [
        (Task.TEXT_TO_CLIP, ()),
        (Task.IMAGE_TO_CLIP, (Role.FIRST,)),
        (Task.IMAGE_TO_CLIP, (Role.LAST,)),
        (Task.IMAGE_TO_CLIP, (Role.FIRST, Role.LAST)),
        (Task.REFERENCE_TO_CLIP, (Role.REFERENCE, Role.REFERENCE)),
        (Task.EDIT_CLIP, (Role.SOURCE,)),
        (Task.EDIT_CLIP, (Role.SOURCE, Role.MASK)),
        (Task.CONTROL_TO_CLIP, (Role.CONTROL,)),
    ],
)
def test_every_task_draws_a_clip_and_holds_what_is_given(system, task, roles):
    clip = moving()
    shown = {Role.SOURCE: clip, Role.CONTROL: clip, Role.MASK: np.full((1, SIDE, SIDE, 3), 255, np.uint8)}
    media = [Media(shown.get(role, clip[-1:] if role is Role.LAST else clip[:1])) for role in roles]
    settled = plan(task, system, *roles, width=SIDE, height=SIDE)
    (drawn,) = draw(system, [settled], [media])
    assert drawn.shape == (FRAMES, SIDE, SIDE, 3)
    assert len({frame.tobytes() for frame in drawn}) == FRAMES
    for role, medium in zip(roles, media, strict=True):
        if role in (Role.FIRST, Role.LAST):
            place = 0 if role is Role.FIRST else FRAMES - 1
            assert np.abs(drawn[place].astype(int) - medium.frames[0]).max() <= 2
    result = Pipeline(system).run(
        WORDS,
        [m.frames if len(m.frames) > 1 else m.pixels for m in media],
        task=task.value,
        inputs=roles,
        frames=FRAMES,
        seed=3,
    )
    assert result.images == ()
    assert np.array_equal(result.clips[0], drawn)
    assert result.media[0].fps == FPS


def test_rows_of_other_steps_are_held_alike(system):
    first = moving()
    plans = [plan(Task.IMAGE_TO_CLIP, system, Role.FIRST, steps=steps, seed=steps) for steps in (6, 3, 5)]
    media = [[Media(np.roll(first[:1], 3 * number, 2))] for number in range(3)]
    together = draw(system, plans, media)
    for number, settled in enumerate(plans):
        assert np.abs(together[number][0].astype(int) - media[number][0].frames[0]).max() <= 2
        (alone,) = draw(system, [settled], [media[number]])
        assert np.abs(together[number].astype(int) - alone).max() <= 1


def test_a_clip_of_one_frame_is_the_picture_to_the_bit(system):
    one = plan(Task.TEXT_TO_CLIP, system, frames=1)
    picture = plan(Task.TEXT_TO_IMAGE, system, frames=1, width=one.width, height=one.height)
    assert np.array_equal(*(draw(system, [settled])[0] for settled in (one, picture)))
    x = torch.randn(2, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    level = torch.tensor([0.3, 0.8])
    plain = U1System(system.model, system.tokenizer, FLOW, 48)
    found = [
        s.denoise(x, level, s.read([Prompt(WORDS)] * 2, [Stack(SIDE, SIDE)] * 2)) for s in (system, plain)
    ]
    assert torch.equal(*found)


def test_first_and_last_frames_of_other_sizes_are_brought_to_the_clips(system):
    wide = moving(width=64, height=32)[0]
    tall = moving(width=24, height=48)[0]
    found = Pipeline(system).run(
        WORDS, [wide, tall], task="image-to-clip", inputs=(Role.FIRST, Role.LAST), frames=FRAMES, seed=1
    )
    (drawn,) = found.clips
    # the size is that of the first one's shape, which the last one is cut to
    assert drawn.shape[1] < drawn.shape[2]
    for place, given in ((0, wide), (-1, tall)):
        wanted = fit(given, Bucket(drawn.shape[2], drawn.shape[1]))
        assert np.abs(drawn[place].astype(int) - wanted).max() <= 2


def test_drawing_a_clip_costs_little_more_than_its_frames_one_by_one(system):
    """By the operations that are counted, which no other work on the machine changes."""
    from torch.utils.flop_counter import FlopCounterMode

    def cost(settled: Plan) -> int:
        with FlopCounterMode(display=False) as counted:
            draw(system, [settled])
        return counted.get_total_flops()

    clip = plan(Task.TEXT_TO_CLIP, system)
    picture = plan(Task.TEXT_TO_IMAGE, system, frames=1, width=SIDE, height=SIDE)
    begun = process_time()
    assert cost(clip) <= 1.5 * FRAMES * cost(picture)
    assert process_time() - begun < 60


def test_a_clip_that_is_followed_lasts_as_long_as_it_did(system):
    control = Media(moving(FRAMES), "a.mp4", times=tuple(number * 0.5 for number in range(FRAMES)))
    settled = plan(Task.CONTROL_TO_CLIP, system, Role.CONTROL)
    course = planning.understood(
        system.settings, WORDS, [planning.told(control)], task="control-to-clip", frames=FRAMES
    )
    found, _ = planning.given(system.settings, course, 0, [control])
    assert (settled.fps, found.fps) == (FPS, 2.0)
    assert "4 frames are spread over the 1.5 s that are given, 2 a second" in found.adjustments


def test_a_clip_that_is_long_is_looked_at_and_changed_as_long_as_it_is(system):
    source = Media(moving(12), "a.mp4", times=tuple(number * 0.5 for number in range(12)))
    (answer,) = system.answers([[Message("user", WORDS, (source,))]])
    assert isinstance(answer, str)
    document = system._asked([Message("user", WORDS, (source,))])
    # one clip: one mark before it and one behind, and a time for each frame
    assert len(document.clean) == FRAMES
    assert len(set(document.positions[document.kind == 1][:, 0])) == FRAMES
    assert len(set(document.times[document.kind == 1])) == 1
    result = Pipeline(system).run(WORDS, [source.frames], task="edit-clip", frames=FRAMES, seed=1)
    assert len(result.clips[0]) == FRAMES


def test_what_is_drawn_is_written_and_read_again(system, tmp_path):
    clip = np.repeat(np.repeat(moving(), 2, 1), 2, 2)
    for name, far in (("a.mp4", 12), ("a.webm", 12), ("a.gif", 1)):
        save_picture(clip, tmp_path / name, FPS)
        found = open_clip(tmp_path / name, 99)
        assert found.frames.shape == clip.shape
        assert found.times == pytest.approx([number / FPS for number in range(FRAMES)], abs=0.011)
        assert np.abs(found.frames.astype(int) - clip).mean() < far
        # at another rate, what is on the screen at each time
        assert len(open_clip(tmp_path / name, 99, 2 * FPS).times) == 2 * FRAMES - 1
        half = open_clip(tmp_path / name, 99, FPS / 2)
        assert np.array_equal(half.frames, found.frames[::2])
    odd = clip[:, :31, :33]
    save_picture(odd, tmp_path / "odd.mp4", 29.97)
    assert open_clip(tmp_path / "odd.mp4", 9).frames.shape == odd.shape
    assert np.array_equal(open_picture(tmp_path / "a.gif").shape, clip.shape[1:])


def test_a_name_says_how_a_clip_is_written(tmp_path, monkeypatch):
    for name, told in (
        ("a.avi", "a clip is written as .mp4, .webm"),
        ("a.jpg", "a clip is written as"),
        ("a", "this"),
    ):
        with pytest.raises(ValueError, match=told):
            format_of(tmp_path / name, FRAMES)
    with pytest.raises(ValueError, match="a picture is written as"):
        format_of(tmp_path / "a.mp4", 1)
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'diptych\[video\]', or name a .gif"):
        format_of(tmp_path / "a.mp4", FRAMES)
    assert format_of(tmp_path / "a.gif", FRAMES) == "GIF"


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_a_disk_that_fills_in_the_middle_leaves_what_was_there(tmp_path, name):
    """A real failing write: the process may not write files beyond a little."""
    path = tmp_path / name
    save_picture(moving(), path, FPS)
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (24, 96, 96, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError) as told:  # noqa: PT011
            save_picture(noise, path, FPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert told.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_do_makes_a_clip_of_a_picture(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(moving()[0]).save("cat.png")
    how = ["--model", str(folder), "--task", "image-to-clip", "--seed", "1"]
    assert main(["do", "a clip of a cat, 1 second", "-i", "cat.png", "-o", "jump.mp4", *how]) == 0
    told = capsys.readouterr()
    assert told.out == "jump.mp4\n"
    assert "fps" in told.err
    found = open_clip(Path("jump.mp4"), 9)
    assert found.frames.shape == (FRAMES, SIDE, SIDE, 3)
    assert found.times == pytest.approx([number / FPS for number in range(FRAMES)])
    # unless a name is given
    assert main(["do", "a clip of a cat", "--model", str(folder), "--task", "text-to-clip"]) == 0
    assert capsys.readouterr().out == "out.mp4\n"
    # and what was drawn is changed again
    assert (
        main(
            [
                "do",
                "make it red",
                "-i",
                "jump.mp4",
                "-o",
                "red.gif",
                "--model",
                str(folder),
                "--task",
                "edit-clip",
            ]
        )
        == 0
    )
    assert open_clip(Path("red.gif"), 9).frames.shape[1:] == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "a.avi", "--task", "text-to-clip"], "a clip is written as .mp4"),
        (["-o", "a.jpg", "--task", "text-to-clip"], "a clip is written as .mp4"),
        (
            ["-i", "cat.png", "-o", "a.mp4", "--task", "edit-clip"],
            "is a picture, and a clip is needed to change",
        ),
        (
            ["-i", "cat.mp4", "-o", "a.mp4", "--task", "image-to-clip"],
            "is a clip by its name, and a picture is needed",
        ),
        (["-o", "missing/a.txt/b.mp4", "--task", "text-to-image"], "a picture is written as"),
    ],
)
def test_do_refuses_before_it_draws(folder, tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(moving()[0]).save("cat.png")
    save_picture(moving(), Path("cat.mp4"), FPS)
    monkeypatch.setattr(U1System, "read", lambda *_: pytest.fail("it was read"))
    assert main(["do", "make the cat jump", "--model", str(folder), *words]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert told in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.mp4", "cat.png"]


@pytest.mark.parametrize("count", [1, 10_000])
def test_a_clip_of_one_frame_and_one_of_ten_thousand(tmp_path, count):
    path = tmp_path / "a.mp4"
    frames = np.broadcast_to(moving(1, 16, 16), (count, 16, 16, 3))
    path.write_bytes(encoded(frames, "mp4", 60.0))
    found = open_clip(path, FRAMES)
    assert len(found.frames) == min(count, FRAMES)
    assert found.times[-1] == pytest.approx((count - 1) / 60, abs=0.5)


def test_a_clip_of_8k_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuv420p"
        out.mux(stream.encode(av.VideoFrame(7680, 4320, "yuv420p")))
        out.mux(stream.encode())
    with pytest.raises(pictures.PictureError, match="frames are 7680x4320 px, and at most 32 megapixels"):
        open_clip(path, FRAMES)


def test_a_clip_that_is_given_to_a_model_of_pictures(system):
    plain = U1System(system.model, system.tokenizer, FLOW, 48, conversation=Conversation(max_media=3))
    with pytest.raises(RequestError, match="looks at pictures alone"):
        plain.answers([[Message("user", WORDS, (Media(moving()),))]])
    with pytest.raises(RequestError, match="this model cannot do 'text-to-clip'"):
        plan(Task.TEXT_TO_CLIP, plain)


def test_film_strips_stand_in_a_sheet(tmp_path):
    cells = [Cell(moving(), "a clip", True), Cell(moving()[0], "a picture"), Cell(moving(2), "two", False)]
    contact_sheet(cells, tmp_path / "sheet.png", side=64)
    sheet = open_picture(tmp_path / "sheet.png")
    # a line for each cell, as wide as the longest clip
    assert sheet.shape[1] == FRAMES * 64 + 20
    assert sheet.shape[0] == 3 * (64 + 58 + 10) + 10
    contact_sheet(cells[1:2], tmp_path / "plain.png", side=64)
    assert open_picture(tmp_path / "plain.png").shape[1] == 64 + 20
