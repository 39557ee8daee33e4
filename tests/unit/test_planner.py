"""Requests in plain words to plans, and what is refused."""

import contextlib
import re
import time
from dataclasses import replace
from typing import Any

import pytest

from diptych.flow import SamplerConfig
from diptych.planning import Attached, Request, RulePlanner, settle, settled, understood
from diptych.planning.schema import Input, Intent, Look, Step
from diptych.request import TASKS, Plan, Product, RequestError, Role, Task
from diptych.settings import Settings

LIMITS = Settings(
    native=96,
    multiple=16,
    max_side=1024,
    sampler=SamplerConfig(num_steps=30, guidance_scale=3.0, image_guidance_scale=1.0),
    tasks=frozenset({Task.ANSWER, Task.TEXT_TO_IMAGE, Task.EDIT}),
)
ALONG_EDGES = replace(
    LIMITS, tasks=frozenset({Task.TEXT_TO_IMAGE, Task.CONTROL_TO_IMAGE}), controls=("edges",)
)


def plan(text: str, media: int | list[Attached] = 0, settings: Settings = LIMITS, **overrides: Any) -> Plan:
    """What the rules make of a request of one step."""
    (found,) = understood(settings, text, media, planner=RulePlanner(settings.free), **overrides).plans
    return found


@pytest.mark.parametrize(
    ("text", "pictures", "task"),
    [
        ("two cats above a red heart", 0, Task.TEXT_TO_IMAGE),
        ("draw a dog", 0, Task.TEXT_TO_IMAGE),
        ("Make me a cat", 0, Task.TEXT_TO_IMAGE),
        ("make two cats", 0, Task.TEXT_TO_IMAGE),
        ("show me a tree on a mint background", 0, Task.TEXT_TO_IMAGE),
        ("draw a new cat", 1, Task.TEXT_TO_IMAGE),
        ("how many cats are there?", 1, Task.ANSWER),
        ("is there a dog?", 1, Task.ANSWER),
        ("describe the picture", 1, Task.ANSWER),
        ("count the apples", 1, Task.ANSWER),
        ("remove the heart", 1, Task.EDIT),
        ("add a cat", 1, Task.EDIT),
        ("make the red heart blue", 1, Task.EDIT),
        ("make the background mint", 1, Task.EDIT),
        ("use a mint background", 1, Task.EDIT),
        ("take the star away", 1, Task.EDIT),
        ("give the thumbs up a dark skin tone", 1, Task.EDIT),
        ("also draw a fish", 1, Task.EDIT),
        ("turn the cat into a dog", 1, Task.EDIT),
    ],
)
def test_task_is_understood(text: str, pictures: int, task: Task):
    assert plan(text, pictures).task is task


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        ("a cat, 128x96", "a cat", {"width": 128, "height": 96}),
        ("a cat at 128 by 96 pixels", "a cat", {"width": 128, "height": 96}),
        ("a cat, seed 7", "a cat", {"seed": 7}),
        ("a cat with seed 7 and 20 steps", "a cat", {"seed": 7, "steps": 20}),
        ("three pictures of a cat", "a cat", {"count": 3}),
        ("draw 4 versions of a red heart", "draw a red heart", {"count": 4}),
        ("a wide picture of a cat", "a picture of a cat", {"width": 112, "height": 80}),
        ("a cat without a dog", "a cat", {"negative_prompt": "a dog"}),
        ("a cat, guidance 5", "a cat", {"guidance_scale": 5.0}),
        ("a picture of three cats", "a picture of three cats", {"count": 1}),
        ("the IBM logo, SEED 7", "the IBM logo", {"seed": 7}),
        ("Three Versions of a Cat Without a Dog", "a Cat", {"count": 3, "negative_prompt": "a Dog"}),
        ("a Wide Picture of a cat", "a Picture of a cat", {"width": 112, "height": 80}),
        ("a 3 x 4 grid of dots", "a 3 x 4 grid of dots", {"width": 96, "height": 96}),
        ("a 3x4 grid, 128x96", "a 3x4 grid", {"width": 128, "height": 96}),
        ("a 2 by 4 plank", "a 2 by 4 plank", {"width": 96}),
        ("a cat, size 16x8", "a cat", {"width": 16, "height": 16}),
        ("a cat 8x32 px", "a cat", {"width": 16, "height": 32}),
        ("Windows 3.1x64", "Windows 3.1x64", {"width": 96}),
    ],
)
def test_settings_are_taken_out_of_the_prompt(text: str, prompt: str, expected: dict):
    found = plan(text)
    assert found.prompt == prompt
    assert {key: getattr(found, key) for key in expected} == expected


