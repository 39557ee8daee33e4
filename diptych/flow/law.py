"""Laws of training noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NoiseLaw:
    """Logit-normal levels, shifted: sigma = s u / (1 + (s - 1) u) with u = sigmoid(mean + std * normal draw)
    (SANA section 2.4).

    The published code rounds u down to thousandths; ours stays continuous.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 3.0

    def __post_init__(self) -> None:
        if self.std < 0 or self.shift <= 0:
            raise ValueError(f"std must not be negative and shift above 0, got {self.std}, {self.shift}")

    # draws come from outside, so that a step's levels are a function of (seed, step) and a resumed run
    # repeats them
    def sigma(self, draw: Tensor) -> Tensor:
        """Levels (P,) from standard normal draws (P,)."""
        return self.shifted((self.mean + self.std * draw).sigmoid())

    def shifted(self, u: Tensor) -> Tensor:
        """The shift alone, of levels in 0..1."""
        return self.shift * u / (1 + (self.shift - 1) * u)
