"""The joint task: answers by cross entropy, pictures by flow matching, in one pass over packed rows.

Another form of what `read` and `denoise` compute, with the same prompts, null conditions, noise law and
objective; it costs one pass where they cost two, and teaches text on the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import CLEAN
from diptych.data.conversations.packing import Batch
from diptych.data.conversations.tokens import NO_LABEL
from diptych.flow import FlowConfig, interpolate, noise_scale, to_velocity
from diptych.models.mot import Layout, MoT, Slots
from diptych.spaces import PixelSpace
from diptych.systems.u1.reading import embed
from diptych.systems.u1.settings import check_flow
from diptych.training.log import sigma_bin

ROOT, PLAIN = "root", "plain"
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """What answers and pictures of different lengths count in the loss."""

    text: str = PLAIN
    """'plain': an answer of n tokens counts n, the mean over tokens; 'root': the square root of n, between
    one vote an answer and one a token, as published."""
    flow: str = ROOT
    """The same of pictures, by their tokens."""

    def __post_init__(self) -> None:
        for name in ("text", "flow"):
            if getattr(self, name) not in (ROOT, PLAIN):
                raise ValueError(f"weighing.{name} must be root or plain, got {getattr(self, name)!r}")


class Losses(NamedTuple):
    """Sums with their weights known beforehand, so that the mean is over the whole step, whatever the
    accumulation and the ranks."""

    sums: dict[str, Tensor]
    """'text', 'flow' and maybe 'perceptual': to be divided by the step's totals of `JointTask.totals`."""
    text_tokens: Tensor
    """Cross entropy of each answer token, detached."""
    text_owner: Tensor
    """Document of each answer token."""
    flow_pictures: Tensor
    """Velocity error of each picture and each frame of a clip, detached."""
    sigma: Tensor

    def by_kind(self, batch: Batch) -> dict[str, list[float]]:
        """Single losses by task ('text/understand', 'flow/edit') and by noise-level bin."""
        values: dict[str, list[float]] = defaultdict(list)
        for token, owner in zip(self.text_tokens.tolist(), self.text_owner.tolist(), strict=True):
            values[f"text/{batch.label_task[owner]}"].append(token)
        for error, task, sigma in zip(
            self.flow_pictures.tolist(), batch.noisy_task, self.sigma.tolist(), strict=True
        ):
            values[f"flow/{task}"].append(error)
            values[sigma_bin(sigma)].append(error)
        return values


@dataclass(frozen=True)
class Places:
    """Where things stand in packed rows: all that depends on the values of a batch's indices."""

    layout: Layout
    clean: Tensor
    """Tokens of clean pictures among the understanding tokens."""
    told: Tensor
    """Understanding tokens that an answer token is predicted at."""
    shares: Tensor
    """What each answer token counts."""


@dataclass(frozen=True)
class Noisy:
    """A run of P pictures, or frames of clips, of one size on their way to noise."""

    clean: Tensor
    noise: Tensor
    x: Tensor
    """(P, 3, height, width) each."""
    sigma: Tensor
    scale: Tensor
    share: Tensor
    """(P,) each; `share` is what one counts of what a picture does, less than all where it is a frame."""


