"""One picture as stages look at it: decoded once, upright, on white."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.curation.stage import RowError
from diptych.data.foreign import read_bytes
from diptych.data.pictures import MAX_BYTES, Header, PictureError, header, open_picture

SMALL = 512
"""Longest side of `Seen.small`, px."""
PLAIN = 12
"""How far the pixels of a border may lie apart, of 255: what a JPEG makes of one colour."""


class Seen:
    """A picture and what can be asked of it. Raises RowError for bytes that are no usable picture."""

    def __init__(self, data: bytes, label: str = "picture") -> None:
        self.data = data
        try:
            self.pixels = open_picture(data, label)
        except PictureError as error:
            raise RowError(str(error).removeprefix(f"{label}: ")) from error

    @cached_property
    def header(self) -> Header:
        return header(self.data)

    @cached_property
    def small(self) -> np.ndarray:
        """The pixels, reduced by a whole number so that no side is longer than SMALL."""
        return reduced(self.pixels, SMALL)

    @cached_property
    def gray(self) -> np.ndarray:
        """Brightness of `small`, uint8 (H, W)."""
        return np.asarray(Image.fromarray(self.small).convert("L"))

    @cached_property
    def inner(self) -> np.ndarray:
        """`small` without plain borders."""
        top, bottom, left, right = self.box
        return self.small[top:bottom, left:right]

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of what lies inside plain borders of `small`."""
        return inside_borders(self.small)


def reduced(pixels: np.ndarray, longest: int) -> np.ndarray:
    factor = -(-max(pixels.shape[:2]) // longest)
    if factor == 1:
        return pixels
    # means over whole blocks: no filter that could blur or ring, and fast
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def inside_borders(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a picture without the rims of one colour, of which there may be several,
    one in another. The whole picture where nothing would be left."""
    top, bottom, left, right = 0, pixels.shape[0], 0, pixels.shape[1]
    # a frame on a margin, a picture on a page: more than that is no border
    for _ in range(3):
        part = pixels[top:bottom, left:right]
        corner = part[0, 0].astype(np.int16)
        away = np.abs(part - corner).max(2) > PLAIN
        rows, columns = np.flatnonzero(away.any(1)), np.flatnonzero(away.any(0))
        if not len(rows):
            break
        found = top + rows[0], top + rows[-1] + 1, left + columns[0], left + columns[-1] + 1
        if found == (top, bottom, left, right):
            break
        top, bottom, left, right = (int(side) for side in found)
    if bottom - top < 8 or right - left < 8:
        return 0, pixels.shape[0], 0, pixels.shape[1]
    return top, bottom, left, right


def bytes_of(file: str, offset: int, size: int, modified: int) -> bytes:
    """A picture's bytes as they were when its source was read. Raises RowError where they changed since."""
    if size > MAX_BYTES:
        raise RowError(f"the picture has {size:,} bytes ({MAX_BYTES:,} at most)")
    try:
        data = read_bytes(Path(file), offset, size)
        same = os.stat(file).st_mtime_ns == modified and len(data) == size
    except OSError as error:
        raise RowError(f"the file cannot be read any more ({error.strerror})") from error
    if not same:
        raise RowError(CHANGED)
    return data


CHANGED = "the file changed after the source was read"
