"""What goes in and what was understood: messages, media, roles, tasks and plans. No torch here.

A picture request is a stack of frames with roles: some are given (a source, a mask, a reference ...), some
are to be drawn. `TASKS` says which roles a task takes, how many of each, and what it makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np


class RequestError(ValueError):
    """A request that cannot be carried out; the message is one sentence that says what would be right."""


class Role(StrEnum):
    """What a frame is for. The one list of roles in the project."""

    TARGET = "target"
    """It is to be drawn."""
    SOURCE = "source"
    """It is to be changed."""
    MASK = "mask"
    """White where the source may change."""
    REFERENCE = "reference"
    """It shows what is to appear, elsewhere."""
    CONTROL = "control"
    """What is drawn follows it: edges, for a model that was trained on edges."""
    FIRST = "first"
    """The first frame of the clip that is to be drawn."""
    LAST = "last"
    """The last frame of the clip that is to be drawn."""
    SUBJECT = "subject"
    """A question is asked about it."""
    UNUSED = "unused"
    """It was attached, and nothing looks at it."""


class Task(StrEnum):
    """Unison's twelve tasks; its three kinds of understanding are one here, as the media tell them apart, and
    an edit with a mask is an edit with one role more. And SenseNova-U1's answers of text and pictures."""

    ANSWER = "answer"
    TEXT_TO_IMAGE = "text-to-image"
    EDIT = "edit"
    CONTROL_TO_IMAGE = "control-to-image"
    REFERENCE_TO_IMAGE = "reference-to-image"
    TEXT_TO_CLIP = "text-to-clip"
    IMAGE_TO_CLIP = "image-to-clip"
    REFERENCE_TO_CLIP = "reference-to-clip"
    EDIT_CLIP = "edit-clip"
    CONTROL_TO_CLIP = "control-to-clip"
    INTERLEAVE = "interleave"


class Product(StrEnum):
    TEXT = "text"
    PICTURE = "picture"
    CLIP = "clip"
    STORY = "story"
    """Text and pictures in turn."""


MARK = "<image>"
"""Stands in a text where a picture or a clip belongs."""
FPS = 8.0
"""Frames a second of a clip that says nothing of them."""
MAX_FPS = 240.0
MANY = 64
"""Media of one role that a request may have."""


@dataclass(frozen=True)
class TaskFacts:
    """What a task takes and makes."""

    makes: Product
    takes: Mapping[Role, tuple[int, int]] = field(default_factory=dict)
    """Role -> least and most media of it."""
    default_role: Role = Role.UNUSED
    """What an attached medium is for where the request does not say."""

    @property
    def changes(self) -> bool:
        """Whether it changes what is attached, and so draws at that size."""
        return Role.SOURCE in self.takes

    @property
    def draws_from_words(self) -> bool:
        """Whether it draws, and takes no medium at all."""
        return self.makes is not Product.TEXT and not self.takes

    @property
    def writes(self) -> bool:
        """Whether there is text in what it makes."""
        return self.makes in (Product.TEXT, Product.STORY)

    def fitted(self, roles: Iterable[Role]) -> tuple[Role, ...]:
        """Roles of media with as many as may be of what the task is about: further ones show what is to
        appear, where the task takes such."""
        own, found = self.default_role, list[Role]()
        _, most = self.takes.get(own, (0, MANY))
        for role in roles:
            further = role is own and found.count(own) >= most and Role.REFERENCE in self.takes
            found.append(Role.REFERENCE if further else role)
        return tuple(found)


