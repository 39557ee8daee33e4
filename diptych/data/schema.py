"""One sample schema for every task: conversation turns with text and pictures in order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

ROLES = ("user", "assistant", "system")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture inside a turn: uint8 RGB (height, width, 3). `drawn` pictures are to be generated, others are
    read."""

    pixels: np.ndarray
    drawn: bool = False

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(
                f"a picture must be uint8 (height, width, 3), got {self.pixels.dtype} {self.pixels.shape}"
            )


@dataclass(frozen=True, eq=False)
class Turn:
    role: str
    parts: tuple[str | Picture, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, got {self.role!r}")
        if self.role != "assistant" and any(isinstance(p, Picture) and p.drawn for p in self.parts):
            raise ValueError("only the assistant draws: a drawn picture must stand in an assistant turn")


@dataclass(frozen=True, eq=False)
class Sample:
    turns: tuple[Turn, ...]
    task: str
    """Name under which its losses are reported: understand, generate, edit, interleave, text."""
    origin: str = field(default="", compare=False)
    """Where it comes from, as file:line, for messages."""

    @property
    def pictures(self) -> list[Picture]:
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Picture)]
