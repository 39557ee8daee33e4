"""Words for what is in a scene, in both directions: varied prompts from facts, and facts back from a
caption."""

from __future__ import annotations

import re

import numpy as np

from diptych.worlds.emoji.names import BACKGROUNDS, Kind
from diptych.worlds.emoji.scene import MAX_GLYPHS, RELATIONS, EmojiWorld, Wanted

CATEGORIES = ("single", "two", "counting", "colours", "position", "binding")
"""GenEval's six (arXiv 2310.11513): single object, two objects, counting, colours, position, attribute
binding."""
NUMBERS = ("zero", "one", "two", "three", "four", "five")

# the bare caption stands twice: it is what the benchmark asks with
_FRAMES: dict[str, tuple[str, ...]] = {
    "en": (
        "{}",
        "{}",
        "a picture of {}",
        "draw {}",
        "an image with {}",
        "show me {}",
        "please draw {}",
        "there should be {}",
    ),
    "id": ("{}", "gambar {}", "tolong gambar {}", "sebuah gambar dengan {}"),
}
_NUMBERS = {"en": NUMBERS, "id": ("nol", "satu", "dua", "tiga", "empat", "lima")}
_AND = {"en": "and", "id": "dan"}
_BACKGROUND: dict[str, tuple[str, ...]] = {
    "en": ("{} on a {} background", "{}, {} background", "{} in front of a {} background"),
    "id": ("{} dengan latar {}", "{}, latar {}"),
}
_BACKGROUND_NAMES = {
    "id": {
        "white": "putih",
        "pink": "merah muda",
        "mint": "hijau mint",
        "sky blue": "biru langit",
        "lavender": "lavender",
        "gray": "abu-abu",
    },
}
_RELATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "left of": ("left of", "to the left of"),
        "right of": ("right of", "to the right of"),
        "above": ("above", "over"),
        "below": ("below", "under"),
    },
    "id": {"left of": ("di kiri",), "right of": ("di kanan",), "above": ("di atas",), "below": ("di bawah",)},
}


def with_article(noun: str) -> str:
    """'a cat', 'an apple'."""
    # no u: it is a unicorn
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def counted(kind: Kind, count: int, language: str = "en") -> str:
    """'a cat', 'two cats'; 'dua kucing'."""
    if language != "en":
        return f"{_NUMBERS[language][count]} {kind.in_language(language)}"
    return with_article(kind.name) if count == 1 else f"{NUMBERS[count]} {kind.plural}"


def join(parts: list[str], language: str = "en") -> str:
    """'a', 'a and b', 'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {_AND[language]} {parts[-1]}"


def caption(world: EmojiWorld, wanted: Wanted, language: str = "en") -> str:
    """The plain caption: 'two cats and a red heart on a mint background'."""
    # the first of every list of phrasings is the plain one
    text = _facts(world, wanted, language, pick=lambda options: options[0])
    if wanted.background:
        text = _BACKGROUND[language][0].format(text, _background_name(wanted.background, language))
    return text


def prompt(world: EmojiWorld, wanted: Wanted, rng: np.random.Generator, language: str = "en") -> str:
    """A natural request for `wanted`, in one of several phrasings."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    text = pick(_FRAMES[language]).format(_facts(world, wanted, language, pick))
    if wanted.background:
        text = pick(_BACKGROUND[language]).format(text, _background_name(wanted.background, language))
    return text


def _background_name(name: str, language: str) -> str:
    return _BACKGROUND_NAMES.get(language, {}).get(name, name)


def _facts(world: EmojiWorld, wanted: Wanted, language: str, pick) -> str:  # type: ignore[no-untyped-def]
    counts = dict(wanted.counts)
    if wanted.relation is None:
        return join([counted(world.kinds[name], n, language) for name, n in wanted.counts], language)
    first, relation, second = wanted.relation
    words = pick(_RELATIONS[language][relation])
    one, other = (counted(world.kinds[name], counts[name], language) for name in (first, second))
    return f"{one} {words} {other}"


