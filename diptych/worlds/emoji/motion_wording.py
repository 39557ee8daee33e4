"""What happens in clips, in wide words: five languages, with families of wordings that are held out of
training. The plain words are in `motion_words`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diptych.worlds.emoji import wording
from diptych.worlds.emoji.captions import counted
from diptych.worlds.emoji.edits import Edit
from diptych.worlds.emoji.motion import Act, Story
from diptych.worlds.emoji.motion_words import ClipAsked, told
from diptych.worlds.emoji.questions import Question
from diptych.worlds.emoji.scene import EmojiWorld
from diptych.worlds.emoji.wording import thing, tongue_for
from diptych.worlds.emoji.words import Tongue
from diptych.worlds.emoji.words.grammar import Clause, Colour, Frames, Several, Shown, Speakable, pick
from diptych.worlds.emoji.words.moving import Moving
from diptych.worlds.emoji.words.moving_chinese import CHINESE_MOVING
from diptych.worlds.emoji.words.moving_english import ENGLISH_MOVING
from diptych.worlds.emoji.words.moving_german import GERMAN_MOVING
from diptych.worlds.emoji.words.moving_indonesian import INDONESIAN_MOVING
from diptych.worlds.emoji.words.moving_spanish import SPANISH_MOVING

MOVING: dict[str, Moving] = {
    words.code: words
    for words in (ENGLISH_MOVING, SPANISH_MOVING, GERMAN_MOVING, INDONESIAN_MOVING, CHINESE_MOVING)
}
_PLAINEST: Any = wording._PLAIN


class Wide:
    """Wide words for shots; `held`: in ways of saying that no training has."""

    def __init__(self, world: EmojiWorld, rng: np.random.Generator, held: bool = False) -> None:
        self.world, self.rng, self.held = world, rng, held

    def told(self, story: Story, along: bool = False) -> str:
        tongue, moving = _languages(self.world, story.names, self.rng)
        named = {name: thing(tongue, self.world, name, 1, self.rng) for name in story.names}
        clause = _told(story, named, tongue, moving, self.rng, self.held)
        frames = tongue.along if along else moving.clip
        text = frames.pick(self.rng, self.held).format(x=clause)
        return wording._finished(tongue, text, self.rng)

    def ordered(self, story: Story, shown: str | None = None) -> str:
        tongue, moving = _languages(self.world, story.names, self.rng)
        new = [act.name for act in story.acts if act.type == "appear"]
        named: dict[str, Speakable] = {
            name: thing(tongue, self.world, name, 1, self.rng, "" if shown or name in new else "the")
            for name in story.names
        }
        if shown is not None:
            named[shown] = Shown(tongue.this[1].pick(self.rng, self.held))
            text = _told(story, named, tongue, moving, self.rng, self.held)
        elif len(story.acts) == 1 and self.rng.random() < 0.5:
            frames = moving.orders[story.acts[0].type]
            text = _clause(story.acts[0], named, frames, moving, self.rng, self.held)
        else:
            text = _acts(story, named, moving, self.rng, self.held)
        return wording._finished(tongue, text, self.rng)

    def changed(self, edit: Edit, masked: bool = False) -> str:
        if edit.type != "backwards":
            said = wording.masked_instruction if masked else wording.instruction
            return said(self.world, edit, self.rng, self.held)
        tongue, moving = _languages(self.world, (), self.rng)
        return wording._finished(tongue, moving.backwards.pick(self.rng, self.held), self.rng)


def _languages(world: EmojiWorld, names: Sequence[str], rng: np.random.Generator) -> tuple[Tongue, Moving]:
    tongue = tongue_for(world, names, rng)
    return tongue, MOVING[tongue.code]


def _clause(
    act: Act,
    named: Mapping[str, Speakable],
    frames: Frames,
    moving: Moving,
    rng: np.random.Generator,
    held: bool,
) -> str:
    slots: dict[str, Any] = {"a": named[act.name]}
    if act.other:
        slots["b"] = named[act.other]
    if act.way:
        slots["w"] = pick(rng, moving.ways[act.way])
    if act.type == "jump":
        slots["t"] = pick(rng, moving.times[act.times - 1])
    return " ".join(frames.pick(rng, held).format(**slots).split())


def _acts(
    story: Story, named: Mapping[str, Speakable], moving: Moving, rng: np.random.Generator, held: bool
) -> str:
    clauses = [_clause(act, named, moving.acts[act.type], moving, rng, held) for act in story.acts]
    if len(clauses) == 1:
        return clauses[0]
    return moving.then.pick(rng, held).format(x=clauses[0], y=clauses[1])


def _told(
    story: Story,
    named: Mapping[str, Speakable],
    tongue: Tongue,
    moving: Moving,
    rng: np.random.Generator,
    held: bool,
) -> str:
    """All that there is to be, and what it does."""
    text = _acts(story, named, moving, rng, held)
    if story.others:
        others = Several(tongue, tuple(named[name] for name in story.others), rng)
        text = moving.beside.pick(rng, held).format(x=text, b=others)
    if story.background:
        colour = Colour(tongue, pick(rng, tongue.backgrounds[story.background]))
        text = format(Clause(tongue.on.pick(rng, held), {"x": text, "c": colour}))
    return text


def question(world: EmojiWorld, asked: ClipAsked, rng: np.random.Generator, held: bool = False) -> Question:
    """A question about a clip in wide words; it is answered in its own language."""
    act = asked.act
    names = [name for name in (*act.actors, asked.second) if name]
    tongue, moving = _languages(world, [*names, *(asked.story.names if asked.story else ())], rng)
    slots: dict[str, Any] = {"v": pick(rng, moving.verbs.get(act.type, ("",)))}
    pair = [thing(tongue, world, name, 1, rng) for name in (act.name, asked.second) if name]
    if len(pair) > 1 and rng.random() < 0.5:
        pair.reverse()
    slots |= zip("ab", pair, strict=False)
    text = moving.questions[asked.type].pick(rng, held).format(**slots)
    return Question(
        asked.type, wording._finished(tongue, text, rng), _answer(tongue, moving, world, asked), tongue.code
    )


def _answer(tongue: Tongue, moving: Moving, world: EmojiWorld, asked: ClipAsked) -> str:
    act = asked.act
    if asked.type == "where to":
        return moving.to[act.way]
    if asked.type == "how often":
        return moving.often[act.times - 1]
    if asked.story is None:
        if tongue.code == "en":
            return counted(world.kinds[act.name], 1)
        return format(thing(tongue, world, act.name, 1, _PLAINEST))
    if tongue.code == "en":
        return told(asked.story)
    named = {name: thing(tongue, world, name, 1, _PLAINEST) for name in asked.story.names}
    return _told(asked.story, named, tongue, moving, _PLAINEST, held=False)
