"""Aspect buckets: which pictures share a batch, planned from sizes alone, the same for any number of ranks.

Every step's batch is one bucket's, of the same global size; ranks split it, so all have the same number of
steps by construction. An epoch holds every picture once; what does not fill a batch is left out of that epoch
and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from diptych.data.pictures import MAX_PIXELS, resize

# SANA's tables end at the same ratios
WIDEST = 4.0
STRIP = 16
"""Times its short side: what a picture may be long before it is resized to a bucket."""


@dataclass(frozen=True, order=True)
class Bucket:
    width: int
    height: int


def buckets(resolution: int, multiple: int) -> list[Bucket]:
    """Sizes of about resolution^2 px, sides multiples of `multiple`, from 1:4 to 4:1 (SANA has 40 of them at
    1024)."""
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1 px, got {multiple}")
    if resolution < multiple or resolution % multiple:
        raise ValueError(f"the resolution must be a multiple of {multiple} px, got {resolution}")
    if resolution**2 > MAX_PIXELS:
        raise ValueError(
            f"the resolution must be at most {int(MAX_PIXELS**0.5)} px, as pictures are, got {resolution}"
        )
    sizes = set()
    # each size with its mirror: rounding the width alone would give portraits other sizes than landscapes
    for height in range(multiple, int(resolution * WIDEST**0.5) + 1, multiple):
        width = max(multiple, round(resolution**2 / height / multiple) * multiple)
        if 1 / WIDEST <= width / height <= WIDEST:
            sizes |= {Bucket(width, height), Bucket(height, width)}
    return sorted(sizes, key=lambda b: (b.width / b.height, b.width))


def fit(pixels: np.ndarray, bucket: Bucket) -> np.ndarray:
    """A picture resized so that it covers the bucket, then cut at the centre."""
    height, width = pixels.shape[:2]
    if max(width, height) > STRIP * min(width, height):
        # cut first: resized whole, a strip of 30,000 x 1 px would become larger than any memory
        length = STRIP * min(width, height)
        left, top = max(0, (width - length) // 2), max(0, (height - length) // 2)
        pixels = pixels[top : top + length, left : left + length]
        height, width = pixels.shape[:2]
    scale = max(bucket.width / width, bucket.height / height)
    covering = max(bucket.width, round(width * scale)), max(bucket.height, round(height * scale))
    pixels = resize(pixels, *covering)
    left, top = (covering[0] - bucket.width) // 2, (covering[1] - bucket.height) // 2
    return pixels[top : top + bucket.height, left : left + bucket.width]


class BucketPlan:
    """Which pictures are in which step. A pure function of (sizes, resolutions, batch, seed)."""

    def __init__(
        self, sizes: np.ndarray, resolutions: tuple[int, ...], multiple: int, batch: int, seed: int
    ) -> None:
        """`sizes` (N, 2) of widths and heights. A picture goes to the largest resolution that it need not be
        enlarged for, else to the smallest; there to the bucket of the nearest aspect ratio.

        A bucket with less than a batch is joined with the nearest ratio of its resolution, so that its
        pictures are seen. Raises ValueError where not even one batch comes together.
        """
        if batch < 1 or not resolutions:
            raise ValueError(f"a batch of at least 1 and a resolution are needed, got {batch}, {resolutions}")
        self.batch, self.seed = batch, seed
        self.bucket_of, self.resolution_of = self._assign(sizes, sorted(resolutions), multiple)
        found: dict[Bucket, list[int]] = {}
        for number, bucket in enumerate(self.bucket_of):
            found.setdefault(bucket, []).append(number)
        self.members = {bucket: np.array(found[bucket]) for bucket in sorted(found)}
        self.joined = self._join_small()
        self.steps_per_epoch = sum(len(m) // batch for m in self.members.values())
        self.dropped = len(sizes) - self.steps_per_epoch * batch
        """Pictures that each epoch leaves out; other ones each time."""
        if not self.steps_per_epoch:
            raise ValueError(f"{len(sizes)} pictures do not fill one batch of {batch}")
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    @staticmethod
    def _assign(
        sizes: np.ndarray, resolutions: list[int], multiple: int
    ) -> tuple[list[Bucket], dict[Bucket, int]]:
        """Bucket of each picture, and the resolution that each bucket belongs to."""
        tables = {resolution: buckets(resolution, multiple) for resolution in resolutions}
        # logarithms: 1:2 and 2:1 are then as far from the square as one another
        ratios = {
            resolution: np.log([b.width / b.height for b in table]) for resolution, table in tables.items()
        }
        chosen: list[Bucket] = []
        resolution_of: dict[Bucket, int] = {}
        for width, height in sizes.tolist():
            # by area, as buckets of a resolution have one area and many sides
            fitting = [r for r in resolutions if width * height >= r * r] or resolutions[:1]
            nearest = int(np.abs(ratios[fitting[-1]] - np.log(width / height)).argmin())
            chosen.append(tables[fitting[-1]][nearest])
            resolution_of[chosen[-1]] = fitting[-1]
        return chosen, resolution_of

    def _join_small(self) -> dict[Bucket, Bucket]:
        """Merge buckets that cannot fill a batch into their neighbour; returns what went where."""
        joined: dict[Bucket, Bucket] = {}
        # the smallest first: what they bring may fill their neighbours before their own turn comes
        for bucket in sorted(self.members, key=lambda b: len(self.members[b])):
            others = [
                b for b in self.members if b != bucket and self.resolution_of[b] == self.resolution_of[bucket]
            ]
            if len(self.members[bucket]) >= self.batch or not others:
                continue
            near = min(
                others, key=lambda b: abs(np.log(b.width / b.height) - np.log(bucket.width / bucket.height))
            )
            moved = self.members.pop(bucket)
            self.members[near] = np.sort(np.concatenate([self.members[near], moved]))
            joined[bucket] = near
            # caches are keyed by size, so a picture must be asked for at the size that it ends up with
            for number in moved:
                self.bucket_of[number] = near
        return joined

    def _make_epoch(self, epoch: int) -> list[tuple[Bucket, np.ndarray]]:
        batches = []
        for place, (bucket, members) in enumerate(sorted(self.members.items())):
            order = np.random.default_rng([self.seed, 6, epoch, place]).permutation(members)
            batches += [
                (bucket, order[i : i + self.batch]) for i in range(0, len(order) - self.batch + 1, self.batch)
            ]
        # batches of all sizes are mixed: one size after the other would be a curriculum that nobody asked for
        order = np.random.default_rng([self.seed, 7, epoch]).permutation(len(batches))
        return [batches[i] for i in order]

    def at(self, step: int) -> tuple[int, Bucket, np.ndarray]:
        """(epoch, bucket, numbers of the pictures) of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        bucket, numbers = self._epoch(epoch)[place]
        return epoch, bucket, numbers