def test_rounding_is_reported():
    found = plan("a cat, 100x70")
    assert (found.width, found.height) == (96, 64)
    assert "100x70 -> 96x64" in found.adjustments[0]


def test_defaults_are_filled_in():
    found = plan("a cat")
    assert (found.width, found.height, found.steps, found.guidance_scale) == (96, 96, 30, 3.0)


def test_an_unused_picture_is_told():
    found = plan("draw a cat", 1)
    assert found.inputs == (Role.UNUSED,)
    assert "not used" in found.adjustments[0]
    assert settle(found, LIMITS) == found


def test_a_picture_attached_to_a_drawing_is_the_control_picture_where_there_is_one():
    found = plan("draw a cat", 1, ALONG_EDGES, seed=0)
    assert found.task is Task.CONTROL_TO_IMAGE
    assert found.inputs == (Role.CONTROL,)
    assert found.adjustments == ("the attached picture is taken as the control picture (edges)",)
    asked = settle(Plan(task=Task.TEXT_TO_IMAGE, prompt="a cat", inputs=(Role.CONTROL,)), ALONG_EDGES)
    assert asked == replace(found, prompt="a cat", confidence=1.0, adjustments=())
    assert plan("draw a cat", 0, ALONG_EDGES).task is Task.TEXT_TO_IMAGE
    with pytest.raises(RequestError, match="2 pictures are attached, but this model draws along one"):
        plan("draw a cat", 2, ALONG_EDGES)
    with pytest.raises(RequestError, match="does not draw along an attached picture"):
        settle(Plan(task=Task.TEXT_TO_IMAGE, prompt="a cat", inputs=(Role.CONTROL,)), LIMITS)


@pytest.mark.parametrize("task", list(Task))
def test_every_task_is_planned_with_the_roles_that_it_takes(task: Task):
    limits = replace(LIMITS, tasks=frozenset(Task) - {Task.CONTROL_TO_IMAGE}, max_frames=9)
    limits = replace(limits, tasks=limits.tasks | {task})
    clip = TASKS[task].makes is Product.CLIP
    media = [Attached(kind="clip" if task is Task.EDIT_CLIP else "picture")]
    given = [] if task in (Task.TEXT_TO_IMAGE, Task.TEXT_TO_CLIP) else media
    found = plan("a cat", given, limits, task=task, frames=9 if clip else 1)
    assert found.task is task
    assert all(role in TASKS[task].takes for role in found.inputs)
    if TASKS[task].takes and task not in (Task.IMAGE_TO_CLIP, Task.INTERLEAVE):
        with pytest.raises(RequestError, match=r"needs a picture .*\(attach one\)"):
            plan("a cat", 0, limits, task=task)
    if TASKS[task].makes is not Product.TEXT:
        with pytest.raises(RequestError, match=r"frames must be 1( to 9)?, got 10"):
            settle(replace(found, frames=10), limits)


