"""What a planner is shown of media: small pictures, of a clip some of its frames; and, in training, drawings
that look as the planning data say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from diptych.data.pictures import resize
from diptych.planning.schema import Attached, Look
from diptych.request import Media
from diptych.systems.unison.settings import CLIP_FRAMES

SIDE, LEAST = 448, 28
"""px: the longer side of what is shown, and the least that a side may have."""
DRAWN = 84


def thumbnails(medium: Media) -> list[np.ndarray]:
    """uint8 (height, width, 3), evenly spread over a clip."""
    count = len(medium.frames)
    places = np.linspace(0, count - 1, min(count, CLIP_FRAMES)).round().astype(int)
    return [_small(medium.frames[place]) for place in places]


def _small(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    # a strip becomes as wide as a token: its proportions do not say what it is
    return resize(pixels, max(LEAST, round(width * scale)), max(LEAST, round(height * scale)))


def drawn(media: Sequence[Attached], seed: Sequence[int]) -> list[list[np.ndarray]]:
    """Pictures for each medium that have its look; a pure function of the seed."""
    found = []
    for number, medium in enumerate(media):
        rng = np.random.default_rng([*seed, number])
        count = 1 if medium.kind == "picture" else CLIP_FRAMES
        found.append([_look(medium.look, rng) for _ in range(count)])
    return found


def _look(look: Look, rng: np.random.Generator) -> np.ndarray:
    if look in (Look.PHOTO, Look.DEPTH):
        grid = rng.integers(0, 256, (4, 4, 3 if look is Look.PHOTO else 1), dtype=np.uint8)
        smooth = Image.fromarray(np.broadcast_to(grid, (4, 4, 3)).copy())
        image = smooth.resize((DRAWN, DRAWN), Image.Resampling.BICUBIC)
        if look is Look.DEPTH:
            return np.asarray(image.filter(ImageFilter.GaussianBlur(6)))
        noisy = np.asarray(image, np.int16) + rng.integers(-24, 25, (DRAWN, DRAWN, 3))
        return noisy.clip(0, 255).astype(np.uint8)
    if look is Look.BLANK:
        return np.full((DRAWN, DRAWN, 3), rng.integers(0, 256), np.uint8)
    image = Image.new("RGB", (DRAWN, DRAWN))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 4)) if look is Look.MASK else int(rng.integers(6, 13))):
        (left, right), (top, low) = (sorted(rng.integers(0, DRAWN, 2).tolist()) for _ in range(2))
        bright = tuple(rng.integers(96, 256, 3).tolist())
        if look is Look.MASK:
            pen.ellipse((left, top, right, low), fill="white")
        elif look is Look.BOXES:
            pen.rectangle((left, top, right, low), outline=bright)
        elif look is Look.POSE:
            pen.line((left, top, right, low), fill=bright, width=3)
        else:
            pen.line((left, top, right, low), fill="white")
    return np.asarray(image)
