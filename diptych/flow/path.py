"""The straight path between picture and noise."""

from __future__ import annotations

import math

from torch import Tensor

from diptych.flow.config import FlowConfig
from diptych.flow.shapes import per_row


def noise_scale(config: FlowConfig, tokens: int) -> float:
    """Standard deviation of the noise for a picture of `tokens` tokens."""
    scale = config.noise_scale
    if config.noise_scale_mode != "fixed":
        scale *= math.sqrt(tokens / config.noise_scale_base_tokens)
    if config.noise_scale_mode == "dynamic_sqrt":
        scale = math.sqrt(scale)
    return min(scale, config.noise_scale_max)


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma * scale * eps.

    Sigma and scale are (B,) or (B, F), the rest (B, F, ...).
    """
    level = per_row(sigma, clean)
    return (1 - level) * clean + level * per_row(scale, clean) * noise
