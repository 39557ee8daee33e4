"""UniPC (arXiv 2302.04867) of second order on predicted clean pictures, with B(h) = exp(h) - 1, in the form
that diffusers' UniPCMultistepScheduler and Wan give it for a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.flow.shapes import per_row


class _Step(NamedTuple):
    """A step that was taken from x at `now`, where `clean` was predicted."""

    x: Tensor
    clean: Tensor
    now: Tensor
    order: Tensor
    """(B,): 1 or 2."""


class UniPC:
    """Each step corrects the last one by what the model says at its end, then predicts the next.

    lambda = log((1 - sigma) / sigma), h its step; x' = (sigma' / sigma) x + (1 - sigma')(1 - exp(-h)) (x0 +
    D), with D a combination of differences of predicted clean pictures.
    """

    def __init__(self, points: Callable[[int], list[float]]) -> None:
        self.points = points
        # the last step, and the one before it
        self._last: _Step | None = None
        self._before: _Step | None = None

    def step(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        now: Tensor,
        then: Tensor,
        noise: Callable[[list[int]], Tensor] | None = None,
    ) -> Tensor:
        clean = x - per_row(now, x) * velocity(x, now)
        order = torch.ones_like(now)
        if self._last is not None:
            x = self._corrected(self._last, clean, now)
            # the last step is infinite in lambda: it is of first order
            order = torch.where(then == 0, 1.0, 2.0).to(now)
        taken = _Step(x, clean, now, order)
        before, self._before, self._last = self._last, self._last, taken
        h, base = _from(taken, then)
        if before is None:
            return base
        ratio = (_half_log_ratio(before.now) - _half_log_ratio(now)) / h
        bent = torch.where(order == 2, 0.5 / ratio, 0.0)
        weight = (1 - then) * torch.expm1(-h)
        return base - per_row(weight * bent, x) * (before.clean - clean)

    def _corrected(self, last: _Step, clean: Tensor, now: Tensor) -> Tensor:
        """The end of the last step, now that the clean picture is predicted there."""
        h, base = _from(last, now)
        weight = (1 - now) * torch.expm1(-h)
        if self._before is None:
            return base - per_row(weight * 0.5, clean) * (clean - last.clean)
        # the two conditions of second order, solved by hand: a + b = p, ratio a + b = q
        ratio = (_half_log_ratio(self._before.now) - _half_log_ratio(last.now)) / h
        phi = torch.expm1(-h) / -h - 1
        p = phi / torch.expm1(-h)
        q = 2 * (phi / -h - 0.5) / torch.expm1(-h)
        second = last.order == 2
        a = torch.where(second, (p - q) / (1 - ratio), 0.0)
        b = torch.where(second, p - a, 0.5)
        # in x's type, as every state of the row is
        earlier = per_row(weight * a / ratio, clean) * (self._before.clean - last.clean)
        return base - earlier - per_row(weight * b, clean) * (clean - last.clean)

    def rows(self, index: Sequence[int]) -> None:
        kept = list(index)
        self._last, self._before = (
            None if step is None else _Step(*(value[kept] for value in step))
            for step in (self._last, self._before)
        )


def _from(step: _Step, then: Tensor) -> tuple[Tensor, Tensor]:
    """h, and where a step of first order ends."""
    h = _half_log_ratio(then) - _half_log_ratio(step.now)
    ends = per_row(then / step.now, step.x) * step.x
    return h, ends - per_row((1 - then) * torch.expm1(-h), step.x) * step.clean


def _half_log_ratio(sigma: Tensor) -> Tensor:
    # pure noise is taken for as good as pure: two steps from there would differ by infinities
    return ((1 - sigma).clamp_min(1e-6) / sigma).log()
