"""What a medium looks like, told from statistics of its pixels: a mask, edges, depth, a pose, or a photo."""

from __future__ import annotations

import numpy as np

from diptych.planning.schema import Look

_SIDE = 512
"""Larger pictures are thinned out to this many px a side: lines of one px are kept or lost, never greyed."""
_FLAT = 12
"""Levels of 255 that compression may change."""


def look_of(frames: np.ndarray) -> Look:
    """What uint8 frames (frames, height, width, 3) show, by the one in the middle."""
    frame = frames[len(frames) // 2]
    step = max(1, -(-max(frame.shape[:2]) // _SIDE))
    pixels = frame[::step, ::step].astype(np.int16)
    level = pixels.mean(2)
    if np.ptp(pixels.reshape(-1, 3), axis=0).max() <= 2 * _FLAT:
        return Look.BLANK
    coloured = np.ptp(pixels, axis=2) > 4 * _FLAT
    dark, bright = (level < 2 * _FLAT) & ~coloured, (level > 255 - 2 * _FLAT) & ~coloured
    for ground in (dark, bright):
        drawn = ~ground
        # strokes of edges, a skeleton or boxes have few full colours; what is lit in a dark photo has many
        if ground.mean() > 0.6 and _thin(drawn) and _colours(pixels[drawn]) <= 40:
            if _upright(drawn):
                return Look.BOXES
            return Look.POSE if coloured[drawn].mean() > 0.3 else Look.EDGES
    if coloured.mean() > 0.01:
        return Look.PHOTO
    if (dark | bright).mean() > 0.96 and dark.any() and bright.any():
        return Look.MASK
    # depth is smooth but for its borders; a gray photo has texture, which the median of second differences
    # sees
    bend = np.abs(np.diff(level, 2, axis=0))[:, :-2] + np.abs(np.diff(level, 2, axis=1))[:-2]
    smooth = bend.size > 0 and np.median(bend) <= 1.5 and (bend > _FLAT).mean() < (0.2 if step > 1 else 0.1)
    return Look.DEPTH if smooth and len(np.unique(level.round())) > 8 else Look.PHOTO


def _thin(drawn: np.ndarray) -> bool:
    """Whether strokes are thin: hardly a square of this part of the picture's side fits into them."""
    side = max(4, min(drawn.shape) // 20)
    if not drawn.any() or min(drawn.shape) <= side:
        return False
    whole = _stretches(_stretches(drawn, side), side, 0)
    return float(whole.sum()) < 0.1 * float(drawn.sum())


def _upright(drawn: np.ndarray) -> bool:
    """Whether strokes run along the axes: most of their pixels lie in a long stretch of a row or a column."""
    long = max(4, min(drawn.shape) // 12)
    return bool((_stretches(drawn, long) | _stretches(drawn, long, 0))[drawn].mean() > 0.98)


def _stretches(drawn: np.ndarray, long: int, axis: int = 1) -> np.ndarray:
    """Pixels of stretches of at least `long` along an axis."""
    if axis == 0:
        return _stretches(drawn.T, long).T
    windows = np.lib.stride_tricks.sliding_window_view(drawn, long, axis=1).all(-1)
    kept = np.zeros_like(drawn)
    for shift in range(long):
        kept[:, shift : shift + windows.shape[1]] |= windows
    return kept


def _colours(pixels: np.ndarray) -> int:
    """Colours, coarsely, that more than one pixel in a hundred has."""
    coarse = (pixels // 32) @ np.array([64, 8, 1], np.int16)
    return int((np.bincount(coarse) > 0.01 * len(coarse)).sum())
