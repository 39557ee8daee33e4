"""The table of words that lies beside a model of the world: what its things are called in five languages, and
how a model is asked that was trained on the plain words."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diptych.files.typed import read
from diptych.worlds.emoji.captions import NUMBERS, with_article
from diptych.worlds.emoji.names import BACKGROUNDS, Kind, pluralise, tone_base
from diptych.worlds.emoji.scene import OPPOSITE, WorldConfig, kinds_of
from diptych.worlds.emoji.words import TONGUES, Tongue

Sorts = dict[str, dict[str, list[str]]]
PEOPLE = {"man farmer": ("farmer", "man"), "woman farmer": ("farmer", "woman")}
"""Kind -> the noun that it shares with another, and what it is of it."""
SIDES = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
SAY = {
    "and": " and ",
    "comma": ", ",
    "related": "{a} {w} {b}",
    "on": "{x} on a {c} background",
    "ground": "change the background to {c}",
    "add": "add {a}",
    "remove": "remove the {one}",
    "replace": "replace the {one} with {a}",
    "change colour": "make the {one} {c}",
    "change tone": "give the {one} a {c}",
    "change gender": "swap the gender of the {one}",
    "exchange": "swap the gender of the {one}",
    "move": "move the {one} to the {m}",
    "how many": "how many {many} are there?",
    "colour": "what colour is the {one}?",
    "colours": "what colour are the {many}?",
    "colour of ground": "what colour is the background?",
    "where": "where is the {a}, seen from the {b}?",
    "is there": "is there {a}?",
    "what": "what is this?",
    "caption": "describe the picture",
}
"""The plain words of `captions`, `edits` and `questions`."""


Cues = dict[str, dict[str, dict[str, tuple[str, ...]]]]
"""Language -> sort -> value -> phrases."""


@functools.cache
def _cues() -> Cues:
    return read(Cues, Path(__file__).parents[2] / "assets" / "words" / "cues.json")


def word_table(config: WorldConfig) -> dict[str, Any]:
    """The table of a world, as plain values of JSON."""
    of = {kind.name: kind for kind in kinds_of(config)}
    things = {name: _forms(kind.name, kind.plural) for name, kind in of.items()}
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    qualities: dict[str, str] = {}
    for name, kind in of.items():
        kinds[name][""] = name
        for noun, quality, sort in _shared(kind):
            kinds[noun][quality] = name
            qualities[quality] = sort
            things.setdefault(noun, _forms(noun, pluralise(noun)))
    for noun in list(of):
        # one of a kind may become another of it
        for shared, _, _ in _shared(of[noun]):
            kinds[noun] |= {quality: name for quality, name in kinds[shared].items() if quality}
    return {
        "version": 1,
        "things": things,
        "kinds": dict(kinds),
        "qualities": qualities,
        "numbers": list(NUMBERS),
        "grounds": {name: name for name in BACKGROUNDS},
        "relations": {
            name: {"say": name, "side": side, "opposite": OPPOSITE[name]} for name, side in SIDES.items()
        },
        "say": SAY,
        "languages": {code: _language(tongue, set(kinds), qualities, of) for code, tongue in TONGUES.items()},
    }


def _forms(one: str, many: str) -> dict[str, str]:
    return {"a": with_article(one), "one": one, "many": many}


def _shared(kind: Kind) -> list[tuple[str, str, str]]:
    """(noun, quality, sort of quality) of a kind that is one of several."""
    if kind.shape and kind.colour:
        return [(kind.shape, kind.colour, "colour")]
    base, tone = tone_base(kind.name)
    if tone:
        return [(base, tone, "tone")]
    return [(*PEOPLE[kind.name], "gender")] if kind.name in PEOPLE else []


def _language(tongue: Tongue, nouns: set[str], qualities: dict[str, str], of: dict[str, Kind]) -> Sorts:
    sorts: Sorts = defaultdict(lambda: defaultdict(list))

    def hear(sort: str, value: str, phrases: Iterable[str]) -> None:
        heard = sorts[sort][value]
        heard += [phrase for phrase in dict.fromkeys(phrases) if phrase and phrase not in heard]

    for sort, values in _cues()[tongue.code].items():
        for value, phrases in values.items():
            known = {"noun": nouns, "nouns": nouns, "quality": set(qualities)}.get(sort)
            if known is None or value in known:
                hear(sort, value, phrases)
    for name in sorted(nouns & (tongue.nouns.keys() | tongue.shapes.keys())):
        for noun in tongue.nouns.get(name, tongue.shapes.get(name, ())):
            if tone_base(name)[1] and (tongue.code != "en" or " with " in noun.one):
                # a noun and a tone, which are heard apart
                continue
            oblique = (noun.oblique, noun.one + "s", noun.one + "es") if tongue.code == "de" else ()
            hear("noun", name, (noun.one, *oblique))
            several = (noun.many, noun.many + "n") if tongue.code == "de" else (noun.many,)
            hear("nouns", name, (word for word in several if word != noun.one))
    if tongue.code == "en":
        for name in (name for name in of if name in nouns and not of[name].shape):
            hear("noun", name, (name, with_article(name).partition(" ")[2]))
            hear("nouns", name, (of[name].plural,))
    for colour, words in tongue.colours.items():
        if colour in qualities:
            hear("quality", colour, _bent(tongue, words))
    for tone, words in tongue.tones.items():
        if tone in qualities:
            hear("quality", tone, words)
    for ground, words in tongue.backgrounds.items():
        hear("ground", ground, _bent(tongue, words))
    for number, word in enumerate(tongue.numbers):
        hear("number", str(number), (word,))
    place = "behind" if tongue.code == "zh" else "relation"
    for relation, words in tongue.stands.items():
        hear(place, SIDES[relation] if place == "behind" else relation, words)
    for relation, words in tongue.sides.items():
        hear("side", SIDES[relation], words)
    for side, words in tongue.sides_of_picture.items():
        hear("side", side, words)
    if tongue.code == "es":
        for heard in sorts.values():
            for said in heard.values():
                # what is written as one with the article behind it
                said += [phrase + "l" for phrase in said if phrase.endswith((" de", " a"))]
    return {sort: dict(values) for sort, values in sorts.items()}


def _bent(tongue: Tongue, words: Iterable[str]) -> list[str]:
    """Colours as they stand beside any noun."""
    bent = list(words)
    if tongue.code == "de":
        bent = [word + ending for word in bent for ending in ("", "e", "en", "er", "es", "em")]
    if tongue.code == "es":
        for word in list(bent):
            stems = (word, word[:-1] + "a") if word.endswith("o") else (word,)
            bent += [stem + end for stem in stems for end in ("", "s", "es")]
    return bent