def test_further_pictures_of_an_edit_show_what_is_to_appear():
    free, roles = replace(LIMITS, free=True, max_media=3), (Role.SOURCE, Role.REFERENCE, Role.REFERENCE)
    for asked in ("put the hat on the cat", {}), ("what is this?", {"task": Task.EDIT}):
        found = plan(asked[0], 3, free, **asked[1])
        assert (found.task, found.inputs) == (Task.EDIT, roles)
    masked = [Attached(kind="picture", look=look) for look in (Look.MASK, Look.PHOTO, Look.PHOTO)]
    step = RulePlanner().plan(Request(text="remove the cat inside the mask", media=tuple(masked))).steps[0]
    assert [one.role for one in step.inputs] == [Role.MASK, Role.SOURCE, Role.REFERENCE]


def test_a_planner_that_names_two_sources_is_understood_likewise():
    class Twice:
        def plan(self, request: Request) -> Intent:
            both = tuple(Input(Role.SOURCE, number) for number in range(2))
            return Intent(steps=(Step(task=Task.EDIT, prompt=request.text, inputs=both),))

    (found,) = understood(replace(LIMITS, max_media=2), "add the hat", 2, planner=Twice()).plans
    assert found.inputs == (Role.SOURCE, Role.REFERENCE)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 to 100, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be 0 to 100, got nan"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 0.9}, "top_p has no effect where temperature is 0"),
        ({"max_tokens": 0}, "max_tokens must be 1 to 131072, got 0"),
        ({"stop": ("",)}, "stop holds an empty text"),
        ({"stop": ("\ud800",)}, "the stop text holds bytes that are no UTF-8 text"),
        ({"temperature": 1.0, "seed": -1}, "seed must be 0 or more and below 2^63, got -1"),
    ],
)
def test_how_an_answer_cannot_be_written_is_one_sentence(how, message):
    with pytest.raises(RequestError, match=re.escape(message)):
        understood(LIMITS, "what is this?", 1, **how)


@pytest.mark.parametrize("how", [{"temperature": 1.0}, {"stop": ["cat"]}, {"max_tokens": 3}])
def test_how_text_is_written_is_refused_where_none_is(how):
    with pytest.raises(RequestError, match=f"{next(iter(how))} has no effect on 'text-to-image'"):
        understood(LIMITS, "draw a cat", **how)


def test_an_answer_that_is_drawn_at_random_has_a_seed_and_shows_it():
    plain, drawn, again = (
        plan("what is this?", 1, **how) for how in ({}, {"temperature": 1}, {"temperature": 1, "seed": 7})
    )
    assert (plain.seed, again.seed) == (0, 7)
    assert drawn.seed
    assert "seed" not in plain.shown()
    assert drawn.shown()["seed"] == drawn.seed


def test_a_settled_answer_that_gets_a_temperature_gets_a_seed_and_keeps_it():
    course = understood(LIMITS, "what is this?", 1, planner=RulePlanner())
    (drawn,) = (drawn_course := settled(LIMITS, course, temperature=1.0)).plans
    assert drawn.seed
    assert settled(LIMITS, drawn_course, temperature=2.0).plans[0].seed == drawn.seed
    assert settled(LIMITS, course).plans[0].seed == 0


def test_words_that_are_no_text_reach_no_planner():
    for how in ({"request": "a \ud800"}, {"request": "a cat", "turns": ("a \ud800",)}):
        with pytest.raises(RequestError, match="holds bytes that are no UTF-8 text"):
            understood(LIMITS, planner=None, **how)


def test_roles_that_a_task_does_not_take_are_refused():
    with pytest.raises(RequestError, match="'edit' takes no control"):
        settle(Plan(task=Task.EDIT, prompt="a cat", inputs=(Role.CONTROL,)), LIMITS)
    with pytest.raises(RequestError, match="'edit' takes 1 source, got 0"):
        settle(Plan(task=Task.EDIT, prompt="a cat"), LIMITS)


