"""What a run tells: a progress line, JSONL, TensorBoard; losses by task and by noise level."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from diptych.files.visible import one_line, visible

if TYPE_CHECKING:
    from diptych.contracts import Losses
    from diptych.training.config import RunConfig


SIGMA_BINS = 5


def sigma_bin(sigma: float) -> str:
    """Name of the noise-level bin that `sigma` falls in."""
    low = min(int(sigma * SIGMA_BINS), SIGMA_BINS - 1)
    return f"sigma/{low / SIGMA_BINS:.1f}-{(low + 1) / SIGMA_BINS:.1f}"


@dataclass
class StepReport:
    means: dict[str, float]
    """Mean of each loss over the whole step."""
    norm: float
    lr: float
    losses: list[Losses]
    batches: tuple[Any, ...]


def breakdown(losses: list[Losses], batches: tuple[Any, ...]) -> dict[str, float]:
    """Mean loss under each name that the task logs: by kind of sample and by noise-level bin."""
    values: dict[str, list[float]] = defaultdict(list)
    for loss, batch in zip(losses, batches, strict=True):
        for key, found in loss.by_kind(batch).items():
            values[key] += found
    return {key: sum(v) / len(v) for key, v in sorted(values.items())}


class _Told(Console):
    """Where a run says how it goes. A run goes on when nobody reads that any more."""

    def on_broken_pipe(self) -> None:
        # rich would leave with status 1, in the middle of a step
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class RunLog:
    def __init__(self, folder: Path, config: RunConfig, quiet: bool) -> None:
        self.folder, self.config, self.quiet = folder, config, quiet
        self.console = _Told(quiet=quiet)
        self._writer: Any = None
        self._progress: Progress | None = None
        self._bar: Any = None

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(visible(text), markup=False)

    def step(self, step: int, stage: str, report: StepReport, seconds: float) -> None:
        if self.quiet:
            return
        self._advance(step, stage, report)
        if step % self.config.log_every:
            return
        row = {
            **report.means,
            "norm": report.norm,
            "lr": report.lr,
            **breakdown(report.losses, report.batches),
        }
        self.record(step, stage, seconds, row)

    def record(self, step: int, stage: str, seconds: float, row: dict[str, float]) -> None:
        """One line of log.jsonl, and the same values in TensorBoard."""
        if self.quiet:
            return
        self._append("log.jsonl", {"step": step, "stage": stage, "seconds": round(seconds, 2), **row})
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder / "tensorboard"))
        for key, value in row.items():
            self._writer.add_scalar(key, value, step)

    def _advance(self, step: int, stage: str, report: StepReport) -> None:
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self.console)
            self._progress.start()
            self._bar = self._progress.add_task("", total=self.config.steps, completed=step)
        text = "  ".join([stage, *(f"{name} {mean:.3f}" for name, mean in report.means.items())])
        self._progress.update(self._bar, completed=step, description=escape(visible(text)))

    def bad_sample(self, step: int, reason: str) -> None:
        self.say(one_line(f"step {step}: unusable sample: {reason}"))
        self._append("bad_samples.jsonl", {"step": step, "reason": reason})

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._writer is not None:
            self._writer.close()
