"""What a bridge asks of a language model: a frozen model of transformers, or the language part of a system
of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from diptych.contracts import AnswerLimits
from diptych.models.connector import Layered
from diptych.request import Message


@dataclass(frozen=True, eq=False)
class Asked:
    """A request to draw, as a language model reads it: up to where queries would stand."""

    ids: tuple[int, ...]
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """What its picture processor made of attached pictures, by the names of the model's own arguments."""


@runtime_checkable
class Reader(Layered, Protocol):
    """A language model with the words around a request, and the limits of its sequence."""

    context: int
    """Most tokens that it reads, queries included."""
    mark: int | None
    """The token behind which queries stand; None: behind the last."""
    request: str
    """What a prompt becomes before it is asked, {} in place of the prompt."""

    @property
    def model(self) -> nn.Module:
        """What a run freezes, or trains."""
        ...

    @property
    def speaker(self) -> Speaker:
        """What answers with this model."""
        ...

    def asked(self, text: str, pictures: Sequence[np.ndarray] = ()) -> Asked:
        """A request to draw. Raises RequestError for pictures that it does not look at."""
        ...

    def embedded(self, asked: Asked) -> Tensor:
        """Embeddings (T, channels) of a request, those of pictures in their places."""
        ...

    def identity(self) -> str:
        """Names the model and all that its states depend on: caches are keyed by it."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that it is opened from."""
        ...


@runtime_checkable
class Lends(Protocol):
    """A system with a language part that bridges may hang on."""

    def backbone(self) -> Reader: ...


class Speaker(Protocol):
    """What answers: a language model, or a whole system."""

    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]: ...

    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]: ...

    def log_odds(self, conversations: Sequence[Sequence[Message]]) -> list[float]: ...
