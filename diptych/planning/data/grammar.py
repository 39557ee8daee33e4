"""Wordings as data: files of rules, each a name and one wording a line, and how a wording becomes a text.

A wording is text with `(this|that|)` for one of several, `{name}` for what another rule or a `Hand` says,
`[prompt]` around the words of the prompt, `<kind:words>` around words that say a setting, and ` ?` for a
space that may be left out. What comes out are pieces: a text, and what it says of the request.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple, Protocol

HELD = 8
"""Of the wordings of a rule that has at least so many, one in this many is held out of training."""


class Piece(NamedTuple):
    """Some text of a request."""

    text: str
    kind: str = ""
    """What it says: 'prompt', the name of a setting, or '' for nothing."""
    step: int = 0
    medium: int | None = None
    """Number of the medium that it stands for: the text is then `request.MARK`."""


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Slot:
    name: str


@dataclass(frozen=True)
class Choice:
    options: tuple[Wording, ...]


@dataclass(frozen=True)
class Tagged:
    kind: str
    inner: Wording


Wording = tuple[Text | Slot | Choice | Tagged, ...]


class Hand(Protocol):
    """Says what no rule of a file says: numbers, media, random words."""

    held: bool
    """Whether wordings that are held out may be used."""

    def say(self, name: str, rng: random.Random, within: str) -> list[Piece] | None:
        """Pieces for a slot that stands within words of a kind; None where a rule shall speak."""
        ...


_TOKEN = re.compile(r"<[a-z]+:|\{[\w.]+\}| \?(?=\S)|[()|\[\]>]|[^<({|)\[\]> ]+|.", re.DOTALL)


def parsed(line: str) -> Wording:
    """A line as a wording. Raises ValueError where brackets do not close."""
    tokens = _TOKEN.findall(line)
    wording, end = _sequence(tokens, 0, "")
    if end != len(tokens):
        raise ValueError(f"{line!r}: {tokens[end]!r} closes nothing")
    return wording


def _sequence(tokens: Sequence[str], at: int, closing: str) -> tuple[Wording, int]:
    parts: list[Text | Slot | Choice | Tagged] = []
    while at < len(tokens) and tokens[at] not in (closing, "|" if closing == ")" else closing):
        token = tokens[at]
        if token == "(":
            options = []
            while token != ")":
                option, at = _sequence(tokens, at + 1, ")")
                if at >= len(tokens):
                    raise ValueError(f"{''.join(tokens)!r}: a bracket does not close")
                token = tokens[at]
                options.append(option)
            parts.append(Choice(tuple(options)))
        elif token == "[" or re.fullmatch(r"<[a-z]+:", token):
            inner, at = _sequence(tokens, at + 1, "]" if token == "[" else ">")
            if at >= len(tokens):
                raise ValueError(f"{''.join(tokens)!r}: a bracket does not close")
            parts.append(Tagged("prompt" if token == "[" else token[1:-1], inner))
        elif token.startswith("{"):
            parts.append(Slot(token[1:-1]))
        elif token == " ?":
            parts.append(Choice(((Text(" "),), ())))
        else:
            parts.append(Text(token))
        at += 1
    return tuple(parts), at


@dataclass(frozen=True)
class Grammar:
    """The rules of one language."""

    language: str
    rules: Mapping[str, tuple[tuple[str, Wording], ...]]
    trained: Mapping[str, tuple[tuple[str, Wording], ...]]
    """The rules without what is held out of training."""
    held_out: Mapping[str, tuple[tuple[str, Wording], ...]]
    """What training never sees."""

    def choose(self, rule: str, rng: random.Random, held: bool) -> tuple[str, Wording]:
        """A wording of a rule, of those that are held out as well where `held`. Raises KeyError for a rule
        that is not there."""
        return rng.choice(self.rules[rule] if held else self.trained[rule])

    def said(self, wording: Wording, rng: random.Random, hand: Hand, within: str = "") -> list[Piece]:
        """The pieces of a wording, every choice made."""
        pieces: list[Piece] = []
        for part in wording:
            match part:
                case Text(text):
                    pieces.append(Piece(text, within))
                case Slot(name):
                    said = hand.say(name, rng, within)
                    if said is None:
                        said = self.said(self.choose(name, rng, hand.held)[1], rng, hand, within)
                    pieces += said
                case Choice(options):
                    pieces += self.said(rng.choice(options), rng, hand, within)
                case Tagged(kind, inner):
                    # the innermost says what it is: a size within a prompt is a size
                    pieces += self.said(inner, rng, hand, kind)
        return pieces


@cache
def grammar(language: str) -> Grammar:
    """The rules of a language, from its file among the assets."""
    file = resources.files("diptych") / "assets" / "planner" / "grammar" / f"{language}.txt"
    rules: dict[str, list[tuple[str, Wording]]] = {}
    name = ""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            name = line.strip()
            rules.setdefault(name, [])
            continue
        try:
            # two spaces lead; those behind the words belong to them
            rules[name].append((line[2:], parsed(line[2:])))
        except ValueError as error:
            raise ValueError(f"{language}.txt:{number}: {error}") from error
    every = {rule: tuple(lines) for rule, lines in rules.items()}
    held = {
        rule: tuple(x for x in lines if _held(language, rule, x[0], len(lines)))
        for rule, lines in every.items()
    }
    trained = {rule: tuple(x for x in lines if x not in held[rule]) for rule, lines in every.items()}
    return Grammar(language, every, trained, held)


def _held(language: str, rule: str, line: str, count: int) -> bool:
    """By its own words, so that a new wording changes no other's side."""
    name = f"{language}/{rule}/{line}".encode()
    return count >= HELD and hashlib.sha256(name).digest()[0] % HELD == 0
