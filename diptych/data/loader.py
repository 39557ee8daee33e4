"""Steps to batches: a map-style data set indexed by step, so that workers and resumption need no state."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

B = TypeVar("B")
MAX_WORKERS = 256


@dataclass(frozen=True)
class StepData(Generic[B]):
    """What one rank trains on in one step."""

    batches: tuple[B, ...]
    """One per accumulation."""
    bad: tuple[str, ...]
    """Samples that could not be used, each with its reason."""


class StepDataset(Dataset[StepData[B]], ABC):
    """data[step] for one rank. The samples of a step are the same for any number of ranks, workers and
    accumulations."""

    workers: int

    @abstractmethod
    def __getitem__(self, step: int) -> StepData[B]: ...

    def steps(self, start: int, end: int) -> Iterator[StepData[B]]:
        """Steps start .. end-1 in order, made ahead by the workers."""
        loader = DataLoader(
            self,
            batch_size=None,
            # workers take turns and the loader hands out in order: where a run goes on, nothing is skipped or
            # replayed
            sampler=range(start, end),
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
            worker_init_fn=_begin_worker,
        )
        yield from loader


def _begin_worker(worker: int) -> None:
    # workers run beside the training step, which needs the other cores
    torch.set_num_threads(1)
    # a terminal sends Ctrl-C to all; the run still needs the step that it is taking
    signal.signal(signal.SIGINT, signal.SIG_IGN)
