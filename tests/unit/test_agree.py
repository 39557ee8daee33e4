"""Labels of a planner that do not fit one another, or what is attached."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diptych.planning import agree
from diptych.planning.labels import ROLES, TASKS
from diptych.planning.schema import Attached, Look
from diptych.request import Role, Task

PHOTO, CLIP = Attached(kind="picture"), Attached(kind="clip", frames=8)
MASK = Attached(kind="picture", look=Look.MASK)


def _tasks(**given: float) -> np.ndarray:
    scores = np.full(len(TASKS), -9.0, np.float32)
    for name, score in given.items():
        scores[TASKS.index(Task[name])] = score
    return scores


def _roles(*rows: dict[Role, float]) -> np.ndarray:
    return np.array([[row.get(role, -9.0) for role in ROLES] for row in rows], np.float32)


def _best(scores: np.ndarray) -> Task:
    return TASKS[int(scores.argmax())]


@pytest.mark.parametrize(
    ("media", "meant", "task"),
    [
        ((CLIP,), False, Task.EDIT_CLIP),
        ((PHOTO,), False, Task.EDIT),
        ((PHOTO,), True, Task.EDIT_CLIP),
        ((CLIP, PHOTO), False, Task.EDIT_CLIP),
    ],
)
def test_a_change_is_of_what_is_attached(media, meant, task):
    scores = _tasks(EDIT=1.0 if len(media) == 1 else 0.0, EDIT_CLIP=1.0 if len(media) == 2 else 0.9)
    assert _best(agree.fitting(scores, media, meant)) is task


def test_words_that_say_no_medium_need_none():
    assert _best(agree.fitting(_tasks(EDIT=0.5, TEXT_TO_IMAGE=0.0), (), False)) is Task.TEXT_TO_IMAGE
    assert _best(agree.fitting(_tasks(EDIT=5.0, TEXT_TO_IMAGE=0.0), (), False)) is Task.EDIT


def test_two_media_are_not_both_the_source():
    scores = _roles({Role.SOURCE: 3.0, Role.REFERENCE: 2.0}, {Role.SOURCE: 2.5, Role.REFERENCE: 0.0})
    assert agree.roles(scores, Task.EDIT, (PHOTO, PHOTO)) == [Role.REFERENCE, Role.SOURCE]


def test_what_looks_like_a_mask_is_one():
    scores = _roles({Role.SOURCE: 1.0, Role.MASK: 1.0}, {Role.SOURCE: 1.0, Role.MASK: 1.0})
    assert agree.roles(scores, Task.EDIT, (MASK, PHOTO)) == [Role.MASK, Role.SOURCE]


def test_media_in_another_order_have_the_same_roles():
    media = (PHOTO, MASK, CLIP)
    rows = [{Role.SOURCE: 1.0, Role.REFERENCE: 0.7}, {Role.MASK: 2.0}, {Role.SOURCE: 1.2, Role.MASK: 1.0}]
    given = dict(zip(media, agree.roles(_roles(*rows), Task.EDIT_CLIP, media), strict=True))
    for order in itertools.permutations(range(3)):
        shown = tuple(media[n] for n in order)
        found = agree.roles(_roles(*(rows[n] for n in order)), Task.EDIT_CLIP, shown)
        assert dict(zip(shown, found, strict=True)) == given


def test_a_second_step_is_done_with_what_the_first_makes():
    scores = _tasks(TEXT_TO_CLIP=9.0, EDIT=1.0, IMAGE_TO_CLIP=0.0, EDIT_CLIP=-1.0)
    assert _best(agree.following(scores, Task.TEXT_TO_IMAGE, "then animate it")) is Task.IMAGE_TO_CLIP
    assert _best(agree.following(scores, Task.TEXT_TO_IMAGE, "dann mach es dunkler")) is Task.EDIT
    assert _best(agree.following(scores, Task.TEXT_TO_CLIP, "then make it darker")) is Task.EDIT_CLIP


def test_motion_of_the_second_step_is_none_of_the_first():
    scores = _tasks(TEXT_TO_CLIP=2.0, TEXT_TO_IMAGE=0.0)
    assert _best(agree.leading(scores, "draw a cat", "and animate it")) is Task.TEXT_TO_IMAGE
    assert _best(agree.leading(scores, "film a cat", "and animate it")) is Task.TEXT_TO_CLIP


@pytest.mark.parametrize(
    ("text", "guess", "language"),
    [
        ("нарисуй кота", "en", "und"),
        ("猫の動画", "zh", "und"),
        ("고양이를 그려줘", "zh", "und"),
        ("画一只猫", "id", "zh"),
        ("4K，480p，清晨的渔港", "id", "zh"),
        ("a cat", "en", "en"),
        ("a cat", "zh", "und"),
        ('draw a sign that says "猫"', "en", "en"),
    ],
)
def test_a_script_says_the_language(text, guess, language):
    assert agree.written(text, guess) == language


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("remove the dog, then turn it into a 5 second video", "then"),
        ("zeichne einen Hund und dann mach daraus ein Video", "und dann"),
        ("quita el perro y luego anímalo", "y luego"),
        ("画一只猫，然后做成视频", "然后"),
        ("hapus anjingnya lalu jadikan video", "lalu"),
        ("a video of a dog, then turn it into a cat video", ""),
        ("draw a dog, then a cat", ""),
        ("make the dog move, then make it a film", ""),
    ],
)
def test_what_is_moved_after_something_else_is_a_second_step(text, there):
    found = agree.moved_after(text)
    assert found == (text.index(there) if there else None)
