"""What the engine asks of a system that holds conversations, besides what every system promises."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from diptych.contracts import AnswerLimits, Picture, Prompt, Stack, Written
from diptych.planning import Planner
from diptych.request import Media


@dataclass(frozen=True)
class Passage:
    """A stretch of text between two pictures of an answer."""

    written: Written
    ended: str
    """Why it ended: 'end' (all is said), 'picture' (one is to be drawn now), or 'limit' (of tokens)."""


@runtime_checkable
class Plans(Protocol):
    """What a system has besides that reads requests itself, as its settings say."""

    def planner(self, media: Sequence[Media | Path]) -> Planner:
        """The planner of a request with these media, which it may look at."""
        ...


@runtime_checkable
class Converses(Protocol):
    """What a system has besides that thinks, or draws within its answers; whether it does either, its
    settings say."""

    def thoughts(self, prompt: Prompt, stack: Stack, limits: AnswerLimits) -> Generator[str, None, Written]:
        """What the model thinks before it draws, piece by piece; returns it as `Prompt.thought` takes it."""
        ...

    def passage(self, prompt: Prompt, stack: Stack, limits: AnswerLimits) -> Generator[str, None, Passage]:
        """The text that goes on after `prompt.begun`, up to the next picture, piece by piece."""
        ...

    def seen(self, target: Tensor) -> Picture:
        """A picture that was drawn, a target (1, C, H, W), as the model reads it back: as it is, neither
        rounded nor clamped."""
        ...
