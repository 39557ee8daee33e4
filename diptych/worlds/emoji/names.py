"""What can stand in a scene: glyphs with their names, shapes, colours, tones and genders.

Names come from Unicode through the `emoji` package. The small world keeps the everyday noun of each glyph;
the full world has every fully-qualified emoji under its Unicode name.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import emoji as unicode_emoji

LANGUAGES = ("id",)
"""Languages beside English that there are words for in `captions.py`."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
SHAPES = ("circle", "square", "heart")
_SHAPE_GLYPHS = {
    "circle": "🔴🟠🟡🟢🔵🟣🟤⚫⚪",
    "square": "🟥🟧🟨🟩🟦🟪🟫⬛⬜",
    "heart": "❤🧡💛💚💙💜🤎🖤🤍",
}
SMALL_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SMALL_OBJECTS = {
    "cat": "🐱",
    "dog": "🐶",
    "apple": "🍎",
    "banana": "🍌",
    "carrot": "🥕",
    "car": "🚗",
    "tree": "🌲",
    "star": "⭐",
    "fish": "🐟",
    "house": "🏠",
    "sunflower": "🌻",
    "crown": "👑",
}
SMALL_PEOPLE = {
    "thumbs up": "👍",
    "thumbs up: light skin tone": "👍🏻",
    "thumbs up: dark skin tone": "👍🏿",
    "man farmer": "👨‍🌾",
    "woman farmer": "👩‍🌾",
}
FEW = ("cat", "apple", "car", "tree", "thumbs up", "thumbs up: light skin tone", "thumbs up: dark skin tone")
TONES = (
    "light skin tone",
    "medium-light skin tone",
    "medium skin tone",
    "medium-dark skin tone",
    "dark skin tone",
)
BACKGROUNDS = {
    "white": (0.97, 0.97, 0.97),
    "pink": (0.98, 0.80, 0.86),
    "mint": (0.78, 0.94, 0.84),
    "sky blue": (0.76, 0.88, 0.98),
    "lavender": (0.86, 0.80, 0.97),
    "gray": (0.72, 0.74, 0.77),
}
"""Background name -> RGB in 0..1. Pale, so that no coloured shape is lost on one."""

_IRREGULAR = {
    "fish": "fish",
    "thumbs up": "thumbs up",
    "man": "men",
    "woman": "women",
    "foot": "feet",
    "leaf": "leaves",
}


@dataclass(frozen=True)
class Kind:
    """One kind of glyph: `name` is its English noun and its key in a world."""

    name: str
    emoji: str
    plural: str
    local: tuple[tuple[str, str], ...] = ()
    """(language, name) pairs besides English."""
    shape: str | None = None
    colour: str | None = None

    def in_language(self, language: str) -> str:
        return self.name if language == "en" else dict(self.local).get(language, self.name)


def pluralise(noun: str) -> str:
    """English plural of a Unicode name: the words before a colon, the last of them in the plural."""
    head, colon, tail = noun.partition(":")
    if head in _IRREGULAR:
        return _IRREGULAR[head] + colon + tail
    first, _, last = head.rpartition(" ")
    if last in _IRREGULAR:
        plural = _IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        plural = last + "es"
    elif re.search(r"[^aeiou]y$", last):
        plural = last[:-1] + "ies"
    else:
        plural = last + "s"
    return (first + " " if first else "") + plural + colon + tail


def _unicode_entry(symbol: str, languages: tuple[str, ...]) -> dict[str, object]:
    data = unicode_emoji.EMOJI_DATA
    unicode_emoji.config.load_language(list(languages))
    return dict(data.get(symbol) or data.get(symbol + "\ufe0f") or {})


def _readable(label: object) -> str:
    return str(label).strip(":").replace("_", " ")


def _kind(
    name: str, symbol: str, languages: tuple[str, ...], shape: str | None = None, colour: str | None = None
) -> Kind:
    entry = _unicode_entry(symbol, languages)
    local = tuple((code, _readable(entry[code])) for code in languages if code in entry)
    return Kind(name=name, emoji=symbol, plural=pluralise(name), local=local, shape=shape, colour=colour)


def coloured_shapes(colours: tuple[str, ...], languages: tuple[str, ...]) -> list[Kind]:
    """The circles, squares and hearts of the given colours."""
    return [
        _kind(f"{colour} {shape}", symbol, languages, shape, colour)
        for shape in SHAPES
        for colour, symbol in zip(COLOURS, _SHAPE_GLYPHS[shape], strict=True)
        if colour in colours
    ]


@functools.cache
def small_kinds(languages: tuple[str, ...] = ("id",)) -> tuple[Kind, ...]:
    """35 kinds: twelve objects, eighteen coloured shapes, five people for tone and gender swaps."""
    named = {**SMALL_OBJECTS, **SMALL_PEOPLE}
    return tuple(
        [_kind(n, s, languages) for n, s in named.items()] + coloured_shapes(SMALL_COLOURS, languages)
    )


@functools.cache
def few_kinds(languages: tuple[str, ...] = ("id",)) -> tuple[Kind, ...]:
    """16 of the small world's kinds, with which all of its questions and edits can still be asked: for models
    that learn in minutes."""
    shapes = coloured_shapes(("red", "yellow", "blue"), languages)
    return tuple(kind for kind in small_kinds(languages) if kind.name in FEW or kind in shapes)


@functools.cache
def full_kinds(languages: tuple[str, ...] = ("id",)) -> tuple[Kind, ...]:
    """Every fully-qualified emoji under its Unicode name (3,963 in emoji 2.16); the font may lack some."""
    shapes = {kind.emoji: kind for kind in coloured_shapes(COLOURS, languages)}
    kinds = []
    for symbol, entry in unicode_emoji.EMOJI_DATA.items():
        if entry["status"] != unicode_emoji.STATUS["fully_qualified"]:
            continue
        # the coloured shapes keep their short names, which captions and bindings are made of
        plain = symbol.replace("\ufe0f", "")
        kinds.append(shapes.get(plain) or _kind(_readable(entry["en"]).lower(), symbol, languages))
    return tuple(kinds)


def tone_base(name: str) -> tuple[str, str | None]:
    """('thumbs up', 'dark skin tone') for a toned name; (name, None) for one without a tone."""
    head, separator, tail = name.partition(": ")
    return (head, tail) if separator and tail in TONES else (name, None)


def gender_partner(name: str) -> str | None:
    """The name with man and woman swapped, or None where it names neither."""
    for one, other in (("woman", "man"), ("man", "woman")):
        # whole words: 'woman' holds 'man'
        swapped, count = re.subn(rf"\b{one}\b", other, name)
        if count:
            return swapped
    return None
