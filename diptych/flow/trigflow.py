"""TrigFlow: the angles in which SANA-Sprint (arXiv 2503.09641) draws with 1 to 4 steps, around a plain flow
model.

A state at angle s is cos(s) x0 + sin(s) eps, in units of the data's deviation. The flow level of the same
state is sigma = sin s / (sin s + cos s), and x_sigma = state * sqrt(sigma^2 + (1 - sigma)^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

LAST_ANGLE = 1.5708
"""Where drawing starts, as published: pi / 2 rounded."""
MIDDLE_ANGLE = 1.3
"""Where the second of two steps starts, as published."""


def angles(num_steps: int) -> Tensor:
    """num_steps + 1 angles from noise to 0: evenly spaced, but the published one in the middle of two
    steps."""
    if num_steps == 2:
        return torch.tensor([LAST_ANGLE, MIDDLE_ANGLE, 0.0])
    return torch.linspace(LAST_ANGLE, 0.0, num_steps + 1)


def trig_velocity(velocity: Callable[[Tensor, float], Tensor], state: Tensor, angle: float) -> Tensor:
    """dstate/dangle from the flow model's velocity: F = ((1 - 2 sigma) x_sigma + (1 - 2 sigma + 2 sigma^2) v)
    / r."""
    sigma = math.sin(angle) / (math.sin(angle) + math.cos(angle))
    norm = math.sqrt(sigma**2 + (1 - sigma) ** 2)
    x = state * norm
    return ((1 - 2 * sigma) * x + norm**2 * velocity(x, sigma)) / norm


def trigflow(
    velocity: Callable[[Tensor, float], Tensor],
    x: Tensor,
    levels: Tensor,
    noise: Callable[[], Tensor],
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Each step predicts the clean picture and adds fresh noise for the next, smaller angle."""
    for index, (now, then) in enumerate(pairwise(levels.tolist())):
        clean = math.cos(now) * x - math.sin(now) * trig_velocity(velocity, x, now)
        x = clean if then == 0 else math.cos(then) * clean + math.sin(then) * noise()
        if on_step is not None:
            on_step(index, x)
    return x
