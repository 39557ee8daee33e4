"""The straight path between picture and noise."""

from __future__ import annotations

import math

from torch import Tensor

from diptych.flow.config import FlowConfig
from diptych.flow.shapes import per_row


def noise_scale(config: FlowConfig, tokens: int, *, training: bool = False) -> float:
    """Standard deviation of the noise for a picture of `tokens` tokens."""
    scale = config.noise_scale
    # the published code draws with this mode and trains with the constant
    if training and config.noise_scale_mode == "dynamic_sqrt":
        return min(scale, config.noise_scale_max)
    if config.noise_scale_mode != "fixed":
        # more pixels of the same thing average noise away: a larger picture takes more of it to be hidden as
        # well (SenseNova-U1, arXiv 2605.12500: sigma_R = sigma_0 sqrt(N / N_0))
        scale *= math.sqrt(tokens / config.noise_scale_base_tokens)
    if config.noise_scale_mode == "dynamic_sqrt":
        scale = math.sqrt(scale)
    return min(scale, config.noise_scale_max)


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma * scale * eps.

    Sigma and scale are (B,) or (B, F), the rest (B, F, ...).
    """
    level = per_row(sigma, clean)
    # the scale is of the noise alone: at sigma 1 nothing of the picture is left, whatever the scale
    return (1 - level) * clean + level * per_row(scale, clean) * noise
