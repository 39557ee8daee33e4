"""The joint task: answers by cross entropy, pictures by flow matching, in one pass over packed rows."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.packing import Batch
from diptych.data.tokens import CLEAN, NO_LABEL
from diptych.flow import FlowConfig, interpolate, noise_scale, to_velocity, training_sigma, velocity_target
from diptych.models.mot import Layout, MoT, Slots
from diptych.spaces import PixelSpace
from diptych.training.job import sigma_bin


class Losses(NamedTuple):
    """Sums with their weights known beforehand, so that the mean is over the whole step, whatever the
    accumulation and the ranks."""

    sums: dict[str, Tensor]
    """'text' and 'flow': to be divided by the step's totals of `JointTask.totals`."""
    text_tokens: Tensor
    """Cross entropy of each answer token, detached."""
    text_owner: Tensor
    """Document of each answer token."""
    flow_pictures: Tensor
    """Velocity error of each picture, detached."""
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


class JointTask(nn.Module):
    """Understand, generate, edit and interleave: what a row holds decides which losses it has.

    Flow loss: mean squared velocity error of a picture, pictures weighted by the square root of their tokens;
    text loss: mean over answer tokens (SenseNova-U1, arXiv 2605.12500 section 3).
    """

    def __init__(self, model: MoT, flow: FlowConfig, flex: bool = False) -> None:
        super().__init__()
        self.model, self.flow, self.flex = model, flow, flex
        self.token = model.config.token
        self.space = PixelSpace(self.token)

    @staticmethod
    def totals(batch: Batch, token: int) -> dict[str, float]:
        """Answer tokens, and the sum of picture weights, of a batch; known without the model."""
        flow = sum(len(run) * (run.shape[-1] * run.shape[-2] / token**2) ** 0.5 for run in batch.noisy)
        return {"text": float((batch.labels != NO_LABEL).sum()), "flow": flow}

    def forward(self, batch: Batch) -> Losses:
        slots = Slots(batch.kind, batch.positions, batch.document, batch.picture, batch.dead)
        layout = Layout.of(slots, flex=self.flex)
        und = self._read(batch, layout)
        gen, noisy, targets, sigma = self._noise(batch)
        und_hidden, gen_hidden, _ = self.model(und, gen, layout)

        labels = batch.labels.flatten()[layout.und]
        told = (labels != NO_LABEL).nonzero().flatten()
        logits = self.model.text_head(und_hidden[told]).float()
        text = F.cross_entropy(logits, labels[told], reduction="none")
        errors, weights = self._velocity_errors(gen_hidden, noisy, targets, sigma)
        text = torch.cat([text, self._touch(und_hidden, gen_hidden)[None]])
        sums = {"text": text.sum(), "flow": (errors * weights).sum()}
        return Losses(
            sums,
            text[: len(told)].detach(),
            batch.document.flatten()[layout.und][told],
            errors.detach(),
            sigma,
        )

    def _touch(self, und: Tensor, gen: Tensor) -> Tensor:
        """Zero, as a function of every parameter: a rank whose rows lack pictures or answers has the same
        gradients to reduce as the others, and momentum moves on alike however many ranks there are."""
        outside = [p.sum() for name, p in self.model.named_parameters() if not name.startswith("blocks.")]
        return 0.0 * (torch.stack(outside).sum() + und.sum() + gen.sum()).float()

    def _read(self, batch: Batch, layout: Layout) -> Tensor:
        ids, kind = batch.ids.flatten()[layout.und], batch.kind.flatten()[layout.und]
        und = self.model.embedding(ids)
        if batch.clean:
            pictures = torch.cat(
                [self.model.embed_clean(self.space.read(run).to(und.dtype)) for run in batch.clean]
            )
            und = und.index_copy(0, (kind == CLEAN).nonzero().flatten(), pictures.type_as(und))
        return und

    def _noise(self, batch: Batch) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        sigma = training_sigma(self.flow, batch.level)
        gen, noisy, targets = [], [], []
        dtype = self.model.embedding.weight.dtype
        for run, noise, level in zip(
            batch.noisy, batch.noise, sigma.split([len(r) for r in batch.noisy]), strict=True
        ):
            scale = noise_scale(self.flow, run.shape[-1] * run.shape[-2] // self.token**2)
            clean = self.space.encode(run)
            x = interpolate(clean, noise, level, scale)
            gen.append(self.model.embed_noisy(x.to(dtype), level, torch.full_like(level, scale)))
            noisy.append(x)
            targets.append(velocity_target(clean, x, level, self.flow.training_sigma_min))
        empty = self.model.embedding.weight.new_zeros(0, self.model.config.width)
        return (torch.cat(gen) if gen else empty), noisy, targets, sigma

    def _velocity_errors(
        self, hidden: Tensor, noisy: list[Tensor], targets: list[Tensor], sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        errors, weights = (
            [hidden.new_zeros(0, dtype=torch.float32)],
            [hidden.new_zeros(0, dtype=torch.float32)],
        )
        counts = [len(x) * x.shape[-1] * x.shape[-2] // self.token**2 for x in noisy]
        levels = sigma.split([len(x) for x in noisy])
        for part, x, target, level in zip(hidden.split(counts), noisy, targets, levels, strict=True):
            rows, columns = x.shape[-2] // self.token, x.shape[-1] // self.token
            predicted = to_velocity(
                self.model.pixel_head(part, rows, columns).float(), x, level, self.flow.training_sigma_min
            )
            errors.append((predicted - target).square().mean((1, 2, 3)))
            weights.append(torch.full_like(level, (rows * columns) ** 0.5))
        return torch.cat(errors), torch.cat(weights)
