"""What a model can do: all that a request is settled by. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.flow.config import SamplerConfig
from diptych.request import Task


def round_sides(width: int, height: int, multiple: int) -> tuple[int, int]:
    """The nearest size whose sides are multiples, at least one of them; ties to even."""
    return (
        max(multiple, round(width / multiple) * multiple),
        max(multiple, round(height / multiple) * multiple),
    )


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
    max_frames: int = 1
    """Frames of the longest clip that it draws; 1 for a system of pictures."""
    max_media: int = 1
    """Attached media that it looks at for one request."""
    reads_native: bool = False
    """Whether pictures that are given are brought to the native area where theirs is larger."""
    control: str = ""
    """What a control frame holds ('edges'), or ''."""

    def __post_init__(self) -> None:
        if not 1 <= self.native <= self.max_side:
            raise ValueError(f"native must be 1 to {self.max_side} px, got {self.native}")

    def round_size(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size, px, that can be drawn."""
        return round_sides(width, height, self.multiple)

    def read_size(self, width: int, height: int) -> tuple[int, int]:
        """The size, px, at which a picture of this size is read."""
        shrink = min(1.0, (self.native**2 / (width * height)) ** 0.5) if self.reads_native else 1.0
        return self.round_size(round(width * shrink), round(height * shrink))