class JointTask(nn.Module):
    """Understand, generate, edit and interleave: what a row holds decides which losses it has.

    Flow loss: mean squared velocity error of a picture; text loss: cross entropy of answer tokens. What each
    counts is told by `Weighing` (SenseNova-U1, arXiv 2605.12500 section 3).
    """

    def __init__(
        self,
        model: MoT,
        flow: FlowConfig,
        flex: bool = False,
        weighing: Weighing = Weighing(),
        perceptual: Distance | None = None,
    ) -> None:
        """`perceptual`: how different predicted pictures (P, 3, height, width) look from clean ones, (P,): a
        third loss. A function and no module of this one, since nothing in it learns."""
        super().__init__()
        check_flow(flow)
        self.model, self.flow, self.flex = model, flow, flex
        self.weighing, self.perceptual = weighing, perceptual
        self.token = model.config.token
        self.space = PixelSpace(self.token)

    @property
    def loss_names(self) -> tuple[str, ...]:
        return ("text", "flow", *["perceptual"] * (self.perceptual is not None))

    def totals(self, batch: Batch) -> dict[str, float]:
        """The weights of answers and of pictures in a batch, summed; known without the model."""
        frames = batch.frames.split([len(run) for run in batch.noisy])
        flow = sum(
            self._picture_share(run.shape[-2] // self.token, run.shape[-1] // self.token) * self._counted(of)
            for run, of in zip(batch.noisy, frames, strict=True)
        )
        told = batch.labels != NO_LABEL
        if self.weighing.text == ROOT:
            text = float(torch.bincount(batch.document[told]).double().sqrt().sum())
        else:
            text = float(told.sum())
        return dict(zip(self.loss_names, (text, flow, flow), strict=False))

    def _picture_share(self, rows: int, columns: int) -> float:
        """What the mean error of a picture of so many tokens counts."""
        return (rows * columns) ** (0.5 if self.weighing.flow == ROOT else 1.0)

    def _frame_shares(self, frames: Tensor) -> Tensor:
        """What each of these counts of what a picture would, where it is one frame of so many: a clip is a
        picture of all their tokens."""
        return frames.rsqrt() if self.weighing.flow == ROOT else torch.ones_like(frames)

    def _counted(self, frames: Tensor) -> float:
        return float(self._frame_shares(frames).double().sum())

    def forward(self, batch: Batch) -> Losses:
        return self.losses(batch, self.places(batch))

    def places(self, batch: Batch) -> Places:
        slots = Slots(batch.kind, batch.positions, batch.document, batch.picture, batch.dead)
        layout = Layout.of(slots, flex=self.flex)
        kind, labels = batch.kind.flatten()[layout.und], batch.labels.flatten()[layout.und]
        told = (labels != NO_LABEL).nonzero().flatten()
        shares = torch.ones(len(told), device=told.device)
        if self.weighing.text == ROOT:
            owner = batch.document.flatten()[layout.und][told]
            shares = torch.bincount(owner).float().rsqrt()[owner]
        return Places(layout, (kind == CLEAN).nonzero().flatten(), told, shares)

    def losses(self, batch: Batch, places: Places) -> Losses:
        layout, told = places.layout, places.told
        und = embed(self.model, self.space, batch.ids.flatten()[layout.und], places.clean, batch.clean)
        noisy = self._noise(batch)
        # weights in bfloat16 are given pictures in bfloat16
        parts = [self.model.embed_noisy(run.x.to(und.dtype), run.sigma, run.scale) for run in noisy]
        # an empty stream still goes through its weights, so that all ranks call the same modules
        gen = torch.cat(parts) if parts else und[:0]
        und_hidden, gen_hidden = self.model(und, gen, layout)

        # only where an answer is told: logits of a whole row would be the largest tensor of the step
        logits = self.model.text_head(und_hidden[told]).float()
        text = F.cross_entropy(logits, batch.labels.flatten()[layout.und][told], reduction="none")
        errors, looks, weights = self._picture_errors(gen_hidden, noisy)
        unused = self._unused(batch, und_hidden, gen_hidden)
        sums = ((text * places.shares).sum() + unused, (errors * weights).sum(), (looks * weights).sum())
        return Losses(
            dict(zip(self.loss_names, sums, strict=False)),
            text.detach(),
            batch.document.flatten()[layout.und][told],
            errors.detach(),
            torch.cat([batch.level[:0], *(run.sigma for run in noisy)]),
        )

    def _noise(self, batch: Batch) -> list[Noisy]:
        sigma = self.flow.law.sigma(batch.level)
        lengths = [len(run) for run in batch.noisy]
        levels, shares = sigma.split(lengths), self._frame_shares(batch.frames).split(lengths)
        made = []
        for pixels, noise, level, share in zip(batch.noisy, batch.noise, levels, shares, strict=True):
            tokens = pixels.shape[-1] * pixels.shape[-2] // self.token**2
            # by size: a large picture says the same with more values, so it takes more noise to hide it
            scale = torch.full_like(level, noise_scale(self.flow, tokens, training=True))
            clean = self.space.encode(pixels)
            made.append(Noisy(clean, noise, interpolate(clean, noise, level, scale), level, scale, share))
        return made

    def _picture_errors(self, hidden: Tensor, noisy: list[Noisy]) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity error, perceptual distance (0 where it is not asked for) and weight of each picture
        (P,)."""
        objective = self.flow.objective
        none = hidden.new_zeros(0, dtype=torch.float32)
        errors, looks, weights = [none], [none], [none]
        sizes = [tuple(side // self.token for side in run.x.shape[-2:]) for run in noisy]
        counts = [len(run.x) * rows * columns for run, (rows, columns) in zip(noisy, sizes, strict=True)]
        # noisy tokens come out in the order of their slots, which is that of the runs
        for part, run, (rows, columns) in zip(hidden.split(counts), noisy, sizes, strict=True):
            predicted = self.model.pixel_head(part, rows, columns).float()
            # the model says what the clean picture is; the error is that of the velocity which follows from
            # it (JiT)
            velocity = to_velocity(predicted, run.x, run.sigma, objective.sigma_min)
            errors.append(objective.errors(velocity, run.clean, run.noise, run.x, run.sigma, run.scale))
            far = None if self.perceptual is None else self.perceptual(predicted, run.clean)
            looks.append(torch.zeros_like(run.sigma) if far is None else far)
            weights.append(run.share * self._picture_share(rows, columns))
        return torch.cat(errors), torch.cat(looks), torch.cat(weights)

    def _unused(self, batch: Batch, und: Tensor, gen: Tensor) -> Tensor:
        """Zero, as a function of whatever these rows had no use for, computed on a blank picture.

        A rank whose rows lack pictures or answers so runs the same modules as the others, which gather and
        reduce their weights together, and momentum moves on alike however many ranks there are.
        """
        sums = [und.sum(), gen.sum()]
        blank, one = und.new_zeros(1, 3, self.token, self.token), und.new_ones(1)
        if not batch.clean:
            sums.append(self.model.embed_clean(blank).sum())
        if not batch.noisy:
            drawn = self.model.embed_noisy(blank, one, one)
            sums.append(self.model.pixel_head(drawn, 1, 1).sum())
        return 0.0 * torch.stack([value.float() for value in sums]).sum()
