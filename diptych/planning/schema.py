"""What a planner is told and what it answers: requests, steps and intents, and their JSON. No torch here.

An intent holds what the user said, in the user's own terms: "4K", "16:9", "5 seconds". What a model makes of
it is a plan, see `normalise`; so one intent serves any model, and every change to what was said can be told.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Literal, Protocol, get_args

from diptych.files.typed import convert, parse, to_json
from diptych.request import MANY, TASKS, RequestError, Role, Task

VERSION = 1
"""Of the JSON that intents are written as."""
STEPS = 8
"""Steps that a request may have."""
LARGEST = 10**12
"""Numbers in a request are smaller, but for its seed: what is longer is no number that anyone means."""

Language = Literal["en", "zh", "es", "de", "id", "und"]
"""Of a request; und: another one, or unknown."""
Missing = Literal[
    "source",
    "mask",
    "reference",
    "control",
    "first",
    "last",
    "subject",
    "prompt",
    "clip",
]
MISSING: tuple[str, ...] = get_args(Missing)
"""What a request may need and not have: a medium for a role, `prompt` (what is to be drawn or changed),
`clip` (a clip, where pictures are attached)."""


class Control(StrEnum):
    """What a medium that is followed holds."""

    EDGES = "edges"
    LINES = "lines"
    """A drawing in lines: a sketch, a scribble."""
    DEPTH = "depth"
    POSE = "pose"
    BOXES = "boxes"
    SEGMENTS = "segments"
    GRAY = "gray"
    FLOW = "flow"
    PATHS = "paths"


class Look(StrEnum):
    """What a medium looks like, from the statistics of its pixels alone."""

    PHOTO = "photo"
    """Anything that is none of the others."""
    MASK = "mask"
    EDGES = "edges"
    DEPTH = "depth"
    POSE = "pose"
    BOXES = "boxes"
    BLANK = "blank"


@dataclass(frozen=True, kw_only=True)
class Attached:
    """What a planner is told of a medium."""

    kind: Literal["picture", "clip"]
    look: Look = Look.PHOTO
    width: int = 0
    height: int = 0
    """px; 0: unknown."""
    frames: int = 1
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a planner reads."""

    text: str
    """A medium may stand in it as `request.MARK`; those without a mark come in order after those with."""
    media: tuple[Attached, ...] = ()
    turns: tuple[str, ...] = ()
    """What the user asked for before, oldest first."""


@dataclass(frozen=True)
class Input:
    """One medium of a step: an attached one by its number, or what an earlier step makes."""

    role: Role
    medium: int | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if (self.medium is None) == (self.step is None):
            raise ValueError("an input has either a medium or a step")
        if not 0 <= (self.medium if self.medium is not None else self.step or 0) < MANY:
            raise ValueError(f"the number of an input's medium or step is 0 to {MANY - 1}")
        if self.role is Role.TARGET:
            raise ValueError("an input is given, so its role cannot be 'target'")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that is asked for. None: nothing is said of it."""

    task: Task
    prompt: str
    """What is to be drawn, changed or answered, in the user's language and without words on settings."""
    inputs: tuple[Input, ...] = ()
    control: Control | None = None
    width: int | None = None
    height: int | None = None
    """Sides in px, where they are said in px."""
    aspect: tuple[int, int] | None = None
    """Width to height: (16, 9), (1, 1) for square, (9, 16) for vertical, (4, 3) for wide."""
    resolution: int | None = None
    """The short side, px, of 480p (480) to 4K (2160)."""
    seconds: float | None = None
    fps: float | None = None
    frames: int | None = None
    count: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        takes = TASKS[self.task].takes
        # how many of each role is no matter here: two masks are a plan that is refused when it is settled
        for found in self.inputs:
            if found.role is not Role.UNUSED and found.role not in takes:
                raise ValueError(f"{self.task.value!r} takes no {found.role.value}")
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError("a step takes each medium once in each role")
        if len(self.inputs) > MANY:
            raise ValueError(f"a step has at most {MANY} inputs, got {len(self.inputs)}")
        for name in ("width", "height", "resolution", "seconds", "fps", "frames", "count", "steps"):
            _check_number(name, getattr(self, name))
        _check_number("guidance_scale", self.guidance_scale)
        if self.seed is not None and abs(self.seed) >= 10**19:
            raise ValueError("seed has at most 19 digits")
        if self.aspect is not None and not all(0 < side < 10**5 for side in self.aspect):
            raise ValueError(f"aspect must be two numbers above 0, got {self.aspect}")


def _check_number(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and abs(value) < LARGEST):
        raise ValueError(f"{name} must be a number below {LARGEST:,}, got {value}")


SAID = tuple(field.name for field in fields(Step))
"""Names of the fields of a step."""


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What a request means: one or more steps, and how sure that is."""

    steps: tuple[Step, ...]
    language: Language = "und"
    confidence: float = 1.0
    """0..1."""
    missing: tuple[Missing, ...] = ()
    contradictions: tuple[str, ...] = ()
    """Fields of a step that the request gives two values for."""
    question: str = ""
    """One question that would settle what is unclear; '': none is needed."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= STEPS:
            raise ValueError(f"an intent has 1 to {STEPS} steps, got {len(self.steps)}")
        for number, step in enumerate(self.steps):
            if any(found.step is not None and found.step >= number for found in step.inputs):
                raise ValueError(f"step {number} takes what a later step makes")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence must be 0 to 1, got {self.confidence}")
        for named in (self.missing, self.contradictions):
            if len(set(named)) < len(named):
                raise ValueError("missing and contradictions name a thing once")
        if unknown := [name for name in self.contradictions if name not in SAID]:
            raise ValueError(f"contradictions must be fields of a step, got {unknown[0]!r}")

    def plain(self) -> dict[str, Any]:
        """As plain values, with the version of the schema."""
        return {"version": VERSION, **asdict(self)}

    def to_json(self) -> str:
        return to_json(self.plain())

    @classmethod
    def from_json(cls, text: str | bytes) -> Intent:
        """Inverse of `to_json`. Raises RequestError that names the field of a wrong value."""
        try:
            return cls.checked(parse(text, "the intent"))
        except ValueError as error:
            raise RequestError(str(error)) from error

    @classmethod
    def checked(cls, values: Any, where: str = "the intent") -> Intent:
        """An intent of plain values; see `from_json`."""
        if not isinstance(values, dict):
            raise RequestError(f"{where}: a JSON object is needed, got {type(values).__name__}")
        version = values.get("version")
        # not ==: True would pass for 1
        if type(version) is not int or version != VERSION:
            raise RequestError(f"{where}: version must be {VERSION}, got {version!r}")
        rest = {key: value for key, value in values.items() if key != "version"}
        try:
            return convert(cls, rest, where)
        except ValueError as error:
            raise RequestError(str(error)) from error


class Planner(Protocol):
    """Whatever reads requests: rules, a learned planner, a language model."""

    def plan(self, request: Request) -> Intent:
        """What a request asks for. Raises RequestError for one that is empty or too long."""
        ...
