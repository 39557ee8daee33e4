"""Intents, courses and looks: what is read back, what is refused, and what a model makes of what was said."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from test_planner import LIMITS

from diptych.planning import (
    Attached,
    Course,
    Intent,
    Request,
    given,
    settle,
    settled,
    told,
    understanding,
    understood,
)
from diptych.planning.looks import look_of
from diptych.planning.normalise import plan_of
from diptych.planning.schema import Control, Input, Look, Step
from diptych.request import Media, Plan, RequestError, Role, Task
from diptych.settings import Settings

CLIPS = replace(
    LIMITS,
    native=632,
    multiple=16,
    max_side=1280,
    aspect=(832, 480),
    tasks=frozenset(Task),
    max_frames=81,
    frame_step=4,
    fps=16.0,
    max_media=64,
    controls=("depth", "pose"),
)
LARGE = replace(LIMITS, native=1024, multiple=32, max_side=4096)
PICTURE, CLIP = Attached(kind="picture"), Attached(kind="clip", frames=9)


class Says:
    """A planner that always answers the same."""

    def __init__(self, *steps: Step, **said):
        self.intent = Intent(steps=steps, **{"language": "en", **said})

    def plan(self, request: Request) -> Intent:
        return self.intent


def drawn(settings: Settings, **said) -> Plan:
    """One picture as it is settled."""
    step = Step(task=said.pop("task", Task.TEXT_TO_IMAGE), prompt="a cat", **said)
    return settle(plan_of(Intent(steps=(step,)), 0, settings), settings)


def filmed(**said) -> Plan:
    return drawn(CLIPS, task=Task.TEXT_TO_CLIP, **said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": []}, "1 to 8 steps"),
        ({"version": 2}, "version must be 1, got 2"),
        ({"version": True}, "version must be 1"),
        ({"langage": "en"}, r"unknown key 'langage' \(nearest: 'language'\)"),
        ({"language": "fr"}, "language"),
        ({"confidence": 1.5}, "confidence must be 0 to 1"),
        ({"missing": ["sauce"]}, r"missing\[0\]"),
        ({"missing": ["mask", "mask"]}, "name a thing once"),
        ({"contradictions": ["size"]}, "fields of a step, got 'size'"),
        ({"steps": [{"task": "edit", "prompt": "x", "seconds": "5"}]}, r"steps\[0\].seconds"),
        ({"steps": [{"task": "edit", "prompt": "x", "width": 10**12}]}, "width must be a number below"),
        ({"steps": [{"task": "edit", "prompt": "x", "aspect": [16, 0]}]}, "aspect must be two numbers"),
        ({"steps": [{"task": "edit", "prompt": "x", "inputs": [{"role": "mask"}]}]}, "a medium or a step"),
        (
            {"steps": [{"task": "edit", "prompt": "x", "inputs": [{"role": "source", "step": 0}]}]},
            "a later step",
        ),
        (
            {"steps": [{"task": "edit", "prompt": "x", "inputs": [{"role": "control", "medium": 0}]}]},
            "'edit' takes no control",
        ),
    ],
)
def test_an_intent_is_read_strictly(change, message):
    good = {"version": 1, "steps": [{"task": "text-to-image", "prompt": "a cat"}]}
    assert Intent.from_json(json.dumps(good)).steps[0].prompt == "a cat"
    with pytest.raises(RequestError, match=f"^the intent.*{message}"):
        Intent.from_json(json.dumps({**good, **change}))


@pytest.mark.parametrize(
    ("settings", "said", "size"),
    [
        (LARGE, {"resolution": 480}, (480, 480)),
        (LARGE, {"resolution": 480, "aspect": (16, 9)}, (864, 480)),
        (LARGE, {"aspect": (16, 9)}, (1376, 768)),
        (LARGE, {"aspect": (9, 16)}, (768, 1376)),
        (LARGE, {"resolution": 2160}, (1024, 1024)),
        (replace(LARGE, largest=4096), {"resolution": 2160, "aspect": (16, 9)}, (3840, 2176)),
        (LARGE, {"width": 512, "aspect": (2, 1)}, (512, 256)),
        (LARGE, {"height": 512}, (1024, 512)),
        (LARGE, {"width": 2048, "height": 2048}, (2048, 2048)),
        (LIMITS, {"resolution": 2160, "aspect": (4, 3)}, (112, 80)),
        (CLIPS, {"resolution": 480}, (832, 480)),
        (CLIPS, {}, (832, 480)),
        (CLIPS, {"aspect": (9, 16)}, (480, 848)),
    ],
)
def test_sizes_in_words_become_those_of_the_model(settings, said, size):
    found = drawn(settings, **said)
    assert (found.width, found.height) == size
    assert found == settle(found, settings) == drawn(settings, **said)
    if said.get("resolution") == 2160 and not settings.largest:
        assert "draws no more than" in found.adjustments[0]


@pytest.mark.parametrize(
    ("said", "frames", "fps", "told"),
    [
        ({}, 81, 16.0, ""),
        ({"seconds": 3.0, "fps": 24.0}, 73, 24.0, "72 frames -> 73"),
        ({"seconds": 2.0}, 33, 16.0, "32 frames -> 33"),
        ({"frames": 51}, 53, 16.0, "51 frames -> 53"),
        ({"frames": 49}, 49, 16.0, ""),
        ({"frames": 16, "seconds": 2.0}, 17, 8.0, "16 frames -> 17"),
        ({"seconds": 10.0}, 81, 16.0, r"160 frames -> 81 \(5.06 s at 16 a second\)"),
        ({"frames": 120}, 81, 16.0, "120 frames -> 81"),
        ({"frames": 1}, 1, 16.0, ""),
    ],
)
def test_a_length_becomes_frames_that_the_model_draws(said, frames, fps, told):
    found = filmed(**said)
    assert (found.frames, found.fps) == (frames, fps)
    assert settle(found, CLIPS) == found
    assert bool(found.adjustments) == bool(told)
    if told:
        assert re.search(told, found.adjustments[0])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"seconds": 0.0}, "seconds must be above 0 and at most 60, got 0"),
        ({"seconds": -3.0}, "got -3"),
        ({"seconds": 3600.0}, "got 3600; this model draws at most 5.06"),
        ({"fps": 0.0}, "fps must be above 0"),
        ({"fps": 1000.0}, "got 1000"),
        ({"frames": 0}, "frames must be 1 to 81, got 0"),
        ({"frames": -4}, "got -4"),
        ({"resolution": 0}, "at least 1 px"),
    ],
)
def test_a_length_that_no_clip_has_is_refused(said, message):
    with pytest.raises(RequestError, match=message):
        filmed(**said)


def test_a_length_of_a_still_is_told_and_not_used():
    found = drawn(LIMITS, seconds=5.0)
    assert found.frames == 1
    assert "seconds not used" in found.adjustments[0]


def test_what_no_model_at_hand_carries_out_is_refused_by_name():
    with pytest.raises(RequestError, match="cannot do 'text-to-clip'; it can do answer, edit, text-to-image"):
        drawn(LIMITS, task=Task.TEXT_TO_CLIP, seconds=3600.0)
    along = (Input(Role.CONTROL, 0),)
    step = Step(task=Task.CONTROL_TO_CLIP, prompt="a cat", inputs=along, control=Control.EDGES)
    with pytest.raises(RequestError, match="draws along depth, pose, not along edges"):
        understood(CLIPS, "x", 1, planner=Says(step))


def test_a_clip_has_the_shape_of_the_picture_that_it_begins_with():
    step = Step(task=Task.IMAGE_TO_CLIP, prompt="it moves", inputs=(Input(Role.FIRST, 0),))
    media = [replace(PICTURE, width=600, height=1200)]
    found = understood(CLIPS, "x", media, planner=Says(step)).plans[0]
    assert (found.width, found.height) == (448, 896)


def test_a_course_of_two_steps_hands_on_what_was_made():
    first = Step(task=Task.EDIT, prompt="a red cat", inputs=(Input(Role.SOURCE, 1), Input(Role.MASK, 0)))
    then = Step(task=Task.IMAGE_TO_CLIP, prompt="it runs", inputs=(Input(Role.FIRST, step=0),), seconds=1.0)
    course = understood(CLIPS, "x", 2, planner=Says(first, then), seed=7)
    assert [plan.inputs for plan in course.plans] == [(Role.MASK, Role.SOURCE), (Role.FIRST,)]
    assert course.media_of(0, ["m", "s"], []) == ["m", "s"]
    assert course.media_of(1, ["m", "s"], ["made"]) == ["made"]
    assert {plan.seed for plan in course.plans} == {7}
    again = Course.from_json(course.to_json())
    assert settled(CLIPS, again) == again == course


def test_a_medium_that_no_step_speaks_of_is_unused_in_the_first():
    step = Step(task=Task.EDIT, prompt="x", inputs=(Input(Role.SOURCE, 1),))
    assert understood(CLIPS, "x", 3, planner=Says(step)).plans[0].inputs == (
        Role.UNUSED,
        Role.SOURCE,
        Role.UNUSED,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON object is needed, got list"),
        ('{"version": 3}', "version must be 1, got 3"),
        ('{"version": 1, "plans": []}', "intent"),
    ],
)
def test_a_file_that_is_no_course_is_told(text, message):
    with pytest.raises(RequestError, match=f"^p.json: .*{message}"):
        Course.from_json(text, "p.json")


def test_a_course_with_a_misspelt_field_or_plans_of_other_steps_is_refused():
    values = understood(LIMITS, "a cat", planner=Says(Step(task=Task.TEXT_TO_IMAGE, prompt="a cat"))).plain()
    values["plans"][0]["widht"] = 3
    with pytest.raises(RequestError, match=r"plans\[0\]: unknown key 'widht' \(nearest: 'width'\)"):
        Course.from_json(json.dumps(values))
    with pytest.raises(RequestError, match="1 steps, but 0 plans"):
        Course.from_json(json.dumps({**values, "plans": []}))


def picture(level: int = 128, side: int = 64) -> Media:
    return Media.picture(np.full((side, side, 3), level, np.uint8), f"{side}.png")


def masked(*media: Media, settings: Settings = CLIPS) -> None:
    inputs = tuple(Input(role, n) for n, role in enumerate((Role.SOURCE, Role.MASK, Role.MASK)[: len(media)]))
    step = Step(task=Task.EDIT, prompt="a cat", inputs=inputs)
    given(settings, understood(settings, "x", len(media), planner=Says(step)), 0, media)


def test_a_mask_that_does_not_fit_is_refused():
    masked(picture(), picture(255))
    with pytest.raises(RequestError, match=r"mask 32.png is 32x32 px, and its source 64x64"):
        masked(picture(), picture(255, 32))
    with pytest.raises(RequestError, match="is black all over"):
        masked(picture(), picture(0))
    with pytest.raises(RequestError, match="'edit' takes 0 to 1 mask, got 2"):
        masked(picture(), picture(255), picture(255))


def test_two_first_frames_are_refused():
    step = Step(task=Task.IMAGE_TO_CLIP, prompt="x", inputs=(Input(Role.FIRST, 0), Input(Role.FIRST, 1)))
    with pytest.raises(RequestError, match="takes 0 to 1 first, got 2"):
        understood(CLIPS, "x", 2, planner=Says(step))


def test_a_clip_where_a_picture_is_needed_and_the_reverse_are_told(tmp_path):
    change = Says(Step(task=Task.EDIT_CLIP, prompt="x", inputs=(Input(Role.SOURCE, 0),)))
    with pytest.raises(RequestError, match=r"64.png is a picture, and a clip is needed"):
        given(CLIPS, understood(CLIPS, "x", 1, planner=change), 0, [picture()])
    edit = Says(Step(task=Task.EDIT, prompt="x", inputs=(Input(Role.SOURCE, 0),)))
    with pytest.raises(RequestError, match=r"a.mp4 is a clip by its name, and a picture is needed"):
        given(LIMITS, understood(LIMITS, "x", 1, planner=edit), 0, [tmp_path / "a.mp4"])


def test_an_edit_of_nothing_is_asked_about():
    said = Says(Step(task=Task.EDIT, prompt="x"), missing=("source",), question="Which picture?")
    with pytest.raises(RequestError, match=r"needs a picture to change \(attach one\): Which picture\?"):
        understood(LIMITS, "x", planner=said)


def test_sizes_that_contradict_each_other_are_asked_about():
    said = Says(Step(task=Task.TEXT_TO_IMAGE, prompt="x"), contradictions=("width", "aspect"))
    with pytest.raises(RequestError, match="two values for width and aspect: keep one"):
        understood(LIMITS, "x", planner=said)


def test_what_is_overridden_is_neither_missing_nor_in_doubt():
    said = Says(
        Step(task=Task.EDIT, prompt="x", inputs=(Input(Role.SOURCE, 0),)),
        missing=("mask",),
        contradictions=("seed",),
    )
    found = understood(CLIPS, "x", 2, planner=said, seed=3, inputs=("mask", "source")).plans[0]
    assert (found.inputs, found.seed) == ((Role.MASK, Role.SOURCE), 3)


def test_a_language_that_is_not_known_is_said_and_taken_safely(monkeypatch):
    said = Says(Step(task=Task.EDIT, prompt="x"), language="und", missing=("source",))
    monkeypatch.setattr(understanding, "_learned", lambda: said)
    (found,) = understood(LIMITS, "нарисуй кота").plans
    assert (found.task, found.prompt) == (Task.TEXT_TO_IMAGE, "нарисуй кота")
    assert "language of the request is not known, so it is taken as 'text-to-image'" in found.adjustments[0]


def test_a_plan_that_is_not_sure_says_so():
    step = Step(task=Task.TEXT_TO_IMAGE, prompt="hm")
    (found,) = understood(LIMITS, "hm", planner=Says(step, confidence=0.2)).plans
    assert "not sure, so it is taken as 'text-to-image'" in found.adjustments[0]
    assert not understood(LIMITS, "hm", planner=Says(step, confidence=0.9)).plans[0].adjustments


def test_typed_tokens_and_json_are_words():
    for text in ("draw <CFV> <BORES>1,2<EORES>", '{"task": "edit", "width": 7}'):
        (found,) = understood(LIMITS, text).plans
        assert (found.task, found.width) == (Task.TEXT_TO_IMAGE, 96)


def test_fifty_pictures_are_too_many_for_a_model_of_one():
    with pytest.raises(RequestError, match="50 pictures are attached, but this model looks at 1"):
        understood(LIMITS, "what is this?", 50)
    assert len(understood(CLIPS, "what is this?", 50).plans[0].inputs) == 50


def shapes(side: int = 128) -> dict[Look, np.ndarray]:
    """One picture of each look."""
    rng, (down, across) = np.random.default_rng(0), np.mgrid[:side, :side]
    black = np.zeros((side, side, 3), np.uint8)
    disc = (down - 60) ** 2 + (across - 50) ** 2 < 900
    ring = disc & ((down - 60) ** 2 + (across - 50) ** 2 >= 28**2)
    boxes, pose = black.copy(), black.copy()
    boxes[20:80, 30:100] = (255, 60, 0)
    boxes[22:78, 32:98] = 0
    for step in range(60):
        pose[20 + step, 40 + step // 2 : 43 + step // 2] = (255, step * 4, 0)
        pose[30 + step, 90 - step // 2 : 93 - step // 2] = (0, step * 4, 255)
    depth = np.where(disc, 200 - down // 2, 40 + down // 2)
    return {
        Look.PHOTO: rng.integers(0, 256, (side, side, 3)).astype(np.uint8),
        Look.MASK: np.where(disc[..., None], np.uint8(255), black),
        Look.EDGES: np.where(ring[..., None], np.uint8(255), black),
        Look.DEPTH: np.repeat(depth[..., None], 3, 2).astype(np.uint8),
        Look.POSE: pose,
        Look.BOXES: boxes,
        Look.BLANK: black + 7,
    }


@pytest.mark.parametrize("look", list(Look))
def test_a_look_is_told_from_the_pixels(look):
    pixels = shapes()[look]
    assert look_of(pixels[None]) is look
    if look in (Look.EDGES, Look.MASK):
        assert look_of(255 - pixels[None]) is look
    assert told(Media.picture(pixels)) == Attached(kind="picture", look=look, width=128, height=128)
