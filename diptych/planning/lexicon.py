"""The words of a model: what it was trained to be asked with, and what people say for it, in any languages.

A table lies beside a model's weights and is known from JSON alone. It names things with their counts, how two
of them stand, a ground behind them, and what may be changed or asked; the grammar over it is in `rewording`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from string import Formatter

VERSION = 1
SORTS = (
    "noun",
    "nouns",
    "quality",
    "ground",
    "number",
    "relation",
    "behind",
    "side",
    "act",
    "ask",
    "word",
)
"""Of what is said: a thing; several of it; what kind it is (its colour); the colour of the ground; how many;
how one thing stands to the next that is named, or ('behind') to the one before; a side; what is to be done;
what is asked; and words that carry the others."""
WORDS = (
    "the",
    "and",
    "of",
    "own",
    "former",
    "latter",
    "from",
    "instead",
    "not",
    "ground",
    "picture",
    "pause",
    "skip",
)
"""Values of 'word'. 'of' stands between a thing and its kind, 'own' before what belongs to it; 'former' and
'latter' name the first and the second thing; 'from' and 'instead' stand before what a place is seen from, and
before what goes; 'ground' calls what is behind all, 'picture' what is drawn; 'skip' says nothing."""


SAID: Mapping[str, tuple[str, ...]] = {
    "and": (),
    "comma": (),
    "related": ("a", "w", "b"),
    "on": ("x", "c"),
    "ground": ("c",),
    "add": ("a",),
    "remove": ("one",),
    "replace": ("one", "a"),
    "exchange": ("one",),
    "move": ("one", "m"),
    "how many": ("many",),
    "colour": ("one", "many"),
    "colours": ("one", "many"),
    "colour of ground": (),
    "where": ("a", "b"),
    "is there": ("a",),
    "what": (),
    "caption": (),
}
"""What a model is asked, with what stands in it; and 'change' with each sort of quality."""


@dataclass(frozen=True, kw_only=True)
class Forms:
    """A thing as the model knows it."""

    a: str
    one: str
    many: str


@dataclass(frozen=True, kw_only=True)
class Relation:
    say: str
    side: str
    opposite: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A model's words."""

    version: int
    things: dict[str, Forms]
    """With those that several kinds share, such as a shape without its colour."""
    kinds: dict[str, dict[str, str]]
    """Noun -> quality ('' where none is said) -> thing."""
    qualities: dict[str, str]
    """Quality -> its sort, of which a thing has one: 'colour'."""
    numbers: tuple[str, ...]
    """From zero on; more are not drawn."""
    grounds: dict[str, str]
    relations: dict[str, Relation]
    say: dict[str, str]
    """What the model was trained on, by what is asked for, see `rewording`."""
    languages: dict[str, dict[str, dict[str, tuple[str, ...]]]]
    """Language -> sort -> value -> phrases."""

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version must be {VERSION}, got {self.version}")
        self._check_said()
        for noun, kinds in self.kinds.items():
            for quality, thing in kinds.items():
                if thing not in self.things or quality not in ("", *self.qualities):
                    raise ValueError(f"kinds.{noun}: {quality!r} and {thing!r} must be among the table's own")
        for name, relation in self.relations.items():
            if relation.opposite not in self.relations:
                raise ValueError(f"relations.{name}.opposite: {relation.opposite!r} is no relation")
        for language, sorts in self.languages.items():
            for sort, values in sorts.items():
                known = self._known(sort)
                if known is None:
                    raise ValueError(
                        f"languages.{language}: a sort is one of {', '.join(SORTS)}, got {sort!r}"
                    )
                for value in values:
                    if known and value not in known:
                        raise ValueError(
                            f"languages.{language}.{sort}: {value!r} is not among the table's own"
                        )

    def _check_said(self) -> None:
        """Raises ValueError for words that are missing, and for slots that nothing fills."""
        wanted = {**SAID, **{f"change {sort}": ("one", "c") for sort in self.qualities.values()}}
        for name, slots in wanted.items():
            if name not in self.say:
                raise ValueError(f"say.{name} is missing")
            try:
                found = {slot for _, slot, _, _ in Formatter().parse(self.say[name]) if slot is not None}
            except ValueError as error:
                raise ValueError(f"say.{name}: {error}") from error
            if found - {*slots}:
                raise ValueError(f"say.{name} has the slots {', '.join(slots)}, got {sorted(found)}")

    def _known(self, sort: str) -> set[str] | None:
        """Values that a sort can have; empty: any."""
        sides = {relation.side for relation in self.relations.values()}
        known: dict[str, set[str]] = {
            "noun": set(self.kinds),
            "nouns": set(self.kinds),
            "quality": set(self.qualities),
            "ground": set(self.grounds),
            "number": {str(number) for number in range(100)},
            "relation": set(self.relations),
            "side": sides,
            "behind": sides,
            "word": set(WORDS),
        }
        return known.get(sort, set() if sort in SORTS else None)


@dataclass(frozen=True)
class Token:
    """A phrase of a request, and what it can be read as: sort -> value. None where it is not known."""

    text: str
    read: Mapping[str, str] = field(default_factory=dict)

    def is_word(self, *values: str) -> bool:
        return self.read.get("word") in values


PAUSE = Token(",", {"word": "pause"})
_WRITTEN = re.compile(r"[㐀-鿿]|[^\W_㐀-鿿]+(?:'[^\W_]+)*|[,.;:!?，。；：！？、&+]")
_PAUSES = frozenset(",.;:!?，。；：！？、&+")


def plain(text: str) -> list[str]:
    """Words of a text in small letters, without accents; signs between words and Chinese letters are words
    by themselves."""
    letters = text.casefold()
    if not letters.isascii():
        letters = unicodedata.normalize("NFKD", letters.replace("’", "'"))
        letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    letters = re.sub(r"^\s*-\s*", "minus ", letters)
    return _WRITTEN.findall(re.sub(r"\b(\d+)x\b|\bx(\d+)\b", r"\1\2", letters))


class Lexicon:
    """The phrases of one language, found in a text longest first."""

    def __init__(self, sorts: Mapping[str, Mapping[str, tuple[str, ...]]]) -> None:
        self._phrases: dict[tuple[str, ...], dict[str, str]] = {}
        for sort, values in sorts.items():
            for value, phrases in values.items():
                for phrase in phrases:
                    self._phrases.setdefault(tuple(plain(phrase)), {}).setdefault(sort, value)
        self._longest = max(map(len, self._phrases), default=1)

    def tokens(self, text: str) -> list[Token]:
        return list(self._tokens(plain(text)))

    def _tokens(self, words: list[str]) -> Iterator[Token]:
        at = 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                phrase = tuple(words[at : at + length])
                found = self._phrases.get(phrase)
                if found is not None:
                    yield Token(" ".join(phrase), found)
                    break
            else:
                length = 1
                yield from self._alone(words[at])
            at += length

    def _alone(self, word: str) -> Iterator[Token]:
        """A word that no phrase has: a sign, a number, or a noun to which something belongs."""
        owner = self._phrases.get((word.removesuffix("'s"),))
        if word in _PAUSES:
            yield PAUSE
        elif word.isdecimal():
            yield Token(word, {"number": str(int(word))})
        elif owner is not None and word.endswith("'s"):
            yield Token(word, owner)
            yield Token("'s", {"word": "own"})
        else:
            yield Token(word)
