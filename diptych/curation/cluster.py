"""Clusters of what looks alike: k-means over vectors, of a sample that fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.curation.stage import Shared, View, WholeStage

PER_CLUSTER = 64
"""Rows a cluster that its centre is found from."""


@dataclass(frozen=True, kw_only=True)
class Cluster(WholeStage):
    """The nearest of `clusters` centres, and how near it is."""

    kind: ClassVar[str] = "cluster"

    vectors: str = "pixels.vector"
    clusters: int = 0
    """0: the square root of the number of rows."""
    seed: int = 0

    def needs(self) -> tuple[str, ...]:
        return (self.vectors,)

    def gives(self) -> dict[str, pa.DataType]:
        return {"cluster": pa.int32(), "similarity": pa.float32()}

    def check(self) -> None:
        if self.clusters < 0:
            raise ValueError(
                f"{self.name}.clusters must be 0 (chosen by the number of rows) or more, got {self.clusters}"
            )

    def compute_whole(
        self, view: View, shared: Shared, aside: Path, advance: Callable[[int, int], Any]
    ) -> Mapping[str, Any]:
        number = np.full(len(view), -1, np.int32)
        similarity = np.full(len(view), np.nan, np.float32)
        wanted = self.clusters or max(1, round(len(view) ** 0.5))
        centres = find_centres(view, self.vectors, wanted, self.seed)
        if centres is not None:
            for first, vectors, there in view.vectors(self.vectors):
                which, near = nearest(centres, unit(vectors[there]), 1)
                rows = first + np.flatnonzero(there)
                number[rows], similarity[rows] = which[:, 0], near[:, 0]
                advance(first + len(vectors), len(view))
        # -1, which no cluster has, for rows without a vector
        return {"cluster": number, "similarity": similarity}


def find_centres(view: View, name: str, wanted: int, seed: int) -> np.ndarray | None:
    """Centres (at most `wanted`, width) of a column of vectors, float32 of length 1. None without vectors."""
    import faiss

    sample = sampled(view, name, PER_CLUSTER * wanted, seed)
    if not len(sample):
        return None
    # in one thread: sums in another order would give other clusters
    faiss.omp_set_num_threads(1)
    kmeans = faiss.Kmeans(
        sample.shape[1],
        min(wanted, len(sample)),
        niter=20,
        seed=seed + 1,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=PER_CLUSTER,
    )
    kmeans.train(sample)
    assert kmeans.centroids is not None
    return unit(kmeans.centroids)


def sampled(view: View, name: str, count: int, seed: int) -> np.ndarray:
    """About `count` vectors of a column, float32 of length 1: the same ones however the rows are cut."""
    share = min(1.0, count / max(1, len(view)))
    rng, parts = np.random.default_rng([seed, 8]), []
    for _, vectors, there in view.vectors(name):
        chosen = (rng.random(len(vectors)) < share) & there
        parts.append(unit(vectors[chosen]))
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def nearest(among: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and cosine similarities (rows, count) of what is nearest to each vector."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(among.shape[1])
    index.add(np.ascontiguousarray(among, dtype=np.float32))
    near, which = index.search(np.ascontiguousarray(vectors, dtype=np.float32), min(count, len(among)))
    return which, near


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1, float32; zeros stay zeros."""
    wide = np.asarray(vectors, dtype=np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-6)
