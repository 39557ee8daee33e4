"""Breadth: not too much of one kind, more of what is wanted, and which size each picture is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.curation.cluster import nearest, unit
from diptych.curation.examples import hash_of_folder, vectors_of
from diptych.curation.stage import (
    Drop,
    Shared,
    Stage,
    Verdict,
    View,
    WholeStage,
    below,
    limit_of,
    threshold,
)
from diptych.data.captioned.buckets import BucketPlan


@dataclass(frozen=True, kw_only=True)
class Breadth(Stage):
    """At most `cap` rows of a cluster; or a share of each that falls with its size."""

    kind: ClassVar[str] = "breadth"

    clusters: str = "cluster.cluster"
    cap: int = threshold(0)
    """Rows of a cluster; 0: no cap."""
    temperature: float = threshold(1.0)
    """Of n rows of a cluster, about n^(1 / temperature) are kept, in proportion: 1 keeps all, and a large one
    as many of each."""
    best: str = threshold("")
    """Column by which the best rows of a cluster stay; '': drawn at random."""
    seed: int = threshold(0)

    def needs(self) -> tuple[str, ...]:
        return (self.clusters,)

    def check(self) -> None:
        if self.cap < 0 or not self.temperature >= 1:
            raise ValueError(
                f"{self.name}: cap must be 0 or more and temperature 1 or more, "
                f"got {self.cap}, {self.temperature}"
            )

    def judge(self, view: View) -> Verdict:
        cluster = view[self.clusters].astype(np.int64)
        rows = np.flatnonzero(view.alive & (cluster >= 0))
        if not len(rows):
            return Verdict()
        sizes = np.bincount(cluster[rows])
        quota = self._quota(sizes)
        if self.best:
            rank = -np.nan_to_num(view[self.best][rows], nan=-np.inf)
        else:
            rank = np.random.default_rng([self.seed, 9]).random(len(rows))
        order = np.lexsort((rank, cluster[rows]))
        # place of each row in its cluster
        first = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        place = np.empty(len(rows), dtype=np.int64)
        place[order] = np.arange(len(rows)) - first[cluster[rows][order]]
        over = np.zeros(len(view), dtype=bool)
        over[rows] = place >= quota[cluster[rows]]
        size = np.full(len(view), np.nan)
        size[rows] = sizes[cluster[rows]]
        return Verdict([Drop("one of too many alike", over, size, f"{self.name}.size")], {"size": size})

    def _quota(self, sizes: np.ndarray) -> np.ndarray:
        quota = sizes.astype(np.float64)
        if self.temperature > 1:
            wanted = np.where(sizes > 0, sizes.astype(np.float64) ** (1 / self.temperature), 0.0)
            # as many as the scarcest cluster can give of its share; one of each at least
            scale = (sizes[sizes > 0] / wanted[sizes > 0]).min()
            quota = np.maximum(np.ceil(wanted * scale), np.minimum(sizes, 1))
        return np.minimum(quota, self.cap) if self.cap else quota


@dataclass(frozen=True, kw_only=True)
class Domain(WholeStage):
    """How near a row is to the nearest of some examples: "my five thousand product photos"."""

    kind: ClassVar[str] = "domain"

    examples: str
    """A folder of pictures."""
    embed: Stage
    """What embedded the rows: the same embeds the examples."""
    vectors: str = "pixels.vector"
    min: float | None = threshold(None)
    """Least cosine similarity."""
    share: float | None = threshold(None)
    """Or the share of the rows that is kept, the nearest ones."""

    def needs(self) -> tuple[str, ...]:
        return (self.vectors,)

    def gives(self) -> dict[str, pa.DataType]:
        return {"similarity": pa.float32(), "example": pa.int32()}

    def model(self) -> str:
        return hash_of_folder(Path(self.examples))

    def check(self) -> None:
        hash_of_folder(Path(self.examples))

    def compute_whole(
        self, view: View, shared: Shared, aside: Path, advance: Callable[[int, int], Any]
    ) -> Mapping[str, Any]:
        similarity = np.full(len(view), np.nan, np.float32)
        example = np.full(len(view), -1, np.int32)
        wanted = unit(vectors_of(Path(self.examples), self.embed, self.vectors, shared))
        for first, vectors, there in view.vectors(self.vectors):
            which, near = nearest(wanted, unit(vectors[there]), 1)
            rows = first + np.flatnonzero(there)
            similarity[rows], example[rows] = near[:, 0], which[:, 0]
            advance(first + len(vectors), len(view))
        return {"similarity": similarity, "example": example}

    def judge(self, view: View) -> Verdict:
        name = f"{self.name}.similarity"
        limit = limit_of(view, view[name], self.min, self.share)
        return Verdict(below("unlike the examples", view[name], limit, name))


@dataclass(frozen=True, kw_only=True)
class Buckets(Stage):
    """Which size each picture would be trained at, how much of it is cut off there, and how far it would
    have to be enlarged."""

    kind: ClassVar[str] = "buckets"

    probe: str = "probe"
    """The stage that measured the pictures."""
    resolutions: tuple[int, ...] = threshold((512,))
    multiple: int = threshold(32)
    max_enlarged: float | None = threshold(None)
    """How many times its size a picture may be enlarged."""

    def needs(self) -> tuple[str, ...]:
        return f"{self.probe}.width", f"{self.probe}.height"

    def judge(self, view: View) -> Verdict:
        sizes = np.stack([view[name] for name in self.needs()], axis=1).astype(np.int64)
        rows = np.flatnonzero(view.alive)
        bucket = np.full(len(view), "", dtype=object)
        cut, larger = np.full(len(view), np.nan), np.full(len(view), np.nan)
        if len(rows):
            plan = BucketPlan(sizes[rows], self.resolutions, self.multiple, 1, 0)
            names = {b: f"{b.width}x{b.height}" for b in plan.members}
            bucket[rows] = [names[b] for b in plan.bucket_of]
            made = np.array([(b.width, b.height) for b in plan.bucket_of], dtype=np.float64)
            scale = (made / sizes[rows]).max(1)
            larger[rows] = scale
            cut[rows] = 1 - made.prod(1) / (sizes[rows] * scale[:, None]).prod(1)
        drops = []
        if self.max_enlarged is not None:
            over = larger > self.max_enlarged
            drops.append(Drop("would be enlarged", over, larger, f"{self.name}.enlarged", self.max_enlarged))
        return Verdict(drops, {"bucket": bucket, "cut": cut, "enlarged": larger})
