"""What the loop knows of a model and its data: the contract between a trainer and what it trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diptych.data.loader import StepDataset
from diptych.training.config import RunConfig

SIGMA_BINS = 5


def sigma_bin(sigma: float) -> str:
    """Name of the noise-level bin that `sigma` falls in."""
    low = min(int(sigma * SIGMA_BINS), SIGMA_BINS - 1)
    return f"sigma/{low / SIGMA_BINS:.1f}-{(low + 1) / SIGMA_BINS:.1f}"


@contextmanager
def exchanged(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other weights, such as the averaged ones, for a while."""
    named = dict(model.named_parameters())
    kept = {name: parameter.data for name, parameter in named.items()}
    for name, parameter in named.items():
        parameter.data = weights[name].to(parameter.device)
    try:
        yield
    finally:
        for name, parameter in named.items():
            parameter.data = kept[name]


class Losses(Protocol):
    """What one batch gave."""

    @property
    def sums(self) -> dict[str, Tensor]:
        """Differentiable sums by name; the loop divides each by the whole step's total of that name."""
        ...

    def by_kind(self, batch: Any) -> dict[str, list[float]]:
        """Single losses under the names that they are logged by."""
        ...


class Job(Protocol):
    """A model with its task and data. `model` holds all that may learn, `task` calls it."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def task(self) -> nn.Module:
        """task(batch) -> Losses."""
        ...

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """What is sharded together."""
        ...

    @property
    def loss_names(self) -> tuple[str, ...]: ...

    def totals(self, batch: Any) -> dict[str, float]:
        """What the sums of a batch are divided by, known without the model."""
        ...

    def loss_weights(self, stage: Any) -> dict[str, float]: ...

    def learns(self, name: str, stage: Any) -> bool: ...

    def dataset(self, stage: Any, rank: int, ranks: int) -> StepDataset[Any]: ...

    def describe(self, stage: Any) -> str:
        """The stage in words, for the log."""
        ...

    def prepare(self, folder: Path) -> None:
        """Write into a new run's folder what cannot be read off its config."""
        ...

    def sample(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Draw fixed prompts with these weights."""
        ...

    def validate(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, float]:
        """Losses on what is never trained on, at fixed noise; {} where a job has none."""
        ...
