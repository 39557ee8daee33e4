"""What the engine asks of a system that holds conversations, besides what every system promises."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from diptych.contracts import AnswerLimits, Picture, Prompt, Stack, Written
from diptych.planning import Planner
from diptych.request import Media, Plan


@dataclass(frozen=True)
class Passage:
    """A stretch of text between two pictures of an answer."""

    written: Written
    ended: str
    """Why it ended: 'end' (all is said), 'picture' (one is to be drawn now), or 'limit' (of tokens)."""


def limits_of(plan: Plan) -> AnswerLimits:
    """How a plan has its text written."""
    return AnswerLimits(
        max_tokens=plan.max_tokens,
        temperature=plan.temperature,
        top_p=plan.top_p,
        seed=plan.seed,
        stop=plan.stop,
    )


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

    def telling(self) -> Self:
        """The same system for one answer of text and pictures, of which it reads and writes each token
        once."""
        ...

    def passage(self, prompt: Prompt, stack: Stack, limits: AnswerLimits) -> Generator[str, None, Passage]:
        """The text that goes on after `prompt.begun`, up to the next picture, piece by piece."""
        ...

    def seen(self, target: Tensor) -> Picture:
        """A picture that was drawn, a target (1, C, H, W), as the model reads it back: as it is, neither
        rounded nor clamped."""
        ...
