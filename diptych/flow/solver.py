"""Integrating dx/dsigma = v from noise (sigma = 1) to the picture (sigma = 0)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def sigmas(num_steps: int, shift: float) -> Tensor:
    """num_steps + 1 noise levels from 1 to 0, evenly spaced, then shifted: s sigma / (1 + (s - 1) sigma)."""
    level = 1.0 - torch.linspace(0.0, 1.0, num_steps + 1)
    return shift * level / (1 + (shift - 1) * level)


def euler(velocity: Callable[[Tensor, float], Tensor], x: Tensor, levels: Tensor, on_step: Callable[[int, Tensor], None] | None = None) -> Tensor:
    """Euler steps along `levels`; velocity(x, sigma) is called once a step."""
    steps = levels.tolist()
    for index, (now, then) in enumerate(pairwise(steps)):
        x = x + (then - now) * velocity(x, now)
        if on_step is not None:
            on_step(index, x)
    return x
