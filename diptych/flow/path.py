"""The straight path between picture and noise, and the objective on it (JiT, arXiv 2511.13720: predict x,
compare v)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diptych.flow.config import FlowConfig


def _per_sample(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def noise_scale(config: FlowConfig, tokens: int) -> float:
    """Standard deviation of the noise for a picture of `tokens` tokens."""
    scale = config.noise_scale
    if config.noise_scale_mode != "fixed":
        scale *= math.sqrt(tokens / config.noise_scale_base_tokens)
    if config.noise_scale_mode == "dynamic_sqrt":
        scale = math.sqrt(scale)
    return min(scale, config.noise_scale_max)


def training_sigma(config: FlowConfig, draw: Tensor) -> Tensor:
    """Noise levels from standard normal draws (P,)."""
    return 1.0 - torch.sigmoid(config.t_mean + config.t_std * draw)


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor, scale: float | Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma * scale * eps; sigma (P,), the rest (P, ...)."""
    level = _per_sample(sigma, clean)
    amount = _per_sample(scale, clean) if isinstance(scale, Tensor) else scale
    return (1 - level) * clean + level * amount * noise


def to_velocity(predicted_clean: Tensor, noisy: Tensor, sigma: Tensor, sigma_min: float) -> Tensor:
    """v = (x_sigma - x) / max(sigma, sigma_min): the velocity that a predicted clean picture implies."""
    return (noisy - predicted_clean) / _per_sample(sigma.clamp_min(sigma_min), noisy)


def velocity_target(clean: Tensor, noisy: Tensor, sigma: Tensor, sigma_min: float) -> Tensor:
    """scale * eps - x0, written with the same lower limit as the prediction, so that a right prediction costs
    nothing."""
    return to_velocity(clean, noisy, sigma, sigma_min)
