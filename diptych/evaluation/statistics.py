"""Shares of right answers with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    right: int
    total: int

    @property
    def share(self) -> float:
        return self.right / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval."""
        if not self.total:
            return float("nan"), float("nan")
        # Wilson and not p +- z sqrt(p (1 - p) / n), which gives no width at all where all are right; z is the
        # normal distribution's 97.5 % point
        z, n, p = 1.959964, self.total, self.share
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, centre - half), min(1.0, centre + half)

    def as_dict(self) -> dict[str, float]:
        low, high = self.interval
        return {
            "score": round(self.share, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "right": self.right,
            "n": self.total,
        }


def mean_of(scores: Iterable[Score]) -> tuple[float, float]:
    """Mean of categories, each weighing the same, and the half-width of its 95 % interval (normal,
    independent)."""
    chosen = list(scores)
    mean = sum(s.share for s in chosen) / len(chosen)
    # the mean of k independent shares has 1 / k^2 of the sum of their variances
    variance = sum(s.share * (1 - s.share) / s.total for s in chosen) / len(chosen) ** 2
    return mean, 1.959964 * math.sqrt(variance)
