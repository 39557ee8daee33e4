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
    long_share: float | None = None
    """Chance of a long caption, for pictures that have both long and short ones; scores choose among those of
    a kind. None: by the scores alone."""
    long_words: int = 24
    """Words from which on a caption is long."""

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise ValueError(f"the caption law must be one of {', '.join(LAWS)}, got {self.law!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"the caption temperature must be above 0, got {self.temperature}")
        if self.threshold is not None and math.isnan(self.threshold):
            raise ValueError("the caption threshold must be a number, got nan")
        if self.long_share is not None and not 0 <= self.long_share <= 1:
            raise ValueError(f"long_share must be a share, 0 to 1, got {self.long_share}")
        if self.long_words < 1:
            raise ValueError(f"long_words must be at least 1, got {self.long_words}")


def probabilities(
    law: CaptionLaw, scores: Sequence[float], count: int, long: Sequence[bool] = ()
) -> np.ndarray:
    """Probability of each of `count` captions. Without scores all are alike; a caption without one (NaN)
    counts as the lowest. `long`: whether each is, which `long_share` asks."""
    values = np.array(scores, dtype=np.float64) if scores else np.zeros(count)
    scored = not np.isnan(values).all() and bool(scores)
    values = np.where(np.isnan(values), np.nanmin(values), values) if scored else np.zeros(count)
    kept = np.ones(count, dtype=bool)
    if scored and law.threshold is not None:
        kept = values >= law.threshold
        if not kept.any():
            kept = values == values.max()
    kind = np.array(long, dtype=bool) if len(long) else np.zeros(count, dtype=bool)
    if law.long_share is None or not (kept & kind).any() or not (kept & ~kind).any():
        return _weighed(law, values, kept, scored)
    # each kind by itself: at a low temperature the best caption of all would leave the other kind nothing
    long_ones, short_ones = (_weighed(law, values, kept & side, scored) for side in (kind, ~kind))
    return law.long_share * long_ones + (1 - law.long_share) * short_ones


def _weighed(law: CaptionLaw, values: np.ndarray, kept: np.ndarray, scored: bool) -> np.ndarray:
    """Probabilities (count,) of those that are kept, 0 for all others."""
    top = float(values[kept].max())
    if law.law == "softmax":
        # the same ratios, without overflow; what is infinitely unlikely is so without a warning
        with np.errstate(over="ignore"):
            weights = np.exp(np.minimum(values - top, 0) / law.temperature)
    elif law.law == "power" and scored:
        # relative to the largest, so that a high power cannot overflow
        shares = np.clip(values, 1e-12, None) / max(top, 1e-12)
        weights = np.minimum(shares, 1) ** (1 / law.temperature)
    else:
        weights = np.ones(len(values))
    weights = weights * kept
    return weights / weights.sum()


def choose(law: CaptionLaw, captions: Sequence[str], scores: Sequence[float], seed: Sequence[int]) -> int:
    """Number of the caption that is used for one seed."""
    if len(captions) == 1:
        return 0
    long = [len(caption.split()) >= law.long_words for caption in captions]
    chances = probabilities(law, scores, len(captions), long)
    return int(np.random.default_rng(list(seed)).choice(len(captions), p=chances))
