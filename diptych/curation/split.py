"""Which part of the data a row is in, without leakage: what looks alike stays together, and pictures of
evaluations stay out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.curation.alike import Prepared, descriptors, likeness
from diptych.curation.cluster import nearest, unit
from diptych.curation.duplicates import groups_of
from diptych.curation.examples import hash_of_folder, pictures_in, seen_in, vectors_of
from diptych.curation.hashes import SIDE, printed
from diptych.curation.stage import Drop, Shared, Stage, Verdict, View, WholeStage, above, threshold

TRAIN, VALIDATION = "train", "validation"
NEAREST = 4
"""Examples that a row is compared with closely."""


@dataclass(frozen=True, kw_only=True)
class Split(Stage):
    """A share of the rows that are kept, for validation; rows that look alike are in one part."""

    kind: ClassVar[str] = "split"

    duplicates: str = "duplicates"
    """The stage that found what looks alike."""
    validation: float = threshold(0.02)

    def needs(self) -> tuple[str, ...]:
        return f"{self.duplicates}.same", f"{self.duplicates}.near", f"{self.duplicates}.likeness"

    def check(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"{self.name}.validation must be a share below 1, got {self.validation}")

    def judge(self, view: View) -> Verdict:
        # by all that was found alike, however little: what is too different to be dropped still leaks
        group = groups_of(view, self.duplicates, 0.0)
        sums = view.digests("sha256")
        # of the first bytes in a group, by their order: neither the place of a row nor its neighbours decide
        order = np.lexsort((sums, group))
        first = order[np.concatenate([[True], np.diff(group[order]) != 0])] if len(order) else order
        held = np.zeros(len(view), dtype=bool)
        for row in first:
            held[row] = int.from_bytes(bytes(sums[row]).ljust(32, b"\0")[:8]) < self.validation * 2**64
        place = np.full(len(view), -1)
        place[group[first]] = first
        part = np.where(held[place[group]], VALIDATION, TRAIN).astype(object)
        part[~view.alive] = ""
        return Verdict(columns={"part": part})


@dataclass(frozen=True, kw_only=True)
class Exclude(WholeStage):
    """How alike a row is to the pictures of an evaluation: by its bytes, by what it looks like, and by an
    embedding where there is one."""

    kind: ClassVar[str] = "exclude"

    examples: str
    """A folder of pictures."""
    prints: str = "prints"
    embed: Stage | None = None
    """What embedded the rows."""
    vectors: str = ""
    """Column of the rows' embeddings; '' for none."""
    max_likeness: float | None = threshold(0.6)
    max_similarity: float | None = threshold(None)
    """Most cosine similarity of embeddings."""

    def needs(self) -> tuple[str, ...]:
        prints = f"{self.prints}.whole", f"{self.prints}.inner"
        return (*prints, self.vectors) if self.vectors else prints

    def gives(self) -> dict[str, pa.DataType]:
        return {
            "same": pa.bool_(),
            "likeness": pa.float32(),
            "similarity": pa.float32(),
            "example": pa.int32(),
        }

    def model(self) -> str:
        return hash_of_folder(Path(self.examples))

    def check(self) -> None:
        hash_of_folder(Path(self.examples))
        if bool(self.vectors) != (self.embed is not None):
            raise ValueError(f"{self.name}: vectors and what embeds them belong together")

    def compute_whole(
        self, view: View, shared: Shared, aside: Path, advance: Callable[[int, int], Any]
    ) -> Mapping[str, Any]:
        count, folder = len(view), Path(self.examples)
        known = np.array([hashlib.sha256(p.read_bytes()).digest() for p in pictures_in(folder)], dtype="S32")
        made: dict[str, Any] = {
            "same": np.isin(view.digests("sha256"), known),
            "likeness": np.zeros(count, np.float32),
            "similarity": np.full(count, np.nan, np.float32),
            "example": np.full(count, -1, np.int32),
        }
        seen = [(printed(one.small), printed(one.inner)) for one in seen_in(folder)]
        if not seen:
            raise ValueError(f"{folder} holds no picture that can be used")
        theirs = Prepared(
            *(np.stack(side).reshape(len(seen), SIDE, SIDE, 3) for side in zip(*seen, strict=True))
        )
        sides = (view.vectors(f"{self.prints}.{name}") for name in ("whole", "inner"))
        for (first, whole, there), (_, inner, _) in zip(*sides, strict=True):
            rows = np.flatnonzero(there)
            if len(rows):
                ours = Prepared.of(whole[rows], inner[rows])
                sought = [
                    nearest(descriptors(example), descriptors(own), NEAREST)[0]
                    for example, own in zip(theirs, ours, strict=True)
                ]
                which = np.concatenate(sought, axis=1)
                pairs = np.stack([np.repeat(np.arange(len(rows)), which.shape[1]), which.ravel()], axis=1)
                alike = likeness(ours, theirs, pairs).reshape(which.shape)
                best = alike.argmax(1)
                made["likeness"][first + rows] = alike.max(1)
                made["example"][first + rows] = np.take_along_axis(which, best[:, None], 1)[:, 0]
            advance(first + len(there), count)
        if self.embed is not None:
            vectors = unit(vectors_of(folder, self.embed, self.vectors, shared))
            for first, ours_, there in view.vectors(self.vectors):
                _, near = nearest(vectors, unit(ours_[there]), 1)
                made["similarity"][first + np.flatnonzero(there)] = near[:, 0]
        return made

    def judge(self, view: View) -> Verdict:
        def named(name: str) -> str:
            return f"{self.name}.{name}"

        drops = [
            Drop("the bytes of an evaluation picture", view[named("same")]),
            *above(
                "like an evaluation picture", view[named("likeness")], self.max_likeness, named("likeness")
            ),
        ]
        if self.vectors:
            close = view[named("similarity")]
            drops += above(
                "shows what an evaluation picture shows", close, self.max_similarity, named("similarity")
            )
        return Verdict(drops)
