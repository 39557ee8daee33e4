"""What two pictures are compared by: a perceptual hash, small prints of the picture, and a vector of its
colours and edges for which no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from diptych.curation.decode import Seen
from diptych.curation.stage import Batch, Stage, vector

SIDE = 32
"""Of a print, px."""


def printed(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A picture drawn together to a small square, uint8 (side, side, 3): every pixel counts."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


@dataclass(frozen=True, kw_only=True)
class Prints(Stage):
    """A hash that small changes leave as it is, and two small pictures: of all, and of what lies inside plain
    borders. What near-duplicates are found by."""

    kind: ClassVar[str] = "prints"

    def gives(self) -> dict[str, pa.DataType]:
        return {"hash": pa.int64(), "whole": pa.binary(3 * SIDE**2), "inner": pa.binary(3 * SIDE**2)}

    def look(self, seen: Seen, loaded: Any) -> tuple[int, bytes, bytes]:
        return perceptual(seen.gray), printed(seen.small).tobytes(), printed(seen.inner).tobytes()

    def compute(self, batch: Batch, loaded: Any) -> Mapping[str, Sequence[Any]]:
        hashes, wholes, inners = zip(*batch.looked, strict=True)
        return {"hash": hashes, "whole": wholes, "inner": inners}


def perceptual(gray: np.ndarray) -> int:
    """64 signs of the lowest cosine waves of a picture's brightness, as a signed number of 64 bits."""
    small = np.asarray(
        Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32
    )
    waves = _cosines() @ small @ _cosines().T
    # the mean says how bright it is, which is not what it shows
    signs = (waves > np.median(waves.ravel()[1:])).ravel()
    signs[0] = False
    return int(np.packbits(signs).view(">i8")[0])


@cache
def _cosines() -> np.ndarray:
    """The 8 lowest rows of the cosine transform, (8, SIDE)."""
    places = (np.arange(SIDE) + 0.5) / SIDE
    return np.cos(np.pi * np.arange(8)[:, None] * places).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Pixels(Stage):
    """A vector of a picture's colours by place and of the directions of its edges: an embedding without a
    model, for clusters of what looks alike."""

    kind: ClassVar[str] = "pixels"

    GRID: ClassVar[int] = 4
    DIRECTIONS: ClassVar[int] = 8

    def gives(self) -> dict[str, pa.DataType]:
        return {"vector": vector(self.GRID**2 * (3 + self.DIRECTIONS))}

    def look(self, seen: Seen, loaded: Any) -> np.ndarray:
        return colours_and_edges(printed(seen.inner, 2 * SIDE), self.GRID, self.DIRECTIONS)

    def compute(self, batch: Batch, loaded: Any) -> Mapping[str, Sequence[Any]]:
        return {"vector": batch.looked}


def colours_and_edges(pixels: np.ndarray, grid: int, directions: int) -> np.ndarray:
    """Mean colours and edges by direction of each of grid x grid parts, float16, of length 1."""
    side = pixels.shape[0]
    shares = pixels.astype(np.float32) / 255
    colours = shares.reshape(grid, side // grid, grid, side // grid, 3).mean((1, 3)) - 0.5
    gray = shares.mean(2)
    down, across = np.gradient(gray)
    strength = np.hypot(across, down)
    # of lines, not of arrows: an edge from dark to light is that from light to dark
    turn = (np.arctan2(down, across) % np.pi) / np.pi * directions
    bins = np.minimum(turn.astype(np.int64), directions - 1)
    parts = np.add.outer(np.arange(side) // (side // grid) * grid, np.arange(side) // (side // grid))
    counted = np.bincount((parts * directions + bins).ravel(), strength.ravel(), grid**2 * directions)
    edges = counted / max(float(np.linalg.norm(counted)), 1e-3)
    colours = colours.ravel() / max(float(np.linalg.norm(colours)), 1e-3)
    found = np.concatenate([colours, edges])
    return (found / np.linalg.norm(found)).astype(np.float16)
