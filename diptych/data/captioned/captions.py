"""Which of a picture's captions is used: by an explicit law of their scores, seeded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LAWS = ("softmax", "power", "uniform")


@dataclass(frozen=True, kw_only=True)
class CaptionLaw:
    """How scores become probabilities. SANA's paper has the softmax, its code the power; at a temperature of
    0.1 and scores of 28 and 30 they differ by 4.9e8 against 2 to 1, so the choice is explicit."""

    law: str = "softmax"
    """'softmax': exp(score / temperature); 'power': score^(1 / temperature); 'uniform': scores only pass the
    threshold."""
    temperature: float = 1.0
    threshold: float | None = None
    """Captions below it are not used, unless all are: then the best one."""

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise ValueError(f"the caption law must be one of {', '.join(LAWS)}, got {self.law!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"the caption temperature must be above 0, got {self.temperature}")
        if self.threshold is not None and math.isnan(self.threshold):
            raise ValueError("the caption threshold must be a number, got nan")


def probabilities(law: CaptionLaw, scores: Sequence[float], count: int) -> np.ndarray:
    """Probability of each of `count` captions. Without scores all are alike; a caption without one (NaN)
    counts as the lowest."""
    if not scores or np.isnan(scores).all():
        return np.full(count, 1.0 / count)
    values = np.array(scores, dtype=np.float64)
    values[np.isnan(values)] = np.nanmin(values)
    if law.threshold is not None:
        kept = values >= law.threshold
        if not kept.any():
            kept = values == values.max()
    else:
        kept = np.ones(count, dtype=bool)
    if law.law == "softmax":
        # the same ratios, without overflow
        weights = np.exp((values - values.max()) / law.temperature)
    elif law.law == "power":
        # relative to the largest, so that a high power cannot overflow
        weights = (np.clip(values, 1e-12, None) / max(float(values.max()), 1e-12)) ** (1 / law.temperature)
    else:
        weights = np.ones(count)
    weights = weights * kept
    return weights / weights.sum()


def choose(law: CaptionLaw, captions: Sequence[str], scores: Sequence[float], seed: Sequence[int]) -> int:
    """Number of the caption that is used for one seed."""
    if len(captions) == 1:
        return 0
    return int(
        np.random.default_rng(list(seed)).choice(len(captions), p=probabilities(law, scores, len(captions)))
    )
