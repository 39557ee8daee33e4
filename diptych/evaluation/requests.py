"""The requests of the routing benchmark, and what each of them means.

A family is one way of asking, written by hand in several languages. Its wordings hold slots, which are filled
from lists or with values, and marks around what belongs to the prompt; so every request carries its own
truth. No planner is trained on any of these families.

In a wording: {scene} is an entry of the list of that name; {*a|b} one of these; {seconds=4|6} a value of a
field of the first step, {count=3~three} one with its word, {1.seconds=4} one of the second step; [..] belongs
to the prompt of the first step, [1:..] to that of the second, [n:..] to what must not be drawn; // stands
between turns, and {{ for a brace.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.data.foreign import lines
from diptych.files.typed import convert, parse, read
from diptych.planning.schema import Attached, Look, Missing, Request
from diptych.request import MARK, Role, Task

FOLDER = Path(__file__).parents[1] / "assets" / "benchmarks"
SPOKEN = ("en", "zh", "es", "de", "id")
"""Languages that planners know; requests in others are told from them."""
FILLS = 2
"""Requests made of each wording."""
SHUFFLED = 500
"""Requests whose media are put into another order."""


@dataclass(frozen=True)
class Shown:
    """A medium of a family, and what it is for."""

    kind: Literal["picture", "clip"]
    look: Look
    role: Role

    def attached(self) -> Attached:
        clip = self.kind == "clip"
        return Attached(
            kind=self.kind,
            look=self.look,
            width=832,
            height=480,
            frames=48 if clip else 1,
            seconds=2.0 if clip else None,
        )


@dataclass(frozen=True, kw_only=True)
class Family:
    """One way of asking: its wordings by language, and what is true of all of them."""

    name: str
    kind: str
    """Class of requests that scores are told by."""
    tasks: tuple[Task, ...]
    """Task of the first step; several where more than one is right."""
    say: dict[str, tuple[str, ...]]
    media: tuple[Shown, ...] = ()
    then: Task | None = None
    """Task of a second step, which takes what the first one makes."""
    control: str | None = None
    language: str = ""
    """Of the intent, where it is not that of the wording."""
    missing: tuple[Missing, ...] = ()
    clash: tuple[str, ...] = ()
    """Fields of which at least one has to be named as contradicting itself, and no other."""
    either: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Field -> values that are all right."""
    ignore: tuple[str, ...] = ()
    """What is not judged: a field, or 'task', 'roles', 'fields', 'missing', 'ask', 'language'."""
    ordered: bool = False
    """Whether the words depend on the order of the media."""
    raw: bool = False
    """Whether every letter stays as it is."""


@dataclass(frozen=True)
class Expected:
    """What one step has to be."""

    tasks: tuple[Task, ...]
    fields: Mapping[str, tuple[Any, ...]]
    """Field -> its right values; of all others None is right."""
    prompt: str = ""
    """'': not judged."""
    negative: str = ""


@dataclass(frozen=True)
class Case:
    """A request with its truth."""

    family: Family
    language: str
    request: Request
    roles: tuple[Role, ...]
    """Of each medium in the first step."""
    steps: tuple[Expected, ...]

    @property
    def asks(self) -> bool:
        """Whether one question has to be asked before it is carried out."""
        return bool(self.family.missing or self.family.clash)

    def reordered(self, order: Sequence[int]) -> Case:
        """The same request with its media in another order."""
        media = tuple(self.request.media[number] for number in order)
        return replace(
            self,
            request=replace(self.request, media=media),
            roles=tuple(self.roles[number] for number in order),
        )


@functools.cache
def families() -> tuple[Family, ...]:
    path = FOLDER / "routing.jsonl"
    found = []
    for line in lines(path):
        where = f"{path}:{line.number}"
        found.append(convert(Family, parse(line.text or b"", where), where))
    return tuple(found)


@functools.cache
def _lists() -> dict[str, dict[str, tuple[str, ...]]]:
    return read(dict[str, dict[str, tuple[str, ...]]], FOLDER / "content.json")


def cases(fills: int = FILLS) -> list[Case]:
    """All requests, always the same: of each wording as many as `fills`, all different."""
    made, seen = [], set()
    for family in families():
        # a stream for each family: one that is added changes no other
        rng = np.random.default_rng(zlib.crc32(family.name.encode()))
        for language, wordings in family.say.items():
            for wording in wordings:
                for number in range(fills):
                    # the first as it is written, the others as people add to it
                    manner = int(rng.integers(1, 4)) if number else 0
                    case = _filled(family, language, wording, rng, manner)
                    key = (case.request.text, case.request.turns, case.request.media)
                    if key not in seen:
                        seen.add(key)
                        made.append(case)
    return made


