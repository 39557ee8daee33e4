"""Numbers beside the words that say what they are: a check of what a planner has marked."""

from __future__ import annotations

import pytest

from diptych.planning.beside import checked
from diptych.planning.data.compose import sample
from diptych.planning.spans import Span, fields
from diptych.request import TASKS, Product, Task


def _said(text, *marked, task=Task.TEXT_TO_IMAGE, language="en"):
    """Fields of what is marked, each given as (words, kind)."""
    spans = sorted(Span(text.index(words), text.index(words) + len(words), kind) for words, kind in marked)
    clip = TASKS[task].makes is Product.CLIP
    return fields(text, checked(text, spans, TASKS[task].draws_from_words, clip, language), task)


@pytest.mark.parametrize(
    ("text", "marked", "name", "value"),
    [
        ("a cat, 64x48, 2 steps", ("2", "count"), "steps", 2),
        ("ein Hund, 30 Schritte", ("30", "frames"), "steps", 30),
        ("un perro, veinte pasos", ("veinte", "count"), "steps", 20),
        ("seekor anjing, 20 langkah", ("20", "seed"), "steps", 20),
        ("一只狗，20步", ("20", "count"), "steps", 20),
        ("a cat, seed -1", ("1", "count"), "seed", -1),
        ("un gato, semilla 5", ("5", "count"), "seed", 5),
        ("a dog, 500 px", ("500", "count"), "width", 500),
    ],
)
def test_a_number_is_of_the_unit_beside_it(text, marked, name, value):
    said, clashes = _said(text, marked)
    assert said[name] == value
    assert not clashes
    assert "count" not in said


@pytest.mark.parametrize(
    ("text", "kind", "task"),
    [
        ("a cat, 20 steps", "steps", Task.TEXT_TO_IMAGE),
        ("a clip of a cat, 12 fps", "fps", Task.TEXT_TO_CLIP),
        ("a clip of a cat, twelve frames", "frames", Task.TEXT_TO_CLIP),
        ("a clip of a cat, 4 Sekunden", "seconds", Task.TEXT_TO_CLIP),
    ],
)
def test_a_setting_that_stands_alone_is_found(text, kind, task):
    assert _said(text, ("cat", "prompt"), task=task)[0][kind]


def test_what_counts_in_a_scene_is_no_setting():
    text = "draw a staircase of exactly 14 steps leading into the sea"
    said, _ = _said(text, ("a staircase of exactly", "prompt"), ("14", "steps"), ("the sea", "prompt"))
    assert said == {"prompt": "a staircase of exactly 14 steps leading into the sea"}
    said, _ = _said("we turn 40 this year: a cat", ("40", "guidance"), ("a cat", "prompt"))
    assert said == {"prompt": "a cat"}
    text = 'a sign that says "20 steps"'
    assert _said(text, (text, "prompt"))[0] == {"prompt": text}


def test_what_is_denied_is_seen_and_what_is_only_talk_is_not():
    said, _ = _said("a man, 512 pixels, no beard", ("a man", "prompt"), ("512", "side"))
    assert (said["negative_prompt"], said["width"]) == ("beard", 512)
    for text in ("a man, no rush", "a man, no worries", "no stills! a man", "un hombre, no sé cómo"):
        language = "es" if "hombre" in text else "en"
        assert (
            "negative_prompt"
            not in _said(text, ("man" if "man" in text else "un", "prompt"), language=language)[0]
        )
    assert "negative_prompt" not in _said("a man no rush", ("a man", "prompt"), ("rush", "negative"))[0]


def test_two_shapes_beside_one_another_contradict_each_other():
    assert _said("a square 16:9 cat", ("16:9", "aspect"))[1] == ("aspect",)
    assert _said("a square 16:9 cat", ("square 16:9", "aspect"))[1] == ("aspect",)
    assert _said("a cat, 16:9 and 9:16", ("16:9", "aspect"))[1] == ("aspect",)
    assert _said("a square table, 16:9", ("16:9", "aspect"))[1] == ()


def test_a_prompt_keeps_its_words_and_loses_those_of_settings():
    assert _said("a plain still of a cat", ("a plain", "prompt"), ("a cat", "prompt"))[0] == {
        "prompt": "a plain still of a cat"
    }
    said, _ = _said("3 dogs at 50 steps", ("3 dogs at", "prompt"), ("50", "steps"))
    assert said == {"prompt": "3 dogs", "steps": 50}


def test_planning_data_says_what_its_words_say():
    """What was written to say a setting is not taken for another one."""
    wrong = []
    for number in range(150):
        found = sample(21, number)
        for place, step in enumerate(found.intent.steps):
            if TASKS[step.task].writes:
                continue
            facts, text = TASKS[step.task], found.request.text
            clip = facts.makes is Product.CLIP
            spans = checked(text, found.spans, facts.draws_from_words, clip, found.intent.language)
            before, after = (
                fields(text, [span for span in some if span.step == place], step.task)
                for some in (found.spans, spans)
            )
            before[0].pop("prompt"), after[0].pop("prompt")
            wrong += [text] if before != after else []
    assert len(wrong) <= 2, wrong
