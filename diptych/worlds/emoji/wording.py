"""Facts in wide words: requests, instructions and questions as people put them, in five languages.

The plain words of `captions`, `edits` and `questions` are what the benchmark asks with; these are as wide as
what a newcomer might say. Ways of saying are held out by families, see `words.grammar.Frames`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.worlds.emoji.captions import caption, counted
from diptych.worlds.emoji.edits import Edit
from diptych.worlds.emoji.names import tone_base
from diptych.worlds.emoji.questions import Asked, Question
from diptych.worlds.emoji.scene import OPPOSITE, EmojiWorld, Wanted
from diptych.worlds.emoji.words import TONGUES, Tongue
from diptych.worlds.emoji.words.grammar import Clause, Colour, Noun, Several, Shown, Speakable, Thing, pick

ENGLISH_SHARE = 0.6
"""The other languages share the rest."""


class _Plain:
    """A generator of random numbers that always chooses the first: the plainest words."""

    def integers(self, high: int) -> int:
        return 0

    def random(self) -> float:
        return 1.0


_PLAIN: Any = _Plain()


def tongue_for(world: EmojiWorld, names: Sequence[str], rng: np.random.Generator) -> Tongue:
    """A language that has words for all of these kinds; English has for any."""
    others = [code for code in TONGUES if code != "en"]
    chosen = TONGUES["en" if rng.random() < ENGLISH_SHARE else pick(rng, others)]
    return chosen if all(_nouns(chosen, world, name) for name in names) else TONGUES["en"]


def _nouns(tongue: Tongue, world: EmojiWorld, name: str) -> tuple[Noun, ...]:
    kind = world.kinds[name]
    if name in tongue.nouns:
        return tongue.nouns[name]
    if kind.shape and kind.shape in tongue.shapes and kind.colour in tongue.colours:
        return tongue.shapes[kind.shape]
    return (Noun(kind.name, kind.plural),) if tongue.code == "en" else ()


def thing(
    tongue: Tongue,
    world: EmojiWorld,
    name: str,
    count: int,
    rng: np.random.Generator,
    spec: str = "",
    coloured: bool = True,
) -> Thing:
    """A kind of the world as a thing to speak of; `coloured` says of a coloured shape which it is."""
    noun, colour = pick(rng, _nouns(tongue, world, name)), world.kinds[name].colour
    if colour and colour in tongue.colours and name not in tongue.nouns and coloured:
        noun = replace(noun, colour=pick(rng, tongue.colours[colour]))
    return Thing(tongue, noun, count, rng, spec)


def request(
    world: EmojiWorld,
    wanted: Wanted,
    rng: np.random.Generator,
    held: bool = False,
    shown: str | None = None,
    along: bool = False,
) -> str:
    """A request for what is wanted. `held`: in ways of saying that no training has. `shown`: the kind that a
    reference picture shows, so that it is not named. `along`: a control picture is drawn along."""
    tongue = tongue_for(world, [name for name, _ in wanted.counts], rng)
    counts = dict(wanted.counts)

    def named(name: str) -> Speakable:
        if name != shown:
            return thing(tongue, world, name, counts[name], rng)
        words = tongue.this[min(2, counts[name])].pick(rng, held)
        return Shown(words.format(n=pick(rng, (tongue.numbers[counts[name]], str(counts[name])))))

    if wanted.relation is None:
        order = rng.permutation(len(wanted.counts))
        what: Speakable = Several(tongue, tuple(named(wanted.counts[i][0]) for i in order), rng)
        frame = tongue.draw.pick(rng, held)
    else:
        first, relation, second = wanted.relation
        if rng.random() < 0.3:
            # a dog right of a cat says the same
            first, relation, second = second, OPPOSITE[relation], first
        slots = {
            "a": named(first),
            "b": named(second),
            "w": pick(rng, tongue.stands[relation]),
            "v": pick(rng, tongue.stands[OPPOSITE[relation]]),
            "s": pick(rng, tongue.sides[relation]),
            "s2": pick(rng, tongue.sides[OPPOSITE[relation]]),
        }
        whole = rng.random() < 0.35
        what = Clause((tongue.sentences if whole else tongue.related).pick(rng, held), slots)
        frame = "{x}" if whole else tongue.draw.pick(rng, held)
    if along:
        what = Shown(tongue.along.pick(rng, held).format(x=what))
    if wanted.background:
        colour = Colour(tongue, pick(rng, tongue.backgrounds[wanted.background]))
        on = tongue.on.pick(rng, held)
        # what begins with the background is a request of its own: nobody draws a background with a cat
        frame = frame if on.startswith("{x}") else "{x}"
        what = Clause(on.replace("{x", "{a"), {"a": what, "c": colour})
    return _finished(tongue, frame.format(x=what), rng)


def _finished(tongue: Tongue, text: str, rng: np.random.Generator) -> str:
    """With a greeting, thanks, and without the signs that some people leave out."""
    before, behind = pick(rng, tongue.greetings), pick(rng, tongue.thanks)
    if text[-1] in "?？" and rng.random() < 0.3:
        text = text.rstrip("?？").lstrip("¿")
    if text[-1] in "?？.":
        behind = ""
    for apart, joined in tongue.contractions:
        text = text.replace(apart, joined)
    if behind and text.endswith(behind.strip(" ,")):
        behind = ""
    if text.startswith(before.strip(" ,!，")):
        before = ""
    # an article that is left out leaves its space
    return " ".join((before + text + behind).split())


def instruction(world: EmojiWorld, edit: Edit, rng: np.random.Generator, held: bool = False) -> str:
    """An edit in wide words."""
    old, new = _changed(edit)
    tongue = tongue_for(world, [name for name in (old, new) if name], rng)
    slots = _slots(tongue, world, edit, old, new, rng)
    return _finished(tongue, tongue.edits[_family(edit, old, new)].pick(rng, held).format(**slots), rng)


def masked_instruction(world: EmojiWorld, edit: Edit, rng: np.random.Generator, held: bool = False) -> str:
    """An edit of what lies under a mask, in wide words: it need not be named."""
    old, new = _changed(edit)
    tongue = tongue_for(world, [name for name in (old, new) if name], rng)
    slots = _slots(tongue, world, edit, old, new, rng)
    frames = tongue.masked if rng.random() < 0.7 else tongue.edits
    said = frames[edit.type].pick(rng, held).format(**slots)
    return _finished(tongue, tongue.within.pick(rng, held).format(x=said), rng)


def _changed(edit: Edit) -> tuple[str, str]:
    """The kind that goes or is changed, and the kind that comes; '' where there is none."""
    before, after = edit.source.counts(), edit.target.counts()
    old, new = next(iter(before - after), ""), next(iter(after - before), "")
    return (edit.subject.name if edit.type == "move" and edit.subject else old), new


def _family(edit: Edit, old: str, new: str) -> str:
    if edit.type != "swap":
        return edit.type
    return "tone" if tone_base(new)[0] == tone_base(old)[0] else "gender"


def _slots(
    tongue: Tongue, world: EmojiWorld, edit: Edit, old: str, new: str, rng: np.random.Generator
) -> dict[str, object]:
    slots: dict[str, object] = {}
    if old:
        gone = (edit.source.counts() - edit.target.counts())[old]
        slots["the"] = thing(tongue, world, old, max(1, gone), rng, "the")
    if new:
        slots["a"] = thing(tongue, world, new, 1, rng)
        tone = tone_base(new)[1]
        if tone and tone in tongue.tones:
            slots["t"] = pick(rng, tongue.tones[tone])
        colour = world.kinds[new].colour
        if colour and colour in tongue.colours:
            slots["c"] = tongue.coloured.format(pick(rng, tongue.colours[colour]))
    if edit.type == "background":
        slots["c"] = Colour(tongue, pick(rng, tongue.backgrounds[edit.target.background]))
    if edit.side:
        slots["m"] = pick(rng, tongue.sides_of_picture[edit.side])
    return slots


def question(world: EmojiWorld, asked: Asked, rng: np.random.Generator, held: bool = False) -> Question:
    """A question in wide words; it is answered in its own language."""
    facts = asked.wanted or Wanted(())
    names = [name for name in (asked.name, asked.other, *dict(facts.counts)) if name]
    tongue = tongue_for(world, names, rng)
    slots: dict[str, Any] = {}
    if asked.type in ("how many", "colour") and asked.name:
        one = thing(tongue, world, asked.name, max(1, asked.count), rng, "the", asked.type != "colour")
        verbs = [pair[asked.count > 1] for pair in tongue.verbs]
        measure = pick(rng, one.noun.measures or ("",))
        slots |= {"the": one, "many": format(one, "many"), "is": verbs[0], "do": verbs[1], "measure": measure}
        slots["how_many"] = tongue.how_many.get(one.noun.gender, "")
    elif asked.type == "colour":
        slots = {"the": BACKGROUND[tongue.code], "is": tongue.verbs[0][0], "do": tongue.verbs[1][0]}
    elif asked.name:
        slots["a"] = thing(tongue, world, asked.name, 1, rng)
    if asked.other:
        slots["b"] = thing(tongue, world, asked.other, 1, rng)
        slots["w"] = pick(rng, tongue.stands[asked.relation])
    text = tongue.questions[asked.type].pick(rng, held).format(**slots)
    return Question(asked.type, _finished(tongue, text, rng), _answer(tongue, world, asked), tongue.code)


BACKGROUND = {
    "en": "the background",
    "es": Shown("el fondo"),
    "de": Shown("der hintergrund"),
    "id": Shown("latar"),
    "zh": Shown("背景"),
}


def _answer(tongue: Tongue, world: EmojiWorld, asked: Asked) -> str:
    def plain(name: str, count: int) -> Thing:
        return thing(tongue, world, name, count, _PLAIN)

    if asked.type == "how many":
        return tongue.numbers[asked.count]
    if asked.type == "colour":
        if asked.wanted is not None:
            return tongue.backgrounds[str(asked.wanted.background)][0]
        return tongue.coloured.format(tongue.colours[str(world.kinds[asked.name].colour)][0])
    if asked.type in ("is there", "is so"):
        word = "yes" if asked.true else "no"
        there = {"yes": "there", "no": "not there"}[word]
        return tongue.answers[there if asked.type == "is there" and there in tongue.answers else word]
    if asked.type == "where":
        return tongue.answers[asked.relation]
    if asked.type == "beside":
        return counted(world.kinds[asked.name], 1) if tongue.code == "en" else format(plain(asked.name, 1))
    assert asked.wanted is not None
    if tongue.code == "en":
        return caption(world, asked.wanted)
    said = Several(tongue, tuple(plain(name, count) for name, count in asked.wanted.counts), _PLAIN)
    if asked.wanted.background is None:
        return format(said)
    colour = Colour(tongue, tongue.backgrounds[asked.wanted.background][0])
    return tongue.caption.format(x=said, c=colour)
