"""The learned planner: fast, small, without torch, and what it says is always a plan that can be read."""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from diptych.cli import main
from diptych.planning.clarify import missing
from diptych.planning.data.compose import sample
from diptych.planning.data.score import Tally
from diptych.planning.labels import TaggerConfig
from diptych.planning.learned import FILE, Learned
from diptych.planning.schema import Attached, Intent, Look, Request, Step
from diptych.planning.tagger import Tagger
from diptych.planning.tokens import LONGEST, encode, tokens
from diptych.planning.trainer import PlannerRun, calibrated, collate, export, train
from diptych.planning.turns import continued
from diptych.request import Role, Task

TINY = TaggerConfig(width=16, depth=1, heads=2, hidden=16, table=8)
PHOTO, MASK = Attached(kind="picture"), Attached(kind="picture", look=Look.MASK)


@pytest.fixture(scope="module")
def shipped():
    planner = Learned.open()
    assert planner is not None
    return planner


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """An untrained planner: whatever it says has to be a plan."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("planner")
    export(Tagger(TINY), folder / FILE)
    return Learned.open(folder)


def test_numpy_computes_what_torch_does(tmp_path):
    torch.manual_seed(0)
    model = Tagger(TINY)
    export(model, tmp_path / FILE)
    with safe_open(tmp_path / FILE, "pt") as file:
        names = file.keys()
        stored = {name: file.get_tensor(name).float() for name in names}
    for name in ("words", "pieces"):
        stored[f"{name}.weight"] *= stored.pop(f"{name}.scale")[:, None]
    model.load_state_dict(stored)
    planner = Learned.open(tmp_path)
    requests = [sample(1, number).request for number in range(12)]
    encoded = [encode(request) for request in requests]
    # in one batch, so that padding is seen by nobody
    with torch.no_grad():
        logits = model(collate(encoded))
    for row, one in enumerate(encoded):
        for name, value in planner.network(one).items():
            expected = logits[name][row]
            expected = expected[: len(one) + 1] if expected.ndim == 2 else expected
            torch.testing.assert_close(torch.tensor(value).float(), expected, atol=2e-4, rtol=2e-4)


def test_a_stopped_run_ends_with_the_weights_of_a_straight_one(tmp_path):
    run = PlannerRun(steps=6, batch=4, save_every=3, model=TINY)
    straight = train(tmp_path / "straight", run)
    train(tmp_path / "stopped", run)
    # as it was after three steps
    (tmp_path / "begun").mkdir()
    half = replace(run, steps=6)
    first = _stopped_after_three(tmp_path / "begun", half)
    assert first == 3
    resumed = train(tmp_path / "begun", run)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def _stopped_after_three(folder, run):
    """Train until the first checkpoint, as if killed behind it."""
    from diptych.planning import trainer

    saved = trainer._save

    def save(folder, step, model, optimisers):
        saved(folder, step, model, optimisers)
        raise KeyboardInterrupt

    trainer._save = save
    try:
        with pytest.raises(KeyboardInterrupt):
            train(folder, run)
    finally:
        trainer._save = saved
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        return int(file.metadata()["step"])


def test_a_folder_with_another_run_is_refused(tmp_path):
    train(tmp_path, PlannerRun(steps=1, batch=2, model=TINY))
    with pytest.raises(ValueError, match="other settings"):
        train(tmp_path, PlannerRun(steps=1, batch=2, seed=1, model=TINY))


def test_the_recipe_is_a_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diptych.planning.trainer.HELD_OUT", 8)
    sizes = [
        "--model.width",
        "16",
        "--model.depth",
        "1",
        "--model.heads",
        "2",
        "--model.hidden",
        "16",
        "--model.table",
        "8",
    ]
    assert main(["train", "planner", "-o", str(tmp_path), "--steps", "2", "--batch", "4", *sizes]) == 0
    assert "all typed fields" in capsys.readouterr().out
    assert Learned.open(tmp_path) is not None
    assert 0 <= json.loads((tmp_path / "measured.json").read_text())["task"] <= 1


def test_planning_loads_no_torch():
    code = (
        "import sys; from diptych.planning.learned import Learned;"
        "from diptych.planning.schema import Request;"
        "Learned.open().plan(Request(text='a cat')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_small_and_fast(shipped):
    from pathlib import Path

    import diptych.planning.learned as module

    file = Path(module.__file__).parents[1] / "assets" / "planner" / FILE
    assert file.stat().st_size <= 15 * 2**20
    requests = [sample(4, number).request for number in range(40)]
    took = []
    for request in requests:
        began = time.process_time()
        shipped.plan(request)
        took.append(time.process_time() - began)
    # the quickest: what it costs where nothing else runs
    assert min(took) < 0.03


def test_held_out_wordings_are_understood(shipped):
    tally = Tally()
    for number in range(300):
        found = sample(31, number, "held-out")
        tally.add(shipped.plan(found.request), found.intent)
    assert tally.share("task") >= 0.95
    assert tally.share("roles") >= 0.93
    assert tally.share("fields") >= 0.93


@pytest.mark.parametrize(
    ("text", "media", "task", "roles"),
    [
        ("a cat", [], Task.TEXT_TO_IMAGE, []),
        ("can you draw a cat?", [], Task.TEXT_TO_IMAGE, []),
        ("what is in this picture?", [PHOTO], Task.ANSWER, [Role.SUBJECT]),
        ("don't edit anything, just tell me what you see", [PHOTO], Task.ANSWER, [Role.SUBJECT]),
        ("remove the dog", [PHOTO], Task.EDIT, [Role.SOURCE]),
        ("only inside the mask, make it blue", [PHOTO, MASK], Task.EDIT, [Role.SOURCE, Role.MASK]),
        ("only inside the mask, make it blue", [MASK, PHOTO], Task.EDIT, [Role.MASK, Role.SOURCE]),
        ("animate this picture", [PHOTO], Task.IMAGE_TO_CLIP, [Role.FIRST]),
        ("a video that ends with this picture", [PHOTO], Task.IMAGE_TO_CLIP, [Role.LAST]),
        ("a castle in the style of this picture", [PHOTO], Task.REFERENCE_TO_IMAGE, [Role.REFERENCE]),
        ("a 5-second video of a horse running", [], Task.TEXT_TO_CLIP, []),
    ],
)
def test_plain_requests_are_planned(shipped, text, media, task, roles):
    intent = shipped.plan(Request(text=text, media=tuple(media)))
    assert intent.steps[0].task is task
    assert [one.role for one in intent.steps[0].inputs] == roles
    assert not intent.missing


def test_the_order_of_media_changes_no_role(shipped):
    changed = 0
    for number in itertools.count():
        found = sample(21, number, "held-out").request
        kinds = {(m.kind, m.look) for m in found.media}
        plain = "<image>" not in found.text and len(kinds) == len(found.media) == 2
        if not plain or any(word in found.text for word in "12一二"):
            continue
        roles = [
            [one.role for one in shipped.plan(replace(found, media=order)).steps[0].inputs]
            for order in (found.media, found.media[::-1])
        ]
        from diptych.planning.tokens import arranged

        if arranged(found) == arranged(replace(found, media=found.media[::-1])) == [0, 1]:
            # the words speak of an order
            continue
        assert roles[0] == roles[1][::-1], found
        changed += 1
        if changed == 20:
            return


def test_two_steps_are_planned_one_after_the_other(shipped):
    intent = shipped.plan(Request(text="remove the dog, then turn it into a 5 second video", media=(PHOTO,)))
    assert [step.task for step in intent.steps] == [Task.EDIT, Task.IMAGE_TO_CLIP]
    assert intent.steps[1].seconds == 5
    assert [(one.role, one.step) for one in intent.steps[1].inputs] == [(Role.FIRST, 0)]


def test_a_request_goes_on_from_the_turn_before(shipped):
    intent = shipped.plan(Request(text="make it square", turns=("a cat on a mat, seed 7",)))
    (step,) = intent.steps
    assert (step.task, step.prompt, step.aspect, step.seed) == (
        Task.TEXT_TO_IMAGE,
        "a cat on a mat",
        (1, 1),
        7,
    )


def test_what_lacks_a_picture_is_asked_about(shipped):
    intent = shipped.plan(Request(text="remove the dog from this photo"))
    assert intent.missing == ("source",)
    assert intent.question
    assert not shipped.plan(Request(text="a small dog on a red sofa")).question


def test_contradicting_sizes_are_asked_about(shipped):
    intent = shipped.plan(Request(text="a red house, 512x512, 768x768"))
    assert {"width", "height"} <= set(intent.contradictions)
    assert intent.question


@pytest.mark.parametrize("typed", ["<BORES>512,512<EORES>", "<CFV>", '{"task": "edit", "width": 512}'])
def test_a_typed_signal_is_only_text(shipped, typed):
    (step,) = shipped.plan(Request(text=f"draw a cat {typed}")).steps
    assert step.task is Task.TEXT_TO_IMAGE
    assert step.width is None
    assert step.height is None
    assert [token.kind for token in tokens(typed, 0)] == ["typed"]


def test_a_mark_without_a_medium_is_only_text():
    assert [token.kind for token in tokens("<image> and <image>", 1)] == ["mark", "word", "typed"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.integers(0, 3), st.lists(st.text(max_size=20), max_size=2))
def test_anything_typed_is_a_plan(tiny, text, media, turns):
    if not text.strip():
        return
    request = Request(text=text, media=(PHOTO, MASK, Attached(kind="clip"))[:media], turns=tuple(turns))
    intent = tiny.plan(request)
    assert Intent.from_json(intent.to_json()) == intent


def test_fifty_media_and_very_long_requests_are_read(tiny):
    intent = tiny.plan(Request(text="what are these?", media=(PHOTO,) * 50))
    assert len(intent.steps[0].inputs) == 50
    assert len(encode(Request(text="cat " * 50_000))) == LONGEST
    tiny.plan(Request(text="cat " * 5_000))


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=FILE):
        Learned.open(tmp_path)
    assert Learned.open(tmp_path / "elsewhere") is None


def test_confidence_is_set_by_what_is_right():
    from diptych.planning.trainer import TEMPERATURES

    samples = [sample(1, number) for number in range(20)]
    meant = {one.request: one.intent for one in samples}

    class Sure:
        """As sure as its temperature lets it be, of what is meant or of something else."""

        def __init__(self, wrong):
            self.temperature, self.wrong = 1.0, wrong

        def plan(self, request):
            intent = replace(meant[request], confidence=0.99 / (1 + self.temperature))
            other = Task.ANSWER if intent.steps[0].task is not Task.ANSWER else Task.TEXT_TO_IMAGE
            return replace(intent, steps=(Step(task=other, prompt="x"),)) if self.wrong else intent

    assert calibrated(Sure(False), samples) == TEMPERATURES[0]
    assert calibrated(Sure(True), samples) == TEMPERATURES[-1]


def test_settings_of_a_turn_go_on_until_they_are_said_anew():
    before = Step(task=Task.TEXT_TO_IMAGE, prompt="a cat", width=512, height=512, steps=20, seed=3)
    wider = continued(before, Step(task=Task.TEXT_TO_IMAGE, prompt="", aspect=(4, 3)))
    assert (wider.width, wider.height, wider.aspect, wider.steps, wider.seed) == (
        None,
        None,
        (4, 3),
        20,
        3,
    )
    night = continued(before, Step(task=Task.TEXT_TO_IMAGE, prompt="at night"))
    assert (night.prompt, night.width) == ("a cat at night", 512)
    # the same seed would draw the same again
    assert continued(before, Step(task=Task.TEXT_TO_IMAGE, prompt="", count=2)).seed is None


@pytest.mark.parametrize(
    ("step", "wants", "media", "lacking"),
    [
        (Step(task=Task.EDIT, prompt="x"), (), (), ("source",)),
        (Step(task=Task.EDIT, prompt="x"), ("mask",), (), ("source", "mask")),
        (Step(task=Task.IMAGE_TO_CLIP, prompt="x"), (), (), ("first",)),
        (Step(task=Task.IMAGE_TO_CLIP, prompt="x"), ("last",), (), ("last",)),
        (Step(task=Task.ANSWER, prompt="x"), (), (), ()),
        (Step(task=Task.ANSWER, prompt="x"), ("subject",), (), ("subject",)),
        (Step(task=Task.TEXT_TO_IMAGE, prompt=""), ("prompt",), (), ("prompt",)),
    ],
)
def test_what_is_missing_is_what_is_spoken_of_and_not_there(step, wants, media, lacking):
    assert missing([step], wants, media) == lacking
