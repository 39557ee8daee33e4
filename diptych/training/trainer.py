"""The loop: fetch, accumulate, clip, step, hooks, log, save, evaluate."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import time
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from diptych.contracts import Job, Losses
from diptych.data.loader import StepData, StepDataset
from diptych.files.lineage import as_parent
from diptych.files.typed import check_finite, to_json
from diptych.files.whole import write_whole
from diptych.optim.build import build_optimisers, learning_rate
from diptych.training import checkpoint, parallel, state
from diptych.training import ranks as distributed
from diptych.training.config import StageConfig
from diptych.training.curves import draw_curves
from diptych.training.ema import EMA
from diptych.training.identity import CONFIG, check_same, described
from diptych.training.log import RunLog, StepReport

PARENT = "parent.json"
"""In a run's folder: what the run started from, as it was named and with its card."""


class TrainingStopped(RuntimeError):
    """The run stopped itself: gradients that are not finite, or too many bad samples. The last checkpoint is
    good."""


class Trainer:
    """One run in `folder`. A run that was interrupted goes on from its last good checkpoint, equal to the
    bit on the same ranks."""

    ema: EMA

    def __init__(self, job: Job, folder: Path, *, quiet: bool = False) -> None:
        config = job.config
        if not config.stages or not config.steps:
            raise ValueError("a run needs at least one stage with at least one step")
        check_finite(config, "config")
        check_same(folder, job.family, config)
        self.job, self.config, self.folder = job, config, folder
        self.model, self.task = job.model, job.task
        self.ranks = distributed.start()
        self.begun = False
        self.step = 0
        self.saved = -1
        self.stage = -1
        self.seconds = 0.0
        self.skipped = 0
        self.bad_samples = 0
        self.asked_to_stop = self.stopping = False
        self.log = RunLog(folder, config, quiet=quiet or not self.ranks.first)
        self.optimisers: list[torch.optim.Optimizer] = []
        self.learning: list[nn.Parameter] = []
        self.lock: IO[str] | None = None

    def train(self) -> None:
        """Run to the end. Ctrl-C and SIGTERM save after the step that is being taken and stop the run; a
        second one stops it at once."""
        before = {
            number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            # data that cannot be used are found before anything is written
            for stage in self.config.stages:
                if stage.steps:
                    self._dataset(stage)
            if self.ranks.first:
                self._open()
            # a new run says what it is before its first checkpoint; one that goes on only once its checkpoint
            # was found to fit: settings of another model must not take the place of those it was made with
            new = checkpoint.latest_step(self.folder / "checkpoints") is None
            if new:
                self._describe()
            if not self.begun:
                self.begin()
            if not new:
                self._describe()
            while self.step < self.config.steps:
                self._train_stage()
            if self.saved != self.step:
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

    def _open(self) -> None:
        """Hold the run's folder, and clear it of what a kill left."""
        self.lock = _lock(self.folder)
        checkpoint.clean(self.folder / "checkpoints")

    def _describe(self) -> None:
        """Write into the run's folder what the run is."""
        if not self.ranks.first:
            return
        write_whole(self.folder / CONFIG, described(self.job.family, self.config))
        self.job.prepare(self.folder)

    def begin(self) -> None:
        """Place the model on its ranks, with the last checkpoint's weights, or else the starting ones."""
        self.ranks, resumed = parallel.prepare(self.job, self.ranks, self._resume, self.log.say)
        if not resumed:
            self.ema = EMA(self.model, self.config.ema)
            if self.job.parent is not None:
                self._begin_from(self.job.parent)
        self.begun = True

    def _ask_to_stop(self, *_: object) -> None:
        """A step is never saved in part: weights that have taken it, or some of them, would take it again."""
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True

    def _train_stage(self) -> None:
        index, done = self.config.stage_at(self.step)
        stage = self.config.stages[index]
        if index != self.stage:
            self._enter(index, self.ranks)
        left = stage.steps - done
        began = time.monotonic()
        for data in self._dataset(stage).steps(self.step, self.step + left):
            for reason in data.bad:
                self.log.bad_sample(self.step, reason)
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
                self._evaluate(stage)

    def _train_step(self, stage: StageConfig, data: StepData[Any], lr: float) -> StepReport:
        names, weights = self.job.loss_names, self.job.loss_weights(stage)
        counted = [self.job.totals(batch) for batch in data.batches]
        *sums, bad = self.ranks.total(
            [*(sum(c[name] for c in counted) for name in names), float(len(data.bad))]
        )
        self._count_bad(int(bad))
        totals = dict(zip(names, sums, strict=True))
        shares = {name: weights[name] / max(totals[name], 1.0) for name in names}
        parts: list[Losses] = []
        for batch in data.batches:
            with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.bf16):
                losses = self.task(batch.to(self.ranks.device))
            loss = torch.stack([shares[name] * losses.sums[name] for name in names]).sum()
            # sharded gradients are averaged over the ranks; the loss is a sum over them. They are summed in
            # each micro-batch: kept until the last, every rank would hold those of the whole model
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
        losses_of = [torch.stack([part.sums[name] for name in names]).detach() for part in parts]
        # ranks hear a signal at different steps, and stop together
        *means, asked = self.ranks.total([*torch.stack(losses_of).sum(0).tolist(), float(self.asked_to_stop)])
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

    def _count_bad(self, bad: int) -> None:
        """Samples of all ranks that could not be used: they stop together, as one alone would leave the
        others waiting for it."""
        self.bad_samples += bad
        if self.bad_samples > self.config.max_bad_samples:
            raise TrainingStopped(
                f"{self.bad_samples} samples could not be used (limit {self.config.max_bad_samples}); "
                "see bad_samples.jsonl"
            )

    def _enter(self, index: int, ranks: distributed.Ranks) -> None:
        """Begin a stage, or go on within it: which parameters learn, and their optimisers."""
        stage = self.config.stages[index]
        self.stage = index
        named = dict(self.model.named_parameters())
        chosen = {name for name in named if self.job.learns(name, stage)}
        if not ranks.sharded:
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

    def _names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def _save(self) -> None:
        groups = {
            "model": {name: p.detach() for name, p in self.model.named_parameters()},
            "ema": {name: self.ema.shadow[name] for name in self.ema.averaged},
            "optimiser": state.exported(self.optimisers, self._names()),
        }
        told = {
            "step": self.step,
            "stage": self.stage,
            "ema_updates": self.ema.updates,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "bad_samples": self.bad_samples,
        }
        tensors = {f"{group}|{name}": t for group, of in groups.items() for name, t in of.items()}
        checkpoint.save(self.folder / "checkpoints", self.step, tensors, told, self.config.keep, self.ranks)
        self.saved = self.step

    def _resume(self, ranks: distributed.Ranks) -> bool:
        found = checkpoint.latest(self.folder / "checkpoints", self.log.say, ranks)
        if found is None:
            return False
        found.read("model", dict(self.model.named_parameters()), ranks)
        self.ema = EMA(self.model, self.config.ema)
        if self.ema.decay:
            found.read("ema", {name: self.ema.shadow[name] for name in self.ema.averaged}, ranks)
        told = found.state
        self.step, self.ema.updates, self.seconds = told["step"], told["ema_updates"], told["seconds"]
        self.skipped, self.bad_samples = told["skipped"], told["bad_samples"]
        if self.step < self.config.steps and self.config.stage_at(self.step)[0] == told["stage"]:
            self._enter(told["stage"], ranks)
            moments = state.empty(self.optimisers, self._names(), found.names("optimiser").__contains__)
            found.read("optimiser", moments, ranks)
            state.restore(self.optimisers, self._names(), moments)
        self.saved = self.step
        if self.step:
            self.log.say(f"resumed at step {self.step} of {self.config.steps}")
        else:
            # its first checkpoint holds what it starts from, and no step of its own
            self.log.say(f"begun again at its first step of {self.config.steps}")
        return True

    def _begin_from(self, card: dict[str, Any]) -> None:
        """Keep what the run starts from: a checkpoint of step 0, so that it goes on where the other model is
        gone, with that model's optimiser state where it is of the first stage's optimiser."""
        if self.ranks.first:
            parent = {"start": self.config.start, "card": as_parent(card, self.config.start)}
            write_whole(self.folder / PARENT, to_json(parent))
        brought = self.job.optimiser_state()
        if brought:
            self._enter(0, self.ranks)
            if not state.begin(self.optimisers, self._names(), brought):
                self.log.say(
                    "the optimiser state of the starting model is another optimiser's and is left out"
                )
        self._save()

    def _evaluate(self, stage: StageConfig) -> None:
        """Validate, and draw a grid of samples, with the averaged weights. Sharded ranks do so together, as
        each has a part of the model."""
        if not (self.ranks.sharded or self.ranks.first):
            return
        grid = self.folder / "samples" / f"step-{self.step:08d}.png"
        with torch.no_grad(), self.ema.exchanged(self.model):
            losses = parallel.within(self.task, self.job.validate, self.ranks.device)
            if losses:
                self.log.record(self.step, stage.name, self.seconds, losses)
            parallel.within(self.task, self.job.sample, grid if self.ranks.first else None)
        if self.ranks.first:
            draw_curves(self.folder)


def _lock(folder: Path) -> IO[str]:
    """Hold the run's folder, so that two processes never write one run. Raises TrainingStopped if another
    holds it, ValueError where something in it is no file or folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*folder.iterdir(), *folder.glob("checkpoints/*")):
        # what is written through one would change what lies elsewhere, and a pipe waits for a reader
        if path.is_symlink():
            raise ValueError(f"{path} is a link, which may lead out of the run's folder: remove it")
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is a pipe or a device, and a run writes files: remove it")
    path = folder / ".lock"
    # nothing is ever written into it, nor cut off from what is there
    handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise TrainingStopped(f"another process trains in {folder}") from error
    return handle