@pytest.mark.parametrize(
    ("text", "pictures", "message"),
    [
        ("", 0, "empty"),
        ("   \n", 0, "empty"),
        ("a" * 100_000, 0, "100000 characters"),
        ("remove the heart", 0, "needs a picture to change"),
        ("how many cats are there?", 0, "needs a picture to look at"),
        ("which of the two pictures has a cat?", 1, "two pictures, but 1"),
        ("compare these pictures", 1, "two pictures, but 1"),
        ("remove the heart", 2, "2 pictures are attached"),
        ("a cat, 0x96", 0, "width must be 1 to 1024 px, got 0"),
        ("a cat, -5x96", 0, "width must be 1 to 1024 px, got -5"),
        ("a cat, 1000000000x96", 0, "got 1000000000"),
        ("a cat 64x64 96x96", 0, "two sizes"),
        ("a cat, seed 3, seed 4", 0, "two values for seed"),
        ("a wide picture of a cat, tall format", 0, "two shapes"),
        ("a cat, seed -1", 0, "seed must be 0"),
        ("a cat, 5000 steps", 0, "steps must be 1 to 1000"),
        ("999 pictures of a cat", 0, "count must be 1 to 64"),
    ],
)
def test_impossible_requests_get_one_clear_sentence(text: str, pictures: int, message: str):
    with pytest.raises(RequestError, match=message) as error:
        plan(text, pictures)
    assert "\n" not in str(error.value)


PICTURE, CLIP = Attached(kind="picture"), Attached(kind="clip")
EDGES, MASK = (Attached(kind="picture", look=look) for look in (Look.EDGES, Look.MASK))


@pytest.mark.parametrize(
    ("text", "media", "task", "roles"),
    [
        ("can you draw a cat?", [], Task.TEXT_TO_IMAGE, ""),
        ("Could you please remove the heart?", [PICTURE], Task.EDIT, "source"),
        ("don't edit anything, what is this?", [PICTURE], Task.ANSWER, "subject"),
        ("don't touch the dog, remove the cat", [PICTURE], Task.EDIT, "source"),
        ("read the text", [PICTURE], Task.ANSWER, "subject"),
        ("give me a caption", [PICTURE], Task.ANSWER, "subject"),
        ("a 3 second clip of a dog", [], Task.TEXT_TO_CLIP, ""),
        ("animate this picture", [PICTURE], Task.IMAGE_TO_CLIP, "first"),
        ("a video that ends with this picture", [PICTURE], Task.IMAGE_TO_CLIP, "last"),
        ("a video from one to the other", [PICTURE, PICTURE], Task.IMAGE_TO_CLIP, "first last"),
        ("draw a dog following these edges", [PICTURE, EDGES], Task.CONTROL_TO_IMAGE, "reference control"),
        ("draw this character on a beach", [PICTURE], Task.REFERENCE_TO_IMAGE, "reference"),
        ("remove the cat, only where the mask is white", [MASK, PICTURE], Task.EDIT, "mask source"),
        ("remove the cat", [CLIP], Task.EDIT_CLIP, "source"),
        ("what happens in the video?", [CLIP], Task.ANSWER, "subject"),
    ],
)
def test_the_baseline_tells_tasks_and_roles(text: str, media: list[Attached], task: Task, roles: str):
    step = RulePlanner().plan(Request(text=text, media=tuple(media))).steps[0]
    assert step.task is task
    assert " ".join(one.role.value for one in step.inputs) == roles


@pytest.mark.parametrize(
    ("text", "prompt", "said"),
    [
        ("a cat, 16:9", "a cat", {"aspect": (16, 9)}),
        ("a cat in 4K", "a cat", {"resolution": 2160}),
        ("a cat at 480p", "a cat", {"resolution": 480}),
        ("a cat, 512 pixels", "a cat", {"width": 512, "height": 512}),
        ("a phone wallpaper of a cat", "a wallpaper of a cat", {"aspect": (9, 16)}),
        ("a cat, 1024*768", "a cat", {"width": 1024, "height": 768}),
        ("a clip of a cat for 5 seconds at 12 fps", "a clip of a cat", {"seconds": 5.0, "fps": 12.0}),
        ("a video of a cat, 48 frames", "a video of a cat", {"frames": 48}),
        ("3 cats at 10:30", "3 cats at 10:30", {"aspect": None, "count": None}),
        ("can you draw a cat without a hat?", "draw a cat", {"negative_prompt": "a hat"}),
    ],
)
def test_the_baseline_reads_settings_in_words(text: str, prompt: str, said: dict):
    step = RulePlanner().plan(Request(text=text)).steps[0]
    assert step.prompt == prompt
    assert {key: getattr(step, key) for key in said} == said


