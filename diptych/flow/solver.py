"""Integrating dx/dsigma = v from noise (sigma = 1) to the picture (sigma = 0)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from diptych.flow.config import SamplerConfig
from diptych.flow.trigflow import angles, trigflow

Velocity = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, Tensor], None]


def shifted(level: Tensor, shift: float) -> Tensor:
    """sigma' = s sigma / (1 + (s - 1) sigma)."""
    return shift * level / (1 + (shift - 1) * level)


def sigmas(num_steps: int, shift: float, first: float = 1.0) -> Tensor:
    """num_steps + 1 noise levels from `first` to 0, evenly spaced, then shifted."""
    return shifted(first - torch.linspace(0.0, first, num_steps + 1), shift)


def diffusers_euler_sigmas(num_steps: int, shift: float) -> Tensor:
    """Levels of diffusers' FlowMatchEulerDiscreteScheduler, which SANA's Euler sampler uses: from 1 to the
    shifted 0.001 in even steps, shifted once more, then 0."""
    last = float(shifted(torch.tensor(0.001), shift))
    return torch.cat([shifted(torch.linspace(1.0, last, num_steps), shift), torch.zeros(1)])


def levels_of(sampler: SamplerConfig, num_steps: int) -> Tensor:
    """The noise levels that a sampler goes through in `num_steps` steps."""
    if sampler.schedule == "diffusers_euler":
        return diffusers_euler_sigmas(num_steps, sampler.shift)
    return sigmas(num_steps, sampler.shift, sampler.first_sigma)


def solve(
    sampler: SamplerConfig,
    velocity: Velocity,
    x: Tensor,
    num_steps: int,
    noise: Callable[[], Tensor] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """From noise x to a picture by the sampler's solver. `noise` draws further noise of x's shape, for
    'trigflow' alone."""
    if sampler.solver == "trigflow":
        assert noise is not None, "trigflow adds noise between its steps"
        return trigflow(velocity, x, angles(num_steps), noise, on_step)
    return {"euler": euler, "dpm": dpm}[sampler.solver](velocity, x, levels_of(sampler, num_steps), on_step)


def euler(velocity: Velocity, x: Tensor, levels: Tensor, on_step: OnStep | None = None) -> Tensor:
    """Euler steps along `levels`; velocity(x, sigma) is called once a step."""
    steps = levels.tolist()
    for index, (now, then) in enumerate(pairwise(steps)):
        x = x + (then - now) * velocity(x, now)
        if on_step is not None:
            on_step(index, x)
    return x


def dpm(velocity: Velocity, x: Tensor, levels: Tensor, on_step: OnStep | None = None) -> Tensor:
    """Flow-DPM-Solver++ 2M: second-order multistep on predicted clean pictures, first order at both ends.

    With lambda = log((1 - sigma) / sigma) and h its step, D = x0 + h_i / (2 h_{i-1}) (x0 - x0_before) and x'
    = (sigma' / sigma) x + (1 - sigma') (1 - exp(-h)) D (DPM-Solver++, arXiv 2211.01095; flow form, SANA
    section 2.4).
    """
    steps = levels.tolist()
    before: Tensor | None = None
    step_before = 0.0
    for index, (now, then) in enumerate(pairwise(steps)):
        clean = x - now * velocity(x, now)
        step = _half_log_ratio(then) - _half_log_ratio(now)
        ratio = 0.0 if before is None or then == 0 else step / (2 * step_before)
        direction = clean if before is None or ratio == 0 else clean + ratio * (clean - before)
        x = (then / now) * x - (1 - then) * math.expm1(-step) * direction
        before, step_before = clean, step
        if on_step is not None:
            on_step(index, x)
    return x


def _half_log_ratio(sigma: float) -> float:
    if sigma <= 0:
        return math.inf
    return -math.inf if sigma >= 1 else math.log((1 - sigma) / sigma)