_ONE, _SOME, _MAYBE, _ANY = (1, 1), (1, MANY), (0, 1), (0, MANY)
# planner, checks and drawing all read this table: a task is added here, and to the capabilities of a system
TASKS: Mapping[Task, TaskFacts] = {
    Task.ANSWER: TaskFacts(Product.TEXT, {Role.SUBJECT: _ANY}, Role.SUBJECT),
    Task.TEXT_TO_IMAGE: TaskFacts(Product.PICTURE),
    Task.EDIT: TaskFacts(
        Product.PICTURE, {Role.SOURCE: _ONE, Role.MASK: _MAYBE, Role.REFERENCE: _ANY}, Role.SOURCE
    ),
    Task.CONTROL_TO_IMAGE: TaskFacts(
        Product.PICTURE, {Role.CONTROL: _ONE, Role.REFERENCE: _ANY}, Role.CONTROL
    ),
    Task.REFERENCE_TO_IMAGE: TaskFacts(Product.PICTURE, {Role.REFERENCE: _SOME}, Role.REFERENCE),
    Task.TEXT_TO_CLIP: TaskFacts(Product.CLIP),
    Task.IMAGE_TO_CLIP: TaskFacts(Product.CLIP, {Role.FIRST: _MAYBE, Role.LAST: _MAYBE}, Role.FIRST),
    Task.REFERENCE_TO_CLIP: TaskFacts(Product.CLIP, {Role.REFERENCE: _SOME}, Role.REFERENCE),
    Task.EDIT_CLIP: TaskFacts(
        Product.CLIP, {Role.SOURCE: _ONE, Role.MASK: _MAYBE, Role.REFERENCE: _ANY}, Role.SOURCE
    ),
    Task.CONTROL_TO_CLIP: TaskFacts(Product.CLIP, {Role.CONTROL: _ONE, Role.REFERENCE: _ANY}, Role.CONTROL),
    Task.INTERLEAVE: TaskFacts(Product.STORY, {Role.SUBJECT: _ANY}, Role.SUBJECT),
}
"""The one table of tasks: which roles each takes, how many of each, what it makes."""


@dataclass(frozen=True, eq=False)
class Media:
    """A picture or a clip: uint8 RGB frames (frames, height, width, 3), and the name under which messages
    speak of it."""

    frames: np.ndarray
    name: str = "picture"
    fps: float | None = None
    """Frames a second of a clip; None for a picture."""
    times: tuple[float, ...] = ()
    """When each frame is shown, seconds, of a clip whose frames do not follow one another evenly."""

    def __post_init__(self) -> None:
        # a float picture in 0..1 would be taken for an almost black one, so the type is checked here
        if self.frames.ndim != 4 or self.frames.shape[3] != 3 or self.frames.dtype != "uint8":
            raise RequestError(
                f"{self.name}: media must be uint8 (frames, height, width, 3), got {self.frames.dtype} "
                f"{self.frames.shape}"
            )
        if 0 in self.frames.shape:
            raise RequestError(f"{self.name}: media must show something, got {self.frames.shape}")
        if self.times and len(self.times) != len(self.frames):
            raise RequestError(f"{self.name}: {len(self.frames)} frames, but {len(self.times)} times")

    @classmethod
    def picture(cls, pixels: np.ndarray, name: str = "picture") -> Media:
        """A single picture, uint8 (height, width, 3)."""
        if pixels.ndim != 3:
            raise RequestError(
                f"a picture must be uint8 (height, width, 3), got {pixels.dtype} {pixels.shape}"
            )
        return cls(pixels[None], name)

    @property
    def pixels(self) -> np.ndarray:
        """The only frame of a picture (height, width, 3). Raises RequestError for a clip."""
        if len(self.frames) != 1:
            raise RequestError(f"{self.name} is a clip of {len(self.frames)} frames, and a picture is needed")
        return self.frames[0]

    def time(self, frame: int) -> float:
        """When a frame is shown, seconds from the beginning."""
        return self.times[frame] if self.times else frame / (self.fps or FPS)


@dataclass(frozen=True, eq=False)
class Message:
    """One turn of a conversation."""

    role: str
    text: str
    media: tuple[Media, ...] = ()


