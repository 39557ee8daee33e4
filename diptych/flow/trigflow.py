"""TrigFlow: the angles in which SANA-Sprint (arXiv 2503.09641) draws with 1 to 4 steps, around a plain flow
model.

A state at angle s is cos(s) x0 + sin(s) eps, in units of the data's deviation. The flow level of the same
state is sigma = sin s / (sin s + cos s), and x_sigma = state * sqrt(sigma^2 + (1 - sigma)^2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diptych.flow.shapes import per_row

LAST_ANGLE = 1.5708
"""Where drawing starts, as published: pi / 2 rounded."""
MIDDLE_ANGLE = 1.3
"""Where the second of two steps starts, as published."""


# LAST_ANGLE lies 4e-6 beyond pi / 2: cos is negative there and sigma 1.0000037. The published model was drawn
# with it, so it stays, and whoever compares levels with 1 must allow for it
def angles(num_steps: int) -> Tensor:
    """num_steps + 1 angles from noise to 0: evenly spaced, but the published one in the middle of two
    steps."""
    if num_steps == 2:
        return torch.tensor([LAST_ANGLE, MIDDLE_ANGLE, 0.0])
    return torch.linspace(LAST_ANGLE, 0.0, num_steps + 1)


def trig_velocity(velocity: Callable[[Tensor, Tensor], Tensor], state: Tensor, angle: Tensor) -> Tensor:
    """dstate/dangle of states (B, ...) at angles (B,) from the flow model's velocity(x, sigma): F = ((1 - 2
    sigma) x_sigma + (1 - 2 sigma + 2 sigma^2) v) / r."""
    # x0 = x - sigma v and eps = x + (1 - sigma) v, put into dstate/dangle = cos(angle) eps - sin(angle) x0
    sigma = angle.sin() / (angle.sin() + angle.cos())
    norm = (sigma.square() + (1 - sigma).square()).sqrt()
    x = state * per_row(norm, state)
    drift = per_row(norm.square(), x) * velocity(x, sigma.to(x.dtype))
    return (per_row(1 - 2 * sigma, x) * x + drift) / per_row(norm, x)


class TrigFlow:
    """Each step predicts the clean picture and adds fresh noise for the next, smaller angle."""

    def points(self, num_steps: int) -> list[float]:
        return angles(num_steps).tolist()

    def step(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        now: Tensor,
        then: Tensor,
        noise: Callable[[list[int]], Tensor] | None = None,
    ) -> Tensor:
        # a rotation back by the whole angle: cos(s) state - sin(s) F is x0
        clean = per_row(now.cos(), x) * x - per_row(now.sin(), x) * trig_velocity(velocity, x, now)
        going = then.nonzero().flatten().tolist()
        if not going:
            return clean
        assert noise is not None, "this solver adds noise between its steps"
        fresh = torch.zeros_like(x)
        fresh[going] = noise(going).to(x)
        return per_row(then.cos(), x) * clean + per_row(then.sin(), x) * fresh

    def rows(self, index: Sequence[int]) -> None:
        """Nothing is remembered."""
