"""Integrating dx/dsigma = v from noise (sigma = 1) to the picture (sigma = 0), step by step.

Every row has its own place on its own schedule, so rows that need different numbers of steps share a batch.
Schedules are float64 tensors on the CPU, where they decide what is computed; x is of any floating type and on
any device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from diptych.flow.config import SamplerConfig
from diptych.flow.shapes import per_row
from diptych.flow.trigflow import TrigFlow
from diptych.flow.unipc import UniPC

Velocity = Callable[[Tensor, Tensor], Tensor]
"""velocity(x, sigma): x (B, ...), sigma (B,) on the CPU, of x's dtype or in float64."""
OnStep = Callable[[int, Tensor], object]


class Solver(Protocol):
    """Steps of B rows, with what is remembered of each row's earlier ones; one object a batch."""

    def points(self, num_steps: int) -> list[float]:
        """num_steps + 1 places from noise to 0 that a row stands at: noise levels, or angles."""
        ...

    def step(
        self,
        velocity: Velocity,
        x: Tensor,
        now: Tensor,
        then: Tensor,
        noise: Callable[[list[int]], Tensor] | None = None,
    ) -> Tensor:
        """Rows x (B, ...) from their places `now` to `then` (B,); velocity is called once.

        `noise` draws standard normal values for the rows of these numbers, for solvers that add some.
        """
        ...

    def rows(self, index: Sequence[int]) -> None:
        """Go on with some of the rows alone, in this order."""
        ...


class Euler:
    """x' = x + (sigma' - sigma) v."""

    def __init__(self, sampler: SamplerConfig) -> None:
        self.sampler = sampler

    def points(self, num_steps: int) -> list[float]:
        return levels_of(self.sampler, num_steps).tolist()

    def step(
        self,
        velocity: Velocity,
        x: Tensor,
        now: Tensor,
        then: Tensor,
        noise: Callable[[list[int]], Tensor] | None = None,
    ) -> Tensor:
        # the difference is taken in float64: in x's own type two near levels would lose digits
        return x + per_row(then - now, x) * velocity(x, now.to(x.dtype))

    def rows(self, index: Sequence[int]) -> None:
        """Nothing is remembered."""


class DPM:
    """Flow-DPM-Solver++ 2M: second-order multistep on predicted clean pictures, first order at both ends.

    With lambda = log((1 - sigma) / sigma) and h its step, D = x0 + h_i / (2 h_{i-1}) (x0 - x0_before) and x'
    = (sigma' / sigma) x + (1 - sigma') (1 - exp(-h)) D (DPM-Solver++, arXiv 2211.01095; flow form, SANA
    section 2.4).
    """

    def __init__(self, sampler: SamplerConfig) -> None:
        self.sampler = sampler
        self._clean_before: Tensor | None = None
        # rows of a batch start together, so all have an earlier step or none has; how long it was is each
        # row's own
        self._step_before = torch.zeros(0)

    def points(self, num_steps: int) -> list[float]:
        return levels_of(self.sampler, num_steps).tolist()

    def step(
        self,
        velocity: Velocity,
        x: Tensor,
        now: Tensor,
        then: Tensor,
        noise: Callable[[list[int]], Tensor] | None = None,
    ) -> Tensor:
        # from a first level of exactly 1 the step is infinite too: expm1(-inf) is -1, and the next ratio is
        # step / inf = 0, so both steps are of first order by themselves
        clean = direction = x - per_row(now, x) * velocity(x, now)
        step = _half_log_ratio(then) - _half_log_ratio(now)
        if self._clean_before is not None:
            # the last step is infinite in lambda: it is of first order
            ratio = torch.where(then == 0, 0.0, step / (2 * self._step_before))
            direction = clean + per_row(ratio, x) * (clean - self._clean_before)
        self._clean_before, self._step_before = clean, step
        # expm1, since 1 - exp(-h) of a small step h would cancel its digits
        return per_row(then / now, x) * x - per_row((1 - then) * torch.expm1(-step), x) * direction

    def rows(self, index: Sequence[int]) -> None:
        if self._clean_before is not None:
            self._clean_before = self._clean_before[list(index)]
            self._step_before = self._step_before[list(index)]


def _half_log_ratio(sigma: Tensor) -> Tensor:
    # rounding may put a level a hair above 1, where the logarithm would be NaN
    return ((1 - sigma).clamp_min(0) / sigma).log()


