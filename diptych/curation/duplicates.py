"""Near-duplicates: found within clusters of what looks alike, compared closely, the best of each kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.curation.alike import FLOOR, WIDTH, Prepared, descriptors, likeness
from diptych.curation.cluster import nearest, unit
from diptych.curation.hashes import SIDE
from diptych.curation.stage import Drop, Shared, Verdict, View, WholeStage, threshold

CANDIDATES = 12
"""Nearest rows that each row is compared with closely."""
LEAST = 0.7
"""Cosine similarity of descriptors under which two pictures are not compared."""
TOGETHER = 20_000
"""Rows up to which all are compared with all; beyond, within clusters."""
CLUSTER = 1000
"""Rows of a cluster, about."""
LISTS = 4
"""Clusters in which a row looks for its like: a copy may lie on the other side of a border."""
BLOCK = 256
SPILLS = 64
"""Files among which pairs are sorted, so that one at a time fits into memory."""
PRACTICALLY = 0.95
"""Likeness from which two pictures are one."""


@dataclass(frozen=True, kw_only=True)
class Duplicates(WholeStage):
    """How alike the pictures of a run are, and the best one of each group of copies.

    Alike is what a crop, another size or compression, a shift of colours or an added border makes of a
    picture; of the same bytes, all rows count as one.
    """

    kind: ClassVar[str] = "duplicates"
    version: ClassVar[int] = 2

    prints: str = "prints"
    seed: int = 0
    min: float = threshold(0.7)
    """Likeness from which two pictures are copies of one another; 1 is the same."""
    best: str = threshold("probe.content")
    """Column whose highest value is kept."""

    def needs(self) -> tuple[str, ...]:
        return f"{self.prints}.whole", f"{self.prints}.inner"

    def gives(self) -> dict[str, pa.DataType]:
        return {
            "same": pa.int64(),
            "nearest": pa.float32(),
            "near": pa.list_(pa.int64()),
            "likeness": pa.list_(pa.float32()),
        }

    def check(self) -> None:
        if not FLOOR <= self.min <= 1:
            raise ValueError(
                f"{self.name}.min must be {FLOOR} to 1, as less is not looked for; got {self.min}"
            )

    def compute_whole(
        self, view: View, shared: Shared, aside: Path, advance: Callable[[int, int], Any]
    ) -> Mapping[str, Any]:
        count = len(view)
        sums = view.digests("sha256")
        _, first, which = np.unique(sums, return_index=True, return_inverse=True)
        same = np.where(sums == b"", np.arange(count), first[which])
        # one of all rows of the same bytes stands for them: a million copies are no million comparisons
        stands = same == np.arange(count)
        rows, prints, sides = self._prepared(view, stands, aside)
        pairs, likes = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
        for found in _candidates(sides, self.seed, aside, advance):
            for at in range(0, len(found), BLOCK):
                part = found[at : at + BLOCK]
                alike = likeness(prints, prints, part)
                pairs.append(part[alike >= FLOOR])
                likes.append(alike[alike >= FLOOR])
        return self._columns(count, same, rows[np.concatenate(pairs)], np.concatenate(likes))

    def _prepared(
        self, view: View, stands: np.ndarray, aside: Path
    ) -> tuple[np.ndarray, Prepared, list[np.ndarray]]:
        """Rows that are compared; their prints and their descriptors, on disk."""
        rows = []
        size = int(stands.sum())
        shape = (size, SIDE, SIDE, 3)
        whole = np.lib.format.open_memmap(aside / "whole.npy", mode="w+", dtype=np.uint8, shape=shape)
        inner = np.lib.format.open_memmap(aside / "inner.npy", mode="w+", dtype=np.uint8, shape=shape)
        sides = [
            np.lib.format.open_memmap(aside / f"{name}-v.npy", "w+", np.float16, (size, WIDTH))
            for name in ("whole", "inner")
        ]
        at = 0
        read = (view.vectors(name) for name in self.needs())
        for (first, left, there), (_, right, _) in zip(*read, strict=True):
            chosen = np.flatnonzero(there & stands[first : first + len(there)])
            if not len(chosen):
                continue
            prints = Prepared.of(left[chosen], right[chosen])
            end = at + len(chosen)
            whole[at:end], inner[at:end] = prints.whole, prints.inner
            for vectors, side in zip(sides, prints, strict=True):
                vectors[at:end] = descriptors(side)
            rows.append(first + chosen)
            at = end
        return (
            np.concatenate(rows) if rows else np.zeros(0, np.int64),
            Prepared(whole[:at], inner[:at]),
            [vectors[:at] for vectors in sides],
        )

    def _columns(
        self, count: int, same: np.ndarray, pairs: np.ndarray, alike: np.ndarray
    ) -> Mapping[str, Any]:
        best = np.zeros(count, np.float32)
        np.maximum.at(best, pairs.ravel(), np.repeat(alike, 2))
        best = best[same]
        # a second copy of the same bytes has its like
        best[same != np.arange(count)] = 1.0
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=count))])
        lists = pa.array(offsets, pa.int32())
        return {
            "same": same,
            "nearest": best,
            "near": pa.ListArray.from_arrays(lists, pa.array(pairs[order, 1], pa.int64())),
            "likeness": pa.ListArray.from_arrays(lists, pa.array(alike[order], pa.float32())),
        }

    def judge(self, view: View) -> Verdict:
        bytes_of = view[f"{self.name}.same"]
        quality = np.nan_to_num(view[self.best].astype(np.float64), nan=-np.inf)
        alive = np.flatnonzero(view.alive)
        # what differs by a border alone counts as one, so that what is like either of two is like both
        same = groups_of(view, self.name, max(self.min, PRACTICALLY))
        # the best row of each; of equal ones the first
        order = alive[np.lexsort((alive, -quality[alive], same[alive]))]
        first = np.flatnonzero(np.diff(same[order], prepend=-1))
        chosen = np.full(len(view), -1, np.int64)
        chosen[same[order[first]]] = order[first]
        copies = np.zeros(len(view), dtype=bool)
        copies[alive] = chosen[same[alive]] != alive
        pairs, alike = edges_of(view, self.name)
        pairs = chosen[same[pairs]]
        there = (alike >= self.min) & (pairs >= 0).all(1) & (pairs[:, 0] != pairs[:, 1])
        keeper, close = _kept_of(pairs[there], alike[there], quality, len(view))
        # of a copy's own best, which may itself go for the sake of a better one
        best = chosen[same]
        into = np.where(copies, np.where(keeper[best] >= 0, keeper[best], best), keeper)
        score = np.where(copies, 1.0, close)
        twin = copies & (bytes_of == bytes_of[into])
        return Verdict(
            [
                Drop("the same bytes as another", twin, score, f"{self.name}.likeness", 1.0),
                Drop("a near-duplicate", copies | (keeper >= 0), score, f"{self.name}.likeness", self.min),
            ],
            {"of": into},
        )


def edges_of(view: View, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows that a stage found alike, (E, 2), and how alike they are."""
    offsets, others = view.lists(f"{name}.near")
    _, alike = view.lists(f"{name}.likeness")
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.stack([rows, others.astype(np.int64)], axis=1).reshape(-1, 2), alike.astype(np.float64)


