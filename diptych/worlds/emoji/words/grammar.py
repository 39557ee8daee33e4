"""What a language brings to wide wordings: nouns, numbers, frames. How they become a request, an instruction
or a question is the same for all, in `wording.py`.

A frame is a format string. Its slots take things: `{a}` is 'a cat', `{the}` 'the cat', `{a:dat}` the same in
another case, where the language has cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np

T = TypeVar("T")
Words = tuple[str, ...]


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


@dataclass(frozen=True)
class Frames:
    """Ways of saying one thing. Those of `held` are kept out of all training, as whole families: an
    evaluation asks with them alone."""

    trained: Words
    held: Words

    def pick(self, rng: np.random.Generator, held: bool) -> str:
        return pick(rng, self.held if held else self.trained)


@dataclass(frozen=True)
class Noun:
    one: str
    many: str = ""
    """'' where the plural is no other word."""
    gender: str = ""
    oblique: str = ""
    """Accusative and dative of the singular, where they differ from `one`."""
    measures: Words = ()
    """Words that stand between a number and the noun."""
    colour: str = ""
    """The word for its colour that is said with it."""


Say = Callable[["Tongue", Noun, int, str, np.random.Generator], str]


@dataclass(frozen=True, kw_only=True)
class Tongue:
    """One language's words. Relations are those of `scene.RELATIONS`, edits and questions those of
    `edits.EDIT_TYPES` and `questions.QUESTION_TYPES`."""

    code: str
    nouns: Mapping[str, tuple[Noun, ...]]
    """Kind -> its names, the plainest first."""
    shapes: Mapping[str, tuple[Noun, ...]]
    colours: Mapping[str, Words]
    backgrounds: Mapping[str, Words]
    numbers: Words
    coloured: str = "{}"
    """A colour by itself."""
    unbent: Words = ()
    """Colours that take no ending."""
    verbs: tuple[tuple[str, str], tuple[str, str]] = (("", ""), ("", ""))
    """{is} and {do}, of one and of several."""
    how_many: Mapping[str, str] = field(default_factory=dict)
    """{how_many} by gender."""
    say: Say
    """A counted thing under a spec: '' (indefinite) and 'the', each with a case behind it where the language
    has cases ('acc', 'the-dat'); 'many', its kind in the plural; 'bare', without number or article."""
    joins: Words
    """Between the last two of several; `comma` between the others."""
    comma: str = ", "
    draw: Frames = field(default=Frames((), ()))
    """{x}: what is to be drawn."""
    on: Frames = field(default=Frames((), ()))
    """{x} on a background {c}."""
    stands: Mapping[str, Words] = field(default_factory=dict)
    """Relation -> '{w}' of the frames below: 'left of'."""
    sides: Mapping[str, Words] = field(default_factory=dict)
    """Relation -> '{s}': 'to its left'."""
    related: Frames = field(default=Frames((), ()))
    """{a} {w} {b}, as one thing that may be drawn; inverted ones too."""
    sentences: Frames = field(default=Frames((), ()))
    """The same as a request of its own."""
    contractions: tuple[tuple[str, str], ...] = ()
    """What is written as one where it meets: 'de el' as 'del'."""
    greetings: Words = ("",)
    thanks: Words = ("",)
    edits: Mapping[str, Frames] = field(default_factory=dict)
    sides_of_picture: Mapping[str, Words] = field(default_factory=dict)
    """left, right, top, bottom, as an instruction to move has them."""
    tones: Mapping[str, Words] = field(default_factory=dict)
    questions: Mapping[str, Frames] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    """yes, no, and the four relations, as an answer says them."""
    caption: str = "{x} on a {c} background"
    within: Frames = field(default=Frames((), ()))
    """{x}, an instruction, said of a mask."""
    masked: Mapping[str, Frames] = field(default_factory=dict)
    """Instructions about what is inside a mask."""
    this: Mapping[int, Frames] = field(default_factory=dict)
    """What a reference shows, once or more often ({n} of them)."""
    along: Frames = field(default=Frames((), ()))
    """{x}, drawn along edges or boxes."""


class Speakable(Protocol):
    """What a slot of a frame can hold."""

    def cased(self, spec: str) -> Speakable:
        """The same, for slots that ask for no case of their own."""
        ...

    def __format__(self, spec: str) -> str: ...


@dataclass(frozen=True)
class Thing:
    """A counted noun."""

    tongue: Tongue
    noun: Noun
    count: int
    rng: np.random.Generator
    spec: str = ""

    def cased(self, spec: str) -> Thing:
        return replace(self, spec=spec)

    def __format__(self, spec: str) -> str:
        return self.tongue.say(self.tongue, self.noun, self.count, spec or self.spec, self.rng)


@dataclass(frozen=True)
class Shown:
    """What stands for the thing of a reference picture: 'this', in whatever case."""

    words: str

    def cased(self, spec: str) -> Shown:
        return self

    def __format__(self, spec: str) -> str:
        return self.words


@dataclass(frozen=True)
class Colour:
    """A colour, with the ending that a slot asks for where it takes one."""

    tongue: Tongue
    word: str

    def __format__(self, spec: str) -> str:
        return self.word if self.word in self.tongue.unbent else self.word + spec


@dataclass(frozen=True)
class Several:
    """Things one after the other."""

    tongue: Tongue
    things: tuple[Speakable, ...]
    rng: np.random.Generator

    def cased(self, spec: str) -> Several:
        return replace(self, things=tuple(thing.cased(spec) for thing in self.things))

    def __format__(self, spec: str) -> str:
        said = [format(thing, spec) for thing in self.things]
        if len(said) == 1:
            return said[0]
        return self.tongue.comma.join(said[:-1]) + pick(self.rng, self.tongue.joins) + said[-1]


@dataclass(frozen=True)
class Clause:
    """A frame with its slots filled, as a slot of another: the case asked of it is that of its {a}."""

    frame: str
    slots: Mapping[str, Any]

    def cased(self, spec: str) -> Clause:
        return replace(self, slots={**self.slots, "a": self.slots["a"].cased(spec)})

    def __format__(self, spec: str) -> str:
        clause = self.cased(spec) if spec else self
        return clause.frame.format(**clause.slots)