_SOLVERS: dict[str, Callable[[SamplerConfig], Solver]] = {
    "euler": Euler,
    "dpm": DPM,
    "trigflow": lambda sampler: TrigFlow(),
    "unipc": lambda sampler: UniPC(lambda steps: levels_of(sampler, steps).tolist()),
}


def solver_of(sampler: SamplerConfig) -> Solver:
    """A sampler's solver, for one batch."""
    return _SOLVERS[sampler.solver](sampler)


def solve(
    sampler: SamplerConfig,
    velocity: Velocity,
    x: Tensor,
    num_steps: int,
    noise: Callable[[], Tensor] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """From noise x (B, ...) to pictures by the sampler's solver, all rows alike. `noise` draws further noise
    of x's shape, for 'trigflow' alone."""
    solver = solver_of(sampler)
    return integrate(solver, velocity, x, solver.points(num_steps), noise, on_step)


def integrate(
    solver: Solver,
    velocity: Velocity,
    x: Tensor,
    points: Sequence[float],
    noise: Callable[[], Tensor] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """All rows of x along the same `points`."""
    # all rows are drawn at once, so the numbers of those that ask are of no use
    more = None if noise is None else lambda rows: noise()
    for index, places in enumerate(pairwise(points)):
        now, then = (torch.full((len(x),), place, dtype=torch.float64) for place in places)
        x = solver.step(velocity, x, now, then, more)
        if on_step is not None:
            on_step(index, x)
    return x


def shifted(level: Tensor, shift: float) -> Tensor:
    """sigma' = s sigma / (1 + (s - 1) sigma)."""
    return shift * level / (1 + (shift - 1) * level)


def sigmas(num_steps: int, shift: float, first: float = 1.0) -> Tensor:
    """num_steps + 1 noise levels from `first` to 0, evenly spaced, then shifted."""
    return shifted(first - torch.linspace(0.0, first, num_steps + 1), shift)


def diffusers_euler_sigmas(num_steps: int, shift: float) -> Tensor:
    """Levels of diffusers' FlowMatchEulerDiscreteScheduler, which SANA's Euler sampler uses: from 1 to the
    shifted 0.001 in even steps, shifted once more, then 0."""
    # its constructor shifts once, to find the range from 1 to its last level, and set_timesteps shifts what
    # lies between them again. Both are kept, to stand at its levels
    last = float(shifted(torch.tensor(0.001), shift))
    return torch.cat([shifted(torch.linspace(1.0, last, num_steps), shift), torch.zeros(1)])


def levels_of(sampler: SamplerConfig, num_steps: int) -> Tensor:
    """The noise levels that a sampler goes through in `num_steps` steps."""
    if sampler.schedule == "diffusers_euler":
        return diffusers_euler_sigmas(num_steps, sampler.shift)
    if sampler.schedule == "diffusers_unipc":
        return _diffusers_unipc_sigmas(num_steps, sampler.shift)
    if sampler.solver in ("dpm", "unipc"):
        return _dpm_sigmas(num_steps, sampler.shift, sampler.first_sigma)
    return sigmas(num_steps, sampler.shift, sampler.first_sigma)


def _diffusers_unipc_sigmas(num_steps: int, shift: float) -> Tensor:
    """Levels of diffusers' UniPCMultistepScheduler for a flow: from 1 in even steps towards 0.001, shifted,
    then 0. Those of Wan's own code begin at 0.999 and end at 0."""
    levels = shifted(torch.linspace(1.0, 0.001, num_steps + 1, dtype=torch.float64)[:-1], shift)
    # as there: the half log ratio of 1 is infinite
    levels[0] = levels[0].clamp_max(1 - 1e-6)
    return torch.cat([levels, levels.new_zeros(1)])


def _dpm_sigmas(num_steps: int, shift: float, first: float) -> Tensor:
    """As `sigmas`, in float64 and operation by operation as diffusers' DPMSolverMultistepScheduler computes
    them."""
    # some levels are whole thousandths, and rounding decides on which side of them the time is cut off.
    # Rounded, as 1 - 0.999 is not the 0.001 that the scheduler counts down to
    last = round(1.0 - first, 12)
    alphas = torch.arange(num_steps + 1, dtype=torch.float64) * ((last - 1.0) / num_steps) + 1.0
    alphas[-1] = last
    return shifted(1.0 - alphas, shift).flip(0)
