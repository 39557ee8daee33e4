"""Plain words for what happens in a clip: told, ordered, asked and read back.

Wide words are in `motion_wording`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from diptych.worlds.emoji.captions import counted, join, with_article
from diptych.worlds.emoji.motion import Act, Story
from diptych.worlds.emoji.names import BACKGROUNDS
from diptych.worlds.emoji.questions import Question
from diptych.worlds.emoji.scene import EmojiWorld
from diptych.worlds.emoji.words.grammar import pick

CLIP_QUESTIONS = ("what acts", "where to", "how often", "what first", "what happens")
TO = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
OFTEN = ("", "once", "twice", "three times")
_VERBS = {
    "move": "moves",
    "jump": "jumps",
    "appear": "appears",
    "vanish": "vanishes",
    "grow": "grows",
    "shrink": "shrinks",
    "swap": "swap places",
}


def told(story: Story) -> str:
    """The plain caption: 'first a cat jumps once, then a dog vanishes beside a car on a mint background'."""
    text = _acts([_clause(act, [with_article(name) for name in act.actors]) for act in story.acts])
    if story.others:
        text += f" beside {join([with_article(name) for name in story.others])}"
    return f"{text} on {with_article(story.background)} background" if story.background else text


def ordered(story: Story, shown: str | None = None) -> str:
    """What the things of a picture are to do: 'the cat jumps once'. What appears is not there yet.

    `shown`: the thing of a reference picture, which is not named; the picture shows nothing else, so all
    that there is to be is told.
    """

    def named(act: Act | None, name: str) -> str:
        if name == shown:
            return "this"
        new = shown is not None or (act is not None and act.type == "appear")
        return with_article(name) if new else f"the {name}"

    text = _acts([_clause(act, [named(act, name) for name in act.actors]) for act in story.acts])
    if shown is not None and story.others:
        text += f" beside {join([named(None, name) for name in story.others])}"
    if shown is not None and story.background:
        text += f" on {with_article(story.background)} background"
    return text


def _acts(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"first {clauses[0]}, then {clauses[1]}"


def _clause(act: Act, actors: list[str]) -> str:
    text = f"{join(actors)} {_VERBS[act.type]}"
    return text + {"move": f" {TO.get(act.way)}", "jump": f" {OFTEN[act.times]}"}.get(act.type, "")


def parse_told(world: EmojiWorld, text: str) -> Story | None:
    """The facts of a plain caption, or None where it is not one. Inverse of `told`."""
    text = text.lower().strip().rstrip(".")
    background = None
    if found := re.search(r" on an? (.+) background$", text):
        background, text = found[1], text[: found.start()]
        if background not in BACKGROUNDS:
            return None
    text, _, beside = text.partition(" beside ")
    clauses = [text]
    if text.startswith("first "):
        clauses = text.removeprefix("first ").split(", then ")
        if len(clauses) != 2:
            return None
    acts = [_parse_clause(world, clause) for clause in clauses]
    others = [_noun(world, part) for part in re.split(r", | and ", beside)] if beside else []
    if any(act is None for act in acts) or any(name is None for name in others):
        return None
    done = tuple(act for act in acts if act is not None)
    names = [name for act in done for name in act.actors] + [name for name in others if name is not None]
    return Story(tuple(names), done, background) if len(set(names)) == len(names) else None


def _parse_clause(world: EmojiWorld, text: str) -> Act | None:
    for type, verb in _VERBS.items():
        who, found, rest = text.partition(f" {verb}")
        if not found:
            continue
        names = [_noun(world, part) for part in who.split(" and ")]
        rest = rest.strip()
        if None in names or len(names) != (2 if type == "swap" else 1):
            return None
        name, other = [*names, ""][:2]
        assert name is not None
        if type == "move":
            way = next((way for way, words in TO.items() if words == rest), None)
            return Act(type, name, way) if way else None
        if type == "jump":
            return Act(type, name, times=OFTEN.index(rest)) if rest in OFTEN[1:] else None
        return None if rest else Act(type, name, other=other or "")
    return None


def _noun(world: EmojiWorld, text: str) -> str | None:
    article, _, noun = text.partition(" ")
    return noun if article in ("a", "an", "one") and noun in world.kinds else None


@dataclass(frozen=True)
class ClipAsked:
    """What is asked of a clip, before it is put into words: of which act, and what is true of it."""

    type: str
    act: Act
    second: str = ""
    """Of 'what first': the other thing that may have been the first."""
    story: Story | None = None
    """What a description has to say."""


def choose(story: Story, type: str, rng: np.random.Generator) -> ClipAsked | None:
    """What a question of the type may ask of a clip; None where it has no single right answer."""
    act = pick(rng, story.acts)
    if type == "what acts":
        # of two things that do the same, none is the one that does it
        alone = len(story.acts) == 1 or story.acts[0].type != story.acts[1].type
        return ClipAsked(type, act) if alone and act.type != "swap" else None
    if type == "where to":
        return ClipAsked(type, act) if act.type == "move" else None
    if type == "how often":
        return ClipAsked(type, act) if act.type == "jump" and len(story.acts) == 1 else None
    if type == "what first":
        names = [act.name for act in story.acts]
        return ClipAsked(type, story.acts[0], names[1]) if len(names) == 2 else None
    if type == "what happens":
        # the background is asked of pictures
        return ClipAsked(type, act, story=replace(story, background=None))
    raise ValueError(f"question type must be one of {', '.join(CLIP_QUESTIONS)}, got {type!r}")


def plain(world: EmojiWorld, asked: ClipAsked, rng: np.random.Generator) -> Question:
    """What is asked, in the benchmark's words."""

    def put(answer: str, *options: str) -> Question:
        return Question(asked.type, pick(rng, options), answer)

    act = asked.act
    verb = _VERBS[act.type]
    thing = counted(world.kinds[act.name], 1)
    if asked.type == "what acts":
        return put(thing, f"what {verb}?", f"which thing {verb}?")
    if asked.type == "where to":
        return put(TO[act.way], f"where does the {act.name} move to?", f"which way does the {act.name} move?")
    if asked.type == "how often":
        return put(
            OFTEN[act.times],
            f"how often does the {act.name} jump?",
            f"how many times does the {act.name} jump?",
        )
    if asked.type == "what first":
        pair = [act.name, asked.second]
        one, other = pair if rng.random() < 0.5 else pair[::-1]
        return put(thing, f"what is first, the {one} or the {other}?")
    assert asked.story is not None
    return put(told(asked.story), "what happens?", "describe the clip", "what does the clip show?")


def judge_clip_answer(world: EmojiWorld, question: Question, answer: str) -> bool:
    """Whether an answer is right: the same words, or, for a description, the same facts: what happens, in its
    order, beside all that is there."""
    given = answer.strip().lower().rstrip(".。")
    if given == question.answer:
        return True
    if question.language != "en" or question.type != "what happens":
        return False
    said, true = parse_told(world, given), parse_told(world, question.answer)
    if said is None or true is None or said.background != true.background:
        return False
    return _unordered(said) == _unordered(true) and set(said.names) == set(true.names)


def _unordered(story: Story) -> list[tuple[object, ...]]:
    """The acts in their order; the two that swap in any."""
    return [(act.type, frozenset(act.actors), act.way, act.times) for act in story.acts]
