"""Drawing, for every system: path x objective x denoise."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from torch import Tensor, nn

from diptych.contracts import System
from diptych.data.frames import FrameBatch, encoded
from diptych.flow import NoiseLaw, Objective, interpolate
from diptych.training.log import sigma_bin


class DrawLosses(NamedTuple):
    sums: dict[str, Tensor]
    errors: Tensor
    """Velocity error of each row (B,), detached."""
    sigma: Tensor
    weight: Tensor

    def by_kind(self, batch: Any) -> dict[str, list[float]]:
        """Errors by noise-level bin."""
        values: dict[str, list[float]] = defaultdict(list)
        rows = zip(self.errors.tolist(), self.sigma.tolist(), self.weight.tolist(), strict=True)
        for error, sigma, weight in rows:
            if weight:
                values[sigma_bin(sigma)].append(error)
        return values


class GenerateTask(nn.Module):
    """Flow matching in the system's image space, with one noise level a row.

    `read` and `denoise` are those that draw, and what is dropped here is what the passes of guidance see
    there.
    """

    loss_names = ("flow",)

    def __init__(
        self, system: System, law: NoiseLaw, objective: Objective, model: nn.Module | None = None
    ) -> None:
        """`model` holds all that learns, where that is more than the system's own model: a text encoder that
        learns with it."""
        super().__init__()
        self.model: nn.Module = system.model if model is None else model
        self.system, self.law, self.objective = system, law, objective

    def forward(self, batch: FrameBatch) -> DrawLosses:
        sigma = self.law.sigma(batch.level)
        errors = self.errors(batch, self.clean(batch), sigma)
        return DrawLosses({"flow": (errors * batch.weight).sum()}, errors.detach(), sigma, batch.weight)

    def clean(self, batch: FrameBatch) -> Tensor:
        """Targets (B, F, C, H, W): from a cache, or encoded now as a cache holds them."""
        if batch.target.numel():
            return batch.target
        return encoded(self.system.space, batch.pixels).to(batch.noise)

    def errors(self, batch: FrameBatch, clean: Tensor, sigma: Tensor) -> Tensor:
        """Error (B,) of each row at noise levels sigma (B,)."""
        condition = self.system.read(batch.prompts, batch.stacks)
        condition = condition.dropped(batch.drop_text, batch.drop_media)
        noisy = interpolate(clean, batch.noise, sigma, condition.scale)
        velocity = self.system.denoise(noisy, sigma, condition)
        return self.objective.errors(velocity, clean, batch.noise, noisy, sigma, condition.scale)
