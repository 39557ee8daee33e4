"""What a model can do: all that a request is settled by. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from diptych.flow.config import SamplerConfig
from diptych.request import FPS, TASKS, Product, RequestError, Task


def round_sides(width: int, height: int, multiple: int) -> tuple[int, int]:
    """The nearest size whose sides are multiples, at least one of them; ties to even."""
    return (
        max(multiple, round(width / multiple) * multiple),
        max(multiple, round(height / multiple) * multiple),
    )


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Pixels that a picture is read at: at least and at most."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most:
            raise ValueError(f"least must be above 0 and at most most, got {self.least} and {self.most}")

    def shared(self, everything: int, together: int) -> Bounds:
        """Of one of so many pictures that may have `everything` px together; 0: no bound."""
        most = min(self.most, everything // together) if everything else self.most
        return Bounds(least=min(self.least, most), most=most)


def size_between(width: int, height: int, multiple: int, bounds: Bounds) -> tuple[int, int]:
    """The nearest size whose sides are multiples, ties to even, its area brought within the bounds: rounded
    down where it was too large, up where it was too small."""
    sides = round_sides(width, height, multiple)
    area = sides[0] * sides[1]
    if area > bounds.most:
        ratio = (height * width / bounds.most) ** 0.5
        return (
            max(multiple, int(width / ratio // multiple) * multiple),
            max(multiple, int(height / ratio // multiple) * multiple),
        )
    if area < bounds.least:
        ratio = (bounds.least / (height * width)) ** 0.5
        return (
            -int(-(width * ratio) // multiple) * multiple,
            -int(-(height * ratio) // multiple) * multiple,
        )
    return sides


SLIMMEST = 200
"""Of a longer strip the other side would be stretched many times to reach one token."""


def check_shape(width: int, height: int) -> None:
    """Raises RequestError for a picture that is more than SLIMMEST times as long as wide."""
    if max(width, height) > SLIMMEST * min(width, height):
        raise RequestError(
            f"a picture of {width}x{height} px is attached, and one side may be at most {SLIMMEST} times the "
            "other"
        )


class Words(Protocol):
    """The words that a model was trained to be asked with."""

    def put(self, task: Task, prompt: str, sure: bool = False) -> str | None:
        """A prompt in these words; None where it is not understood, and where nothing is known of the task.
        `sure`: also where it may as well be meant as another task."""
        ...


MAX_NATIVE = 16_384
"""Pixels a side of the largest pictures that a model is made for."""
MAX_TEXT = 4000
"""Characters of a request that are read, unless a model says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a model can do, and how it draws unless a plan says otherwise: all that a request is settled by.
    It is known from a model folder's JSON before any weight is read, and is the same of the loaded system."""

    native: int
    """Side, px, of the pictures that the model was trained on."""
    multiple: int
    """Sides of pictures are multiples of this, px."""
    max_side: int
    tasks: frozenset[Task]
    """Those of `request.TASKS` that it carries out."""
    sampler: SamplerConfig
    aspect: tuple[int, int] = (1, 1)
    """Width to height of what it draws where nothing is said."""
    largest: int = 0
    """Side, px, of a square as large as words such as '4K' may make a picture; 0: `native`. Numbers of px may
    be larger."""
    max_frames: int = 1
    """Frames of the longest clip that it draws; 1 for a system of pictures."""
    frame_step: int = 1
    """A clip has a multiple of this many frames, and one more."""
    fps: float = FPS
    """Frames a second of its clips, unless a request says."""
    keeps_fps: bool = False
    """Whether its clips are drawn at these, whatever a request says."""
    clip_side: int = 0
    """Side, px, of the frames of clips that it was trained on; 0: `native`."""
    max_media: int = 1
    """Attached media that it looks at for one request."""
    reads_native: bool = False
    """Whether pictures that are given are brought to the native area where theirs is larger."""
    controls: tuple[str, ...] = ()
    """What a control frame may hold ('edges')."""
    free: bool = False
    """Whether it takes text in its own letters and lines, with or without media; else requests on one line,
    and questions about what is attached."""
    max_text: int = MAX_TEXT
    """Characters of a request that are read."""
    think_tokens: int = 0
    """Most tokens of thoughts before a picture; 0: it does not think."""
    story_pictures: int = 0
    """Most pictures of one answer; 0: it does not draw within an answer."""
    story_tokens: int = 0
    """Most tokens of all the text of such an answer, unless a request says."""
    clip_frames: int = 0
    """Most frames of a clip that it looks at; 0: it looks at none."""
    source: Bounds | None = None
    """Pixels of a picture that is changed or continued, which may then be drawn at any size; None: it is
    drawn at the size at which it is read."""
    all_sources: int = 0
    """Most pixels of all sources of a request together; 0: no bound."""
    masked_edits: bool = False
    """Whether a source is changed within a mask alone."""
    words: Words | None = None
    """Those that it knows; None: it is asked in the user's own."""
    plans: bool = False
    """Whether the model reads requests itself, and so is loaded before a plan is told."""
    parts: tuple[tuple[frozenset[Task], Settings], ...] = ()
    """What is handed to other models: tasks, and what the model can do that carries them out. They are among
    `tasks` as well."""

    def __post_init__(self) -> None:
        most = min(self.max_side, MAX_NATIVE)
        if not 1 <= self.native <= most:
            raise ValueError(f"native must be 1 to {most} px, got {self.native}")

    def of(self, task: Task) -> Settings:
        """Those of the model that carries out a task, at the size of what it then draws."""
        found = next((settings for tasks, settings in self.parts if task in tasks), self)
        if found.clip_side and TASKS[task].makes is Product.CLIP:
            return replace(found, native=found.clip_side, clip_side=0)
        return found

    def own_size(self, aspect: tuple[float, float] | None = None, side: int = 0) -> tuple[int, int]:
        """The size, px, of this aspect (the model's own), with the area of a square of `side` (`native`)."""
        across, down = aspect or self.aspect
        width = (side or self.native) * (across / down) ** 0.5
        return max(1, round(width)), max(1, round(width * down / across))

    def round_size(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size, px, that can be drawn."""
        return round_sides(width, height, self.multiple)

    def read_size(self, width: int, height: int, together: int = 1) -> tuple[int, int]:
        """The size, px, at which a picture of this size, one of so many of a request, is read. Raises
        RequestError for a strip that is too thin."""
        if self.source is not None:
            check_shape(width, height)
            bounds = self.source.shared(self.all_sources, together)
            return size_between(width, height, self.multiple, bounds)
        shrink = min(1.0, (self.native**2 / (width * height)) ** 0.5) if self.reads_native else 1.0
        return self.round_size(round(width * shrink), round(height * shrink))
