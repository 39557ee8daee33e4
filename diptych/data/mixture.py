"""Which sample comes when: a pure function of (seed, step).

The n-th sample of a run belongs to a source chosen so that every block of 1,000 samples (more where a source
has so small a share that it would be in none) holds the mixture's ratios exactly, and is that source's k-th
draw, k counted in closed form. Nothing is replayed at a resume, and ranks and workers cannot disagree.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping

import numpy as np

from diptych.contracts import Source

# random streams are told apart by the second number of a seed: 1 order of sources, 2 order within one, 3
# noise, 4 dropout, 5 choice of caption, 6 pictures of a bucket, 7 order of batches
BLOCK = 1000
LARGEST_BLOCK = 10**6


def shares_of(weights: Mapping[str, float], known: Collection[str]) -> dict[str, float]:
    """The sources that a mixture draws from, with their weights.

    Raises ValueError for a source that is not among the known ones, a negative weight, or no source at all.
    """
    if unknown := set(weights) - set(known):
        raise ValueError(
            f"mixture names {', '.join(sorted(unknown))}, but the sources are {', '.join(sorted(known))}"
        )
    chosen = {name: weight for name, weight in weights.items() if weight != 0}
    if not chosen or min(chosen.values()) < 0:
        raise ValueError(f"mixture weights must be positive for at least one source, got {dict(weights)}")
    return chosen


class Mixture:
    """Sources with weights. Raises ValueError as `shares_of` does, and for a share so small that its source
    would hardly ever be drawn from."""

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, float], seed: int) -> None:
        chosen = shares_of(weights, sources)
        # by name: the order in which a config lists them must not change what is drawn
        self.sources = [sources[name] for name in sorted(chosen)]
        self.seed = seed
        total = sum(chosen.values())
        shares = [chosen[name] / total for name in sorted(chosen)]
        self.block = BLOCK
        # a source that no block had a place for would never be drawn from, and nobody be told
        while 0 in (quota := _quota(shares, self.block)):
            if self.block == LARGEST_BLOCK:
                name = sorted(chosen)[quota.index(0)]
                raise ValueError(
                    f"{name!r} has a share of {chosen[name] / total:.1g}, less than one sample in "
                    f"{LARGEST_BLOCK:,}: leave it out of the mixture, or give it more"
                )
            self.block *= 10
        self.quota = np.array(quota)
        self._block = functools.lru_cache(maxsize=4)(self._make_block)

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.repeat(np.arange(len(self.sources)), self.quota)
        np.random.default_rng([self.seed, 1, block]).shuffle(order)
        within = np.zeros(self.block, dtype=np.int64)
        for i in range(len(self.sources)):
            at = order == i
            within[at] = np.arange(at.sum())
        return order, within

    def locate(self, n: int) -> tuple[Source, int]:
        """Source of the run's n-th sample, and its number within that source."""
        block, place = divmod(n, self.block)
        order, within = self._block(block)
        index = int(order[place])
        # draws before this block are the quota times its number: no counter to save or to restore
        return self.sources[index], int(self.quota[index]) * block + int(within[place])


def _quota(shares: list[float], block: int) -> list[int]:
    """Samples of each source in a block."""
    exact = [share * block for share in shares]
    quota = [int(share) for share in exact]
    # largest remainders get what rounding down left over
    by_remainder = sorted(range(len(exact)), key=lambda i: (quota[i] - exact[i], i))
    for i in by_remainder[: block - sum(quota)]:
        quota[i] += 1
    return quota


@functools.lru_cache(maxsize=16)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 2, epoch]).permutation(size)


def shuffled(number: int, size: int, seed: int) -> int:
    """Index of the `number`-th draw from `size` items: every epoch a new permutation, each item once an
    epoch."""
    epoch, place = divmod(number, size)
    return int(_permutation(size, seed, epoch)[place])
