"""What plain words say of a request, whatever a model makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.planning import agree, evidence
from diptych.planning.greetings import greets
from diptych.planning.labels import TASKS
from diptych.planning.schema import Attached, Control, Step
from diptych.planning.turns import continued, lasting, moving, undoes
from diptych.request import Task

PHOTO, CLIP = Attached(kind="picture"), Attached(kind="clip", frames=8)


def _best(text, media, *tasks):
    """Of tasks that are as likely, the one that the words decide for."""
    scores = np.array([0.0 if task in tasks else -99.0 for task in TASKS], np.float32)
    # the first one is a little likelier
    scores[TASKS.index(tasks[0])] += 1.0
    return TASKS[int(evidence.weighed(scores, text, media).argmax())]


@pytest.mark.parametrize(
    ("text", "media", "doubtful", "right"),
    [
        ("a robot, like a 1950s poster", (), Task.TEXT_TO_CLIP, Task.TEXT_TO_IMAGE),
        ("an owl with a hat", (), Task.INTERLEAVE, Task.TEXT_TO_IMAGE),
        ("zeichne eine Eule", (), Task.EDIT, Task.TEXT_TO_IMAGE),
        ("a knight beside his horse", (), Task.REFERENCE_TO_IMAGE, Task.TEXT_TO_IMAGE),
        ("ein Standbild von einem Boot", (), Task.TEXT_TO_CLIP, Task.TEXT_TO_IMAGE),
        ("what breed is that dog?", (PHOTO,), Task.EDIT, Task.ANSWER),
        ("这里有几只猫？", (PHOTO,), Task.EDIT, Task.ANSWER),
        ("¿puede pasar a vídeo esta foto?", (PHOTO,), Task.ANSWER, Task.IMAGE_TO_CLIP),
        ("hello!", (), Task.TEXT_TO_IMAGE, Task.ANSWER),
        ("ignora la imagen: dibuja un faro", (PHOTO,), Task.EDIT, Task.TEXT_TO_IMAGE),
    ],
)
def test_words_decide_between_tasks(text, media, doubtful, right):
    assert _best(text, media, doubtful, right) is right


def test_a_form_of_question_that_wishes_for_something_asks_for_nothing():
    assert not evidence.asks("could you draw a cat?")
    assert not evidence.asks("what would it look like in motion?")
    assert evidence.asks("hi, how many cats are there?")
    assert greets("Guten Morgen!")
    assert greets("thanks a lot")
    assert not greets("good morning in a village")


def test_a_clip_that_is_spoken_of_is_missed_where_a_picture_is():
    assert evidence.wanted((), "what happens at the end of this video?", (PHOTO,)) == {"clip"}
    assert evidence.wanted((), "what happens at the end of this video?", (CLIP,)) == set()
    assert evidence.wanted({"clip"}, "quita el cartel de la película", (PHOTO,)) == set()
    assert evidence.wanted((), "what is this video game called?", (PHOTO,)) == set()
    assert evidence.wanted((), "put on the hat of the second photo", (PHOTO,)) == {"reference"}
    assert evidence.wanted((), "what does the attached sign say?", ()) == {"subject"}


def test_what_is_followed_is_what_the_words_call_it():
    assert evidence.held("I scribbled this, finish it", Control.EDGES) is Control.LINES
    assert evidence.held("the edges of this sketch", Control.EDGES) is Control.EDGES
    assert evidence.held("these trajectories", Control.PATHS) is Control.PATHS


def test_a_request_of_no_words_for_a_subject_says_nothing():
    assert evidence.says_nothing("帮我画张图")
    assert evidence.says_nothing("buatkan video detik")
    assert not evidence.says_nothing("buatkan video kucing")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("narysuj latarnię morską", "und"),
        ("hoeveel mensen staan er op het perron?", "und"),
        ("a café in Malmö", "en"),
    ],
)
def test_a_language_is_known_by_letters_and_small_words(text, language):
    assert agree.written(text, "en") == language


def test_steps_are_told_apart_by_words_between_them():
    text = "remove the dog, then make it night, then animate it and describe it"
    assert agree.clauses(text) == ["remove the dog", "make it night", "animate it", "describe it"]
    assert agree.clauses("draw a cat, then animate it") == ["draw a cat, then animate it"]
    assert agree.clauses("a cat, then a dog, then a bird") == ["a cat, then a dog, then a bird"]
    assert agree.straightened("animate it once that is done: add a hat") == "add a hat, then animate it"
    assert agree.straightened("animate it when it rains") == "animate it when it rains"


def test_turns_undo_lengthen_widen_and_set_in_motion():
    drawn = Step(task=Task.TEXT_TO_IMAGE, prompt="a cat", aspect=(16, 9), seed=7)
    wider = continued(drawn, Step(task=Task.TEXT_TO_IMAGE, prompt="", aspect=(4, 3)), "make it wider")
    assert wider.aspect == (21, 9)
    shape = continued(drawn, Step(task=Task.TEXT_TO_IMAGE, prompt="", aspect=(4, 3)), "in 4:3")
    assert shape.aspect == (4, 3)
    four = Step(task=Task.TEXT_TO_IMAGE, prompt="", count=4)
    assert continued(drawn, four, "four of them now").seed == 7
    assert continued(drawn, four, "four more").seed is None
    assert moving(Task.TEXT_TO_IMAGE) is Task.TEXT_TO_CLIP
    assert evidence.moves("now as a video")
    clip = Step(task=Task.TEXT_TO_CLIP, prompt="a cat", seconds=4)
    assert lasting(clip, "longer please").seconds == 8
    assert lasting(clip, "etwas kürzer").seconds == 2
    assert lasting(drawn, "longer") is None
    assert lasting(clip, "longer hair") is None
    assert undoes("undo")
    assert undoes("撤销")
    assert not undoes("undo the knot")