@dataclass(frozen=True)
class Place:
    """One frame of the stack that a plan stands for."""

    role: Role
    time: int
    """Place in time, counted in frames of what is drawn; what has no place in time (a reference) is at 0."""
    medium: int | None = None
    """Number of the attached medium that gives it; None: it is to be drawn."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was understood; every field can be overridden. None = the model's default, filled in when the plan
    is settled."""

    task: Task
    prompt: str
    inputs: tuple[Role, ...] = ()
    """Role of each medium, in order."""
    media: tuple[int, ...] = ()
    """Which medium each of `inputs` is, where not all attached ones in their order: by number, and behind the
    attached ones what each earlier step of the request makes."""
    control: str = ""
    """What a medium that is followed holds: 'edges', 'depth' ...; '': what the model draws along."""
    width: int | None = None
    height: int | None = None
    frames: int = 1
    """Frames to draw; a picture has one."""
    fps: float | None = None
    """Frames a second of a clip."""
    count: int = 1
    """Pictures or clips to draw, with seeds seed, seed + 1, ..."""
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    negative_prompt: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height, px, of each picture of an answer with several, where they differ; the last one is
    also that of all further ones."""
    think: bool = False
    """Whether the model thinks in words before it draws."""
    think_tokens: int | None = None
    """Most tokens of its thoughts."""
    max_tokens: int | None = None
    """Most tokens of what is written."""
    temperature: float = 0.0
    """What is written is drawn at random, the more freely the higher; 0: always the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability may be drawn."""
    stop: tuple[str, ...] = ()
    """Texts before which what is written ends."""
    confidence: float = 1.0
    """How sure the planner is of the task, 0..1."""
    missing: tuple[str, ...] = ()
    """What the request needs and does not have."""
    adjustments: tuple[str, ...] = ()
    """What was changed to make the plan possible, in words."""

    def stack(self) -> Iterator[Place]:
        """Every frame with its role and place in time: those to be drawn first, then one for each medium that
        is looked at, in the order of the media. A last frame stands at the end of what is drawn."""
        for time in range(self.frames):
            yield Place(Role.TARGET, time)
        for number, role in enumerate(self.inputs):
            if role is not Role.UNUSED:
                yield Place(role, self.frames - 1 if role is Role.LAST else 0, number)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Inverse of `to_json`. Raises RequestError that names the field of a wrong value."""
        try:
            values = msgspec.json.decode(text.encode())
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise RequestError(f"the plan is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise RequestError(f"a plan is a JSON object, got {type(values).__name__}")
        return cls.checked(values)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Plan:
        """A plan of these fields. Raises RequestError that names the field of a wrong value."""
        # looked at before the conversion: msgspec passes over unknown fields, so that a misspelt one would
        # have no effect
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise RequestError(f"a plan has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        if absent := sorted({"task", "prompt"} - set(values)):
            raise RequestError(f"the plan has no {absent[0]!r}")
        # numpy's numbers are meant as Python's: a seed is often drawn by it
        plain = {key: value.item() if hasattr(value, "dtype") else value for key, value in values.items()}
        try:
            return msgspec.convert(plain, cls, strict=True)
        except msgspec.ValidationError as error:
            raise RequestError(f"the plan: {error}") from error

    def shown(self) -> dict[str, Any]:
        """The fields that say something, for printing."""
        silent = {
            "inputs": (),
            "media": (),
            "control": "",
            "missing": (),
            "adjustments": (),
            "negative_prompt": "",
            "frames": 1,
            "count": 1,
            "sizes": (),
            "think": False,
            "temperature": 0.0,
            "top_p": 1.0,
            "stop": (),
        }
        # object() equals nothing, so that a field without a silent value is shown unless it is None
        values = {k: v for k, v in asdict(self).items() if v is not None and silent.get(k, object()) != v}
        if TASKS[self.task].makes is Product.TEXT:
            for key in ("width", "height", "steps", "guidance_scale", "image_guidance_scale"):
                values.pop(key, None)
            # what is always the likeliest has no chance in it
            if not self.temperature:
                values.pop("seed", None)
        return values


def check_text(what: str, text: str) -> None:
    """Raises RequestError for a text that no tokenizer takes."""
    # what a shell hands on that is no UTF-8 comes as lone surrogates
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(f"the {what} holds bytes that are no UTF-8 text: write it in UTF-8")


def check_seed(seed: int) -> None:
    """Raises RequestError for a number that begins no run, test or growth; a plan's own seed may be
    larger."""
    if not 0 <= seed < 2**32:
        raise RequestError(f"seed must be 0 or more and below 2^32, got {seed}")


def parse_task(name: str) -> Task:
    """Raises RequestError that lists the tasks."""
    if name not in list(Task):
        raise RequestError(f"there is no task {name!r}; tasks: {', '.join(Task)}")
    return Task(name)


def check_roles(task: Task, inputs: Sequence[Role]) -> None:
    """Raises RequestError where a task is given roles that it does not take, too many, or too few."""
    facts = TASKS[task]
    for role in dict.fromkeys(inputs):
        # any task may leave a medium unused: that is the one role that needs no place in its table
        if role is not Role.UNUSED and role not in facts.takes:
            taken = ", ".join(facts.takes) or "no media"
            raise RequestError(f"{task.value!r} takes no {role.value} ({taken})")
    for role, (least, most) in facts.takes.items():
        found = inputs.count(role)
        if not least <= found <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise RequestError(f"{task.value!r} takes {wanted} {role.value}, got {found}")