def test_the_baseline_plans_two_steps():
    intent = RulePlanner().plan(Request(text="draw a cat, then animate it for 3 seconds"))
    assert [step.task for step in intent.steps] == [Task.TEXT_TO_IMAGE, Task.IMAGE_TO_CLIP]
    assert intent.steps[1].inputs == (Input(Role.FIRST, step=0),)
    assert (intent.steps[0].prompt, intent.steps[1].seconds) == ("draw a cat", 3.0)


@pytest.mark.parametrize(
    ("text", "prompt", "said"),
    [
        ("make it wider", "a cat", {"aspect": (4, 3), "seed": 7}),
        ("the same at night", "a cat, at night", {"aspect": None}),
        ("another one", "a cat", {"seed": 7}),
        ("a dog", "a dog", {"seed": None}),
    ],
)
def test_a_turn_changes_what_was_asked_for_before(text: str, prompt: str, said: dict):
    step = RulePlanner().plan(Request(text=text, turns=("hello", "a cat, seed 7"))).steps[0]
    assert step.task is Task.TEXT_TO_IMAGE
    assert step.prompt == prompt
    assert {key: getattr(step, key) for key in said} == said


def test_what_draws_from_words_alone_takes_no_media():
    found = [task for task, facts in TASKS.items() if facts.draws_from_words]
    assert found == [Task.TEXT_TO_IMAGE, Task.TEXT_TO_CLIP]


@pytest.mark.parametrize(
    "piece", ["0", "without \n", "seed 1", "1x", " 2 steps", "? ", ", in ", "three pictures of ", "take "]
)
def test_a_long_text_is_understood_in_time(piece):
    """No rule looks at a text once for each of its characters."""
    free = replace(LIMITS, free=True, max_text=2**18)
    text = (piece * 2**18)[: 2**18 - 1]
    begun = time.process_time()
    with contextlib.suppress(RequestError):
        assert plan(text, settings=free).prompt
    assert time.process_time() - begun < 5


def test_free_words_go_to_the_model_as_they_are():
    free = replace(LIMITS, free=True, tasks=LIMITS.tasks | {Task.INTERLEAVE})
    said = "A Cat,\nwithout a hat."
    assert plan(said, settings=free).prompt == said
    assert plan("Why is  the sky blue?", settings=free).prompt == "Why is  the sky blue?"
    assert plan("Why is  the sky blue?", settings=free).task is Task.ANSWER
    cut = plan("A Red Cat, 64X32, Seed 7", settings=free)
    assert (cut.prompt, cut.width, cut.height, cut.seed) == ("A Red Cat", 64, 32, 7)
    story = plan("Show it in 3 steps", settings=free, task=Task.INTERLEAVE, seed=5)
    assert (story.prompt, story.steps, story.seed) == ("Show it in 3 steps", 30, 5)


@pytest.mark.parametrize("words", ["hello", "Hi there!", "谢谢", "¡Hola!", "Danke schön."])
def test_a_greeting_is_talk_where_a_model_talks_and_a_picture_where_one_is_asked_for(words):
    free = replace(LIMITS, free=True)
    assert understood(free, words).plans[0].task is Task.ANSWER
    assert understood(free, words, task="text-to-image").plans[0].task is Task.TEXT_TO_IMAGE
