"""SANA's task: flow matching in latents, one noise level a picture, plain mean squared velocity error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diptych.data.picture_loader import PictureBatch
from diptych.flow import NoiseLaw, interpolate
from diptych.models.linear_dit import LinearDiT, trim_text
from diptych.training.job import sigma_bin


class SanaLosses(NamedTuple):
    sums: dict[str, Tensor]
    pictures: Tensor
    """Velocity error of each picture, detached."""
    sigma: Tensor
    weight: Tensor

    def by_kind(self, batch: PictureBatch) -> dict[str, list[float]]:
        values: dict[str, list[float]] = defaultdict(list)
        for error, sigma, weight in zip(
            self.pictures.tolist(), self.sigma.tolist(), self.weight.tolist(), strict=True
        ):
            if weight:
                values[sigma_bin(sigma)].append(error)
        return values


ReadText = Callable[[PictureBatch], tuple[Tensor, Tensor]]


class SanaTask(nn.Module):
    """Denoise a batch and compare velocities; `read_text` gives hidden states and mask, the null condition
    where dropped."""

    def __init__(
        self, model: nn.Module, read_text: ReadText, encode: Callable[[Tensor], Tensor], law: NoiseLaw
    ) -> None:
        """`model.denoiser` is a LinearDiT; `encode` turns uint8 pictures into latents without a gradient."""
        super().__init__()
        self.model, self.law = model, law
        self._read_text, self._encode = read_text, encode

    def forward(self, batch: PictureBatch) -> SanaLosses:
        sigma = self.law.sigma(batch.level)
        errors = self.errors(batch, self.latents(batch), sigma)
        return SanaLosses({"flow": (errors * batch.weight).sum()}, errors.detach(), sigma, batch.weight)

    def latents(self, batch: PictureBatch) -> Tensor:
        return batch.latents if batch.latents.numel() else self._encode(batch.pixels)

    def errors(self, batch: PictureBatch, clean: Tensor, sigma: Tensor) -> Tensor:
        """Mean squared velocity error (P,) of each picture at noise levels sigma (P,)."""
        denoiser = self.model.denoiser
        assert isinstance(denoiser, LinearDiT)
        text, mask = trim_text(*self._read_text(batch))
        noisy = interpolate(clean, batch.noise, sigma, 1.0)[:, None]
        condition = denoiser.condition(text, mask)
        if batch.control.numel():
            given = batch.control if batch.control.is_floating_point() else self._encode(batch.control)
            levels = torch.stack([sigma, torch.zeros_like(sigma)], 1)
            velocity = denoiser(
                torch.cat([noisy, given[:, None]], 1), levels, condition, roles=("target", "control")
            )[:, 0]
        else:
            velocity = denoiser(noisy, sigma, condition)[:, 0]
        return (velocity.float() - (batch.noise - clean)).square().mean((1, 2, 3))