def shufflable(count: int = SHUFFLED) -> Iterator[tuple[Case, Case]]:
    """Requests with several media whose roles are told by what they are and not by their order, each with
    another order of its media."""
    several = [family for family in families() if _any_order(family)]
    rng = np.random.default_rng(zlib.crc32(b"order of media"))
    seen: set[str] = set()
    while len(seen) < count:
        family = several[int(rng.integers(len(several)))]
        language = _pick(rng, [spoken for spoken in family.say if spoken in SPOKEN])
        wordings = [text for text in family.say[language] if MARK not in text]
        if not wordings:
            continue
        case = _filled(family, language, _pick(rng, wordings), rng, int(rng.integers(4)))
        if case.request.text in seen:
            continue
        seen.add(case.request.text)
        order = list(range(len(case.roles)))
        while order == sorted(order):
            order = [int(number) for number in rng.permutation(len(order))]
        yield case, case.reordered(order)


def _any_order(family: Family) -> bool:
    roles = {(shown.kind, shown.look): shown.role for shown in family.media}
    # with as many looks as media, what a medium is says what it is for
    return not family.ordered and len(family.media) > 1 and len(roles) == len(family.media)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _filled(family: Family, language: str, wording: str, rng: np.random.Generator, manner: int) -> Case:
    """A request of a wording; `manner` 1 has chatter before it, 2 small letters alone, 3 thanks after it."""
    said: list[dict[str, tuple[Any, ...]]] = [{}, {}]
    texts = [_slots(text.strip(), language, rng, said) for text in wording.split("//")]
    prompts, negative = ["", ""], ""
    for text in texts:
        for mark, span in _SPAN.findall(text):
            if mark == "n":
                negative = span
            else:
                number = int(mark or 0)
                prompts[number] = f"{prompts[number]} {span}".strip()
    *turns, text = (_SPAN.sub(r"\2", text) for text in texts)
    if family.control is not None:
        said[0]["control"] = (family.control,)
    said[0] |= family.either
    steps = [Expected(family.tasks, said[0], prompts[0].replace(MARK, ""), negative)]
    if family.then is not None:
        steps.append(Expected((family.then,), said[1], prompts[1]))
    request = Request(
        text=text if family.raw else _mannered(text, language, rng, manner),
        media=tuple(shown.attached() for shown in family.media),
        turns=tuple(turns),
    )
    return Case(family, language, request, tuple(shown.role for shown in family.media), tuple(steps))


_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_SPAN = re.compile(r"\[(?:([n\d]):)?([^\]]*)\]")


def _slots(
    text: str, language: str, rng: np.random.Generator, said: Sequence[dict[str, tuple[Any, ...]]]
) -> str:
    """A wording with its slots filled; values of fields go to `said`, by step."""

    def filled(found: re.Match[str]) -> str:
        slot = found[1]
        if slot is None:
            return found[0][0]
        name, is_field, options = slot.partition("=")
        if slot.startswith("*"):
            return _pick(rng, slot[1:].split("|"))
        if not is_field:
            return _pick(rng, _lists()[language][name])
        value, _, word = _pick(rng, options.split("|")).partition("~")
        step, _, field_name = name.rpartition(".")
        for key, number in _values(field_name, value):
            said[int(step or 0)][key] = (number,)
        return word or value

    return _SLOT.sub(filled, text)


def _values(name: str, value: str) -> list[tuple[str, Any]]:
    if name == "size":
        width, height = value.split("x")
        return [("width", int(width)), ("height", int(height))]
    if name == "aspect":
        across, down = value.split(":")
        return [("aspect", (int(across), int(down)))]
    return [(name, float(value) if "." in value else int(value))]


def _mannered(text: str, language: str, rng: np.random.Generator, manner: int) -> str:
    if manner == 2 or language not in SPOKEN:
        return text.lower().rstrip(".") if language in SPOKEN else text
    if manner == 1:
        return _pick(rng, _lists()[language]["lead"]) + text
    if manner == 3:
        return text.rstrip(".") + _pick(rng, _lists()[language]["tail"])
    return text
