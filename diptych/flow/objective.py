"""What a prediction is compared with (JiT, arXiv 2511.13720: predict x, compare v)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diptych.flow.shapes import per_row

if TYPE_CHECKING:
    from torch import Tensor


def to_velocity(predicted_clean: Tensor, noisy: Tensor, sigma: Tensor, sigma_min: float) -> Tensor:
    """v = (x_sigma - x) / max(sigma, sigma_min): the velocity that a predicted clean picture implies; sigma
    (B,) or (B, F), the rest (B, F, ...)."""
    return (noisy - predicted_clean) / per_row(sigma.clamp_min(sigma_min), noisy)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Mean squared error of velocities.

    Shapes: sigma and scale (B,) or (B, F); clean, noise, noisy and velocity (B, F, ...).
    """

    sigma_min: float = 0.0
    """For models that predict the clean picture: their velocity divides by max(sigma, sigma_min) (the
    published t_eps), so noise below this level is not wholly removed. 0: the model predicts velocities."""
    loss_sigma_min: float | None = None
    """The loss divides by max(sigma, this) instead, where given: a larger one weighs almost clean pictures
    less, and sampling need not pay for it with leftover noise."""

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise ValueError(f"sigma_min must be at least 0 and below 1, got {self.sigma_min}")
        if self.loss_sigma_min is None:
            return
        if not 0 < self.loss_sigma_min < 1:
            raise ValueError(f"loss_sigma_min must lie between 0 and 1, got {self.loss_sigma_min}")
        if not self.sigma_min:
            raise ValueError("loss_sigma_min is for models that predict clean pictures: sigma_min is 0")

    def target(self, clean: Tensor, noise: Tensor, noisy: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
        """Velocity that a right prediction has: scale * eps - x0, above sigma_min to rounding.

        With sigma_min it is written with the same lower limit as the prediction, so that a right prediction
        costs nothing.
        """
        if self.sigma_min:
            return to_velocity(clean, noisy, sigma, self.sigma_min)
        return per_row(scale, noise) * noise - clean

    def errors(
        self, velocity: Tensor, clean: Tensor, noise: Tensor, noisy: Tensor, sigma: Tensor, scale: Tensor
    ) -> Tensor:
        """Mean squared error (B,) of each row's velocity."""
        squares = (velocity - self.target(clean, noise, noisy, sigma, scale)).square()
        if self.loss_sigma_min is not None:
            # the same error, as if prediction and target had been divided by the other limit
            ratio = sigma.clamp_min(self.sigma_min) / sigma.clamp_min(self.loss_sigma_min)
            squares = squares * per_row(ratio.square(), squares)
        # a mean for each row and not a sum: a large picture weighs as much as a small one
        return squares.flatten(1).mean(1)
