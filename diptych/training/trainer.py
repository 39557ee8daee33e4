"""The loop: fetch, accumulate, clip, step, log, save, sample."""

from __future__ import annotations

import fcntl
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from diptych.data.loader import StepData, StepDataset
from diptych.optim.build import build_optimisers, learning_rate
from diptych.training import checkpoint, distributed
from diptych.training.config import StageConfig, to_json
from diptych.training.curves import draw_curves
from diptych.training.ema import EMA
from diptych.training.job import Job, Losses
from diptych.training.log import RunLog, StepReport


class TrainingStopped(RuntimeError):
    """The run stopped itself: gradients that are not finite, or too many bad samples. The last checkpoint is
    good."""


class Trainer:
    """One run in `folder`. A run that was interrupted goes on from its last good checkpoint, equal to the
    bit."""

    def __init__(self, job: Job, folder: Path, *, quiet: bool = False) -> None:
        config = job.config
        if not config.stages or not config.steps:
            raise ValueError("a run needs at least one stage with at least one step")
        self.job, self.config, self.folder = job, config, folder
        self.model, self.task = job.model, job.task
        if config.weights == "bfloat16":
            self.model.to(torch.bfloat16)
        self.ranks = distributed.start()
        self.ranks, placed = distributed.prepare(self.task, job.blocks, self.ranks, config.parallel)
        self.ema = EMA(self.model, config.ema)
        self.step = 0
        self.stage = -1
        self.seconds = 0.0
        self.skipped = 0
        self.bad_samples = 0
        self.asked_to_stop = self.stopping = False
        self.log = RunLog(folder, config, quiet=quiet or not self.ranks.first)
        if placed:
            self.log.say(placed)
        self.optimisers: list[torch.optim.Optimizer] = []
        self.learning: list[nn.Parameter] = []
        self.lock: IO[str] | None = None
        if self.ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text(to_json(config))
            job.prepare(folder)

    def train(self) -> None:
        """Run to the end. Ctrl-C and SIGTERM save after the step that is being taken and stop the run; a
        second one stops it at once."""
        if self.ranks.first:
            self.lock = _lock(self.folder)
        before = {
            number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._resume()
            while self.step < self.config.steps:
                self._train_stage()
            self._save()
            if self.ranks.first:
                draw_curves(self.folder)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.log.close()
            if self.lock is not None:
                self.lock.close()
            distributed.stop(self.ranks)

    def _ask_to_stop(self, *_: object) -> None:
        """A step is never saved in part: weights that have taken it, or some of them, would take it again."""
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True

    def _train_stage(self) -> None:
        index, done = self.config.stage_at(self.step)
        stage = self.config.stages[index]
        if index != self.stage:
            self._enter(index)
        left = stage.steps - done
        began = time.monotonic()
        for data in self._dataset(stage).steps(self.step, self.step + left):
            self._note_bad(data.bad)
            report = self._train_step(stage, data, learning_rate(stage.optim, done, stage.steps))
            done += 1
            self.step += 1
            now = time.monotonic()
            self.seconds, began = self.seconds + now - began, now
            self.log.step(self.step, stage.name, report, self.seconds)
            if self.stopping:
                self.log.say("interrupted: saving")
                self._save()
                raise KeyboardInterrupt
            if self.step % self.config.save_every == 0:
                self._save()
            if self.step % self.config.sample_every == 0:
                self._sample(stage)

    def _train_step(self, stage: StageConfig, data: StepData[Any], lr: float) -> StepReport:
        names, weights = self.job.loss_names, self.job.loss_weights(stage)
        counted = [self.job.totals(batch) for batch in data.batches]
        totals = dict(
            zip(names, self.ranks.total([sum(c[name] for c in counted) for name in names]), strict=True)
        )
        shares = {name: weights[name] / max(totals[name], 1.0) for name in names}
        parts: list[Losses] = []
        for number, batch in enumerate(data.batches):
            if self.ranks.sharded:
                self.task.set_requires_gradient_sync(number == len(data.batches) - 1)  # type: ignore[operator]
            with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.bf16):
                losses = self.task(batch.to(self.ranks.device))
            loss = torch.stack([shares[name] * losses.sums[name] for name in names]).sum()
            # sharded gradients are averaged over the ranks; the loss is a sum over them
            (loss * (self.ranks.count if self.ranks.sharded else 1)).backward()
            parts.append(losses)
        distributed.reduce_gradients(self.learning, self.ranks)
        parameters = [p for p in self.learning if p.grad is not None]
        norm = float(distributed.full(torch.nn.utils.clip_grad_norm_(parameters, stage.optim.clip)))
        if math.isfinite(norm):
            self._apply(lr)
            self.skipped = 0
        else:
            self._skip(norm)
        self.model.zero_grad(set_to_none=True)
        sums = [torch.stack([part.sums[name] for name in names]).detach() for part in parts]
        # ranks hear a signal at different steps, and stop together
        *means, asked = self.ranks.total([*torch.stack(sums).sum(0).tolist(), float(self.asked_to_stop)])
        self.stopping = asked > 0
        return StepReport(
            {n: m / max(totals[n], 1.0) for n, m in zip(names, means, strict=True)},
            norm,
            lr,
            parts,
            data.batches,
        )

    def _apply(self, lr: float) -> None:
        if self.config.weights == "bfloat16":
            # steps are rounded at random: the same way on every rank and in a run that goes on
            torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
        self.ema.update(self.model)

    def _skip(self, norm: float) -> None:
        self.skipped += 1
        self.log.say(f"step {self.step}: gradient norm {norm}; the step is skipped ({self.skipped} in a row)")
        if self.skipped >= self.config.max_skipped:
            raise TrainingStopped(
                f"the gradient was not finite {self.skipped} steps in a row (step {self.step})"
            )

    def _note_bad(self, bad: tuple[str, ...]) -> None:
        for reason in bad:
            self.bad_samples += 1
            self.log.bad_sample(self.step, reason)
        if self.bad_samples > self.config.max_bad_samples:
            raise TrainingStopped(
                f"{self.bad_samples} samples could not be used (limit {self.config.max_bad_samples}); "
                "see bad_samples.jsonl"
            )

    def _enter(self, index: int) -> None:
        stage = self.config.stages[index]
        self.stage = index
        named = dict(self.model.named_parameters())
        chosen = {name for name in named if self.job.learns(name, stage)}
        if not self.ranks.sharded:
            # sharded parameters cannot change this later; there the others' gradients are made and dropped
            for name, parameter in named.items():
                parameter.requires_grad_(name in chosen)
        self.learning = [named[name] for name in named if name in chosen]
        self.optimisers = build_optimisers(
            [(name, named[name]) for name in named if name in chosen], stage.optim
        )
        self.log.say(
            f"stage {stage.name}: {stage.steps} steps, lr {stage.optim.lr:g}, {self.job.describe(stage)}"
        )

    def _dataset(self, stage: StageConfig) -> StepDataset[Any]:
        return self.job.dataset(stage, self.ranks.rank, self.ranks.count)

    def _names(self) -> dict[Any, str]:
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def _save(self) -> None:
        names = self._names()
        tensors = {
            "model": {name: distributed.full(p.detach()) for p, name in names.items()},
            "ema": {name: distributed.full(t) for name, t in self.ema.shadow.items()},
            "optimiser": checkpoint.optimiser_tensors(self.optimisers, names, distributed.full),
        }
        state = {
            "step": self.step,
            "stage": self.stage,
            "ema_updates": self.ema.updates,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "bad_samples": self.bad_samples,
        }
        if self.ranks.first:
            checkpoint.save(self.folder / "checkpoints", self.step, tensors, state, self.config.keep)

    def _resume(self) -> None:
        loaded = checkpoint.load_latest(self.folder / "checkpoints", self.log.say)
        if loaded is None:
            return
        tensors, state = loaded
        self._load("model", tensors["model"], dict(self.model.named_parameters()))
        self._load("ema", tensors["ema"], self.ema.shadow)
        self.step, self.ema.updates, self.seconds = state["step"], state["ema_updates"], state["seconds"]
        self.skipped, self.bad_samples = state["skipped"], state["bad_samples"]
        if self.step < self.config.steps and self.config.stage_at(self.step)[0] == state["stage"]:
            self._enter(state["stage"])
            checkpoint.restore_optimisers(
                self.optimisers, self._names(), tensors["optimiser"], distributed.shard
            )
        self.log.say(f"resumed at step {self.step} of {self.config.steps}")

    @torch.no_grad()
    def _load(self, what: str, saved: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        odd = sorted(set(saved) ^ set(targets)) or [n for n in saved if saved[n].shape != targets[n].shape]
        if odd:
            raise checkpoint.CheckpointError(
                f"the {what} weights in {self.folder} are of another architecture (first difference: "
                f"{odd[0]})"
            )
        for name, tensor in saved.items():
            targets[name].copy_(distributed.shard(tensor, targets[name]))

    def begin_from(
        self, weights: Mapping[str, Tensor], optimiser: Mapping[str, Tensor] | None = None
    ) -> None:
        """Take other weights before the first step, and save them, so that the run can go on without where
        they came from.

        With them optimiser state, named as `checkpoint.optimiser_tensors` does, where it is of the first
        stage's optimiser; parameters that it does not name begin anew. Raises CheckpointError for weights of
        another architecture.
        """
        self._load("starting", weights, dict(self.model.named_parameters()))
        self._load("starting", weights, self.ema.shadow)
        if optimiser:
            self._enter(0)
            if checkpoint.is_state_of(self.optimisers, self._names(), optimiser):
                checkpoint.restore_optimisers(
                    self.optimisers, self._names(), dict(optimiser), distributed.shard
                )
            else:
                self.log.say(
                    "the optimiser state of the starting model is another optimiser's and is left out"
                )
        self._save()

    def _sample(self, stage: StageConfig) -> None:
        if self.ranks.sharded or not self.ranks.first:
            return
        losses = self.job.validate(self.ema.shadow, self.ranks.device)
        if losses:
            self.log.record(self.step, stage.name, self.seconds, losses)
        self.job.sample(self.ema.shadow, self.folder / "samples" / f"step-{self.step:08d}.png")
        draw_curves(self.folder)


def _lock(folder: Path) -> IO[str]:
    """Hold the run's folder, so that two processes never write one run. Raises TrainingStopped if another
    holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise TrainingStopped(f"another process trains in {folder}") from error
    return handle