def groups_of(view: View, name: str, least: float) -> np.ndarray:
    """Number of the group of each row: of those of the same bytes, and of those that chains of likeness
    join."""
    same = view[f"{name}.same"].astype(np.int64)
    pairs, alike = edges_of(view, name)
    label = np.arange(len(same))
    pairs = pairs[alike >= least]
    while len(pairs):
        low = label[pairs].min(1)
        before = label.copy()
        np.minimum.at(label, pairs[:, 0], low)
        np.minimum.at(label, pairs[:, 1], low)
        label = label[label]
        if (label == before).all():
            break
    return label[same]


def _kept_of(
    pairs: np.ndarray, alike: np.ndarray, quality: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each row the better one that it is a copy of, -1 for those that stay, and how alike they are.

    The best row stays and its copies go, then the best of what is left: a copy always has its like among what
    is kept, and pictures that only a chain of others joins both stay.
    """
    keeper, close = np.full(count, -1, np.int64), np.full(count, np.nan)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    likes = np.concatenate([alike, alike])
    order = np.lexsort((both[:, 1], both[:, 0], -quality[both[:, 0]]))
    both, likes = both[order], likes[order]
    edges = np.flatnonzero(np.diff(both[:, 0], prepend=-1, append=-1))
    for start, end in pairwise(edges):
        if keeper[both[start, 0]] >= 0:
            continue
        for other, like in zip(both[start:end, 1], likes[start:end], strict=True):
            # a better one, or an equal one before, has had its turn: whoever is left is worse
            if keeper[other] < 0 or like > close[other]:
                keeper[other], close[other] = both[start, 0], like
    return keeper, close


def _candidates(
    sides: Sequence[np.ndarray], seed: int, aside: Path, advance: Callable[[int, int], Any]
) -> Iterator[np.ndarray]:
    """Pairs (P, 2), lower number first and each once, that are worth comparing; `sides`: descriptors of whole
    pictures and of what lies inside their borders, as a copy may have either in common with its like."""
    count = len(sides[0])
    if count <= TOGETHER:
        every = np.arange(count)
        found = [near_pairs(vectors, every, every) for vectors in sides]
        yield np.unique(np.concatenate(found), axis=0)
        advance(count, count)
        return
    told = 0
    spills = [aside / f"pairs-{number}" for number in range(SPILLS)]
    for vectors in sides:
        for asking, among in _clusters(vectors, seed):
            if len(among):
                _spill(near_pairs(vectors, asking, among), count, spills)
            told += len(among)
            advance(told // 4, count)
    for number, path in enumerate(spills, 1):
        if path.is_file():
            # found from either row, in several clusters, and on both sides
            yield np.unique(np.fromfile(path, np.int64).reshape(-1, 2), axis=0)
        advance(count // 2 + count * number // (2 * SPILLS), count)


def _spill(pairs: np.ndarray, count: int, spills: Sequence[Path]) -> None:
    """Append pairs to the file of their lower number."""
    which = pairs[:, 0] * len(spills) // count
    for number in np.unique(which):
        with spills[number].open("ab") as file:
            pairs[which == number].tofile(file)


def near_pairs(vectors: np.ndarray, asking: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Pairs of rows that ask and the nearest of some rows; each once, as each may find the other."""
    held, found = np.asarray(vectors[among], dtype=np.float32), [np.zeros((0, 2), np.int64)]
    for at in range(0, len(asking), 4096):
        part = asking[at : at + 4096]
        which, near = nearest(held, np.asarray(vectors[part], dtype=np.float32), CANDIDATES + 1)
        pairs = np.stack([np.repeat(part, which.shape[1]), among[which.ravel()]], axis=1)
        found.append(np.sort(pairs[(near.ravel() >= LEAST) & (pairs[:, 0] != pairs[:, 1])], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _clusters(vectors: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows that ask, rows of a cluster): each row asks in the LISTS clusters nearest to it."""
    import faiss

    count = len(vectors)
    wanted = max(1, count // CLUSTER)
    rng = np.random.default_rng([seed, 11])
    sample = np.sort(rng.choice(count, min(count, 64 * wanted), replace=False))
    faiss.omp_set_num_threads(1)
    kmeans = faiss.Kmeans(WIDTH, wanted, niter=10, seed=seed + 1, min_points_per_centroid=1)
    kmeans.train(np.asarray(vectors[sample], dtype=np.float32))
    assert kmeans.centroids is not None
    centres = unit(kmeans.centroids)
    lists = np.empty((count, LISTS), np.int32)
    for at in range(0, count, 65536):
        part = np.asarray(vectors[at : at + 65536], dtype=np.float32)
        lists[at : at + len(part)] = nearest(centres, part, LISTS)[0]
    home = np.argsort(lists[:, 0], kind="stable")
    begins = np.searchsorted(lists[home, 0], np.arange(wanted + 1))
    asked = np.argsort(lists.ravel(), kind="stable")
    asks = np.searchsorted(lists.ravel()[asked], np.arange(wanted + 1))
    for cluster in range(wanted):
        members = np.sort(home[begins[cluster] : begins[cluster + 1]])
        yield np.sort(asked[asks[cluster] : asks[cluster + 1]] // LISTS), members
