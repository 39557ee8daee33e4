"""Which sample comes when: a pure function of (seed, step).

The n-th sample of a run belongs to a source chosen so that every block of 1,000 samples holds the mixture's
ratios exactly, and is that source's k-th draw, k counted in closed form. Nothing is replayed at a resume, and
ranks and workers cannot disagree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from diptych.data.schema import Sample

BLOCK = 1000


class Source(Protocol):
    """Samples by number. `draw(k)` must be a pure function; raises BadSample for one that cannot be read."""

    name: str

    def draw(self, number: int) -> Sample: ...


class BadSample(ValueError):
    """A sample that cannot be used; the message says which file, which line and why."""


class Mixture:
    """Sources with weights. Raises ValueError for no source or a weight that is not positive."""

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, float], seed: int) -> None:
        unknown = set(weights) - set(sources)
        if unknown:
            raise ValueError(
                f"mixture names {', '.join(sorted(unknown))}, but the sources are "
                f"{', '.join(sorted(sources))}"
            )
        chosen = {name: weight for name, weight in weights.items() if weight != 0}
        if not chosen or min(chosen.values()) < 0:
            raise ValueError(f"mixture weights must be positive for at least one source, got {dict(weights)}")
        self.sources = [sources[name] for name in sorted(chosen)]
        self.seed = seed
        total = sum(chosen.values())
        shares = [chosen[name] / total * BLOCK for name in sorted(chosen)]
        quota = [int(share) for share in shares]
        # largest remainders get what rounding down left over
        by_remainder = sorted(range(len(shares)), key=lambda i: (quota[i] - shares[i], i))
        for i in by_remainder[: BLOCK - sum(quota)]:
            quota[i] += 1
        self.quota = np.array(quota)
        self._block = functools.lru_cache(maxsize=4)(self._make_block)

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.repeat(np.arange(len(self.sources)), self.quota)
        np.random.default_rng([self.seed, 1, block]).shuffle(order)
        within = np.zeros(BLOCK, dtype=np.int64)
        for i in range(len(self.sources)):
            at = order == i
            within[at] = np.arange(at.sum())
        return order, within

    def locate(self, n: int) -> tuple[Source, int]:
        """Source of the run's n-th sample, and its number within that source."""
        block, place = divmod(n, BLOCK)
        order, within = self._block(block)
        index = int(order[place])
        return self.sources[index], int(self.quota[index]) * block + int(within[place])


@functools.lru_cache(maxsize=16)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 2, epoch]).permutation(size)


def shuffled(number: int, size: int, seed: int) -> int:
    """Index of the `number`-th draw from `size` items: every epoch a new permutation, each item once an
    epoch."""
    epoch, place = divmod(number, size)
    return int(_permutation(size, seed, epoch)[place])