def parse_caption(world: EmojiWorld, text: str) -> Wanted | None:
    """The facts of an English caption, or None where it is not one. Inverse of `caption`, tolerant of its
    phrasings."""
    text = text.lower().strip().rstrip(".")
    background = None
    for name in BACKGROUNDS:
        found = re.search(rf"(,| on an?| in front of an?) {name} background$", text)
        if found:
            background, text = name, text[: found.start()]
    relation = None
    for key, options in _RELATIONS["en"].items():
        # longest first: 'to the left of' holds 'left of'
        for words in sorted(options, key=len, reverse=True):
            if relation is None and f" {words} " in text:
                text = text.replace(f" {words} ", " and ", 1)
                relation = key
    singular = {name: name for name in world.kinds}
    plural = {kind.plural: name for name, kind in world.kinds.items()}
    counts: dict[str, int] = {}
    for part in re.split(r", | and ", text):
        number, _, noun = part.partition(" ")
        if number in ("a", "an", "one") and noun in singular:
            name, count = noun, 1
        # the singular too: 'two cat' says what and how many
        elif number in NUMBERS[2:] and (noun in plural or noun in singular):
            name, count = plural.get(noun, noun), NUMBERS.index(number)
        else:
            return None
        counts[name] = counts.get(name, 0) + count
    if relation is None:
        return Wanted(tuple(counts.items()), None, background)
    if len(counts) != 2:
        return None
    first, second = counts
    return Wanted(tuple(counts.items()), (first, relation, second), background)


def sample_wanted(world: EmojiWorld, category: str, rng: np.random.Generator, held: bool = False) -> Wanted:
    """Facts for one prompt of a GenEval category; `held` picks only combinations held out of training, else
    none of them.

    'single' and 'colours' hold nothing out: every kind must have been seen once to be drawn.
    """
    # by rejection: one in ten is held out, so this many tries fail only where no such combination exists
    for _ in range(100_000):
        wanted = _candidate(world, category, rng)
        if category in ("single", "colours") or world.is_held_out(wanted) == held:
            return wanted
    raise ValueError(
        f"no {'held-out' if held else 'seen'} combination of category {category!r} exists in this world"
    )


def _candidate(world: EmojiWorld, category: str, rng: np.random.Generator) -> Wanted:
    def choose(names: tuple[str, ...], size: int) -> list[str]:
        return [names[i] for i in rng.choice(len(names), size=size, replace=False)]

    if category == "single":
        return Wanted(((choose(world.plain, 1)[0], 1),))
    if category == "colours":
        return Wanted(((choose(world.shapes, 1)[0], 1),))
    if category == "counting":
        return Wanted(((choose(world.names, 1)[0], int(rng.integers(2, MAX_GLYPHS + 1))),))
    if category == "two":
        first, second = choose(world.names, 2)
        return Wanted(((first, 1), (second, 1)))
    if category == "position":
        first, second = choose(world.names, 2)
        return Wanted(((first, 1), (second, 1)), (first, list(RELATIONS)[int(rng.integers(4))], second))
    if category == "binding":
        while True:
            first, second = choose(world.shapes, 2)
            one, other = world.kinds[first], world.kinds[second]
            # both must differ: with one colour or one shape for both, a swap could not be told
            if one.shape != other.shape and one.colour != other.colour:
                return Wanted(((first, 1), (second, 1)))
    raise ValueError(f"category must be one of {', '.join(CATEGORIES)}, got {category!r}")


def swapped_binding(world: EmojiWorld, wanted: Wanted) -> Wanted:
    """The two shapes of a binding prompt with their colours exchanged."""
    first, second = (world.kinds[name] for name, _ in wanted.counts)
    return Wanted(((f"{second.colour} {first.shape}", 1), (f"{first.colour} {second.shape}", 1)))


def sample_scene_facts(world: EmojiWorld, rng: np.random.Generator) -> Wanted:
    """Facts of a free scene of 1 to 5 glyphs of up to 3 kinds, half of those of two kinds with a relation;
    never held out."""
    while True:
        kinds = int(rng.choice([1, 2, 2, 2, 3]))
        names = [world.names[i] for i in rng.choice(len(world.names), size=kinds, replace=False)]
        counts = [1] * kinds
        for _ in range(int(rng.integers(0, MAX_GLYPHS - kinds + 1)) if rng.random() < 0.5 else 0):
            counts[int(rng.integers(kinds))] += 1
        relation = None
        if kinds == 2 and rng.random() < 0.5 and sum(counts) <= 4:
            relation = (names[0], list(RELATIONS)[int(rng.integers(4))], names[1])
        background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.3 else None
        wanted = Wanted(tuple(zip(names, counts, strict=True)), relation, background)
        if not world.is_held_out(wanted):
            return wanted
