"""Contact sheets: pictures and film strips in a grid, each with its request and a verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diptych.data.pictures import save_picture

_PAD = 10
_GREEN, _RED, _GRAY = (20, 140, 60), (200, 40, 40), (70, 70, 70)


@dataclass(frozen=True, eq=False)
class Cell:
    pixels: np.ndarray
    """uint8 (height, width, 3), or of a clip (frames, height, width, 3)."""
    text: str
    right: bool | None = None
    """Verdict: green, red, or none."""


def contact_sheet(cells: Sequence[Cell], path: str | Path, columns: int = 6, side: int = 192) -> Path:
    """Write a PNG of `cells`, each `side` px wide with up to three lines of text; of a clip every frame is,
    and then each cell has a line for itself."""
    font = ImageFont.load_default(14)
    caption = 58
    strip = max((len(cell.pixels) for cell in cells if cell.pixels.ndim == 4), default=1)
    across = side * strip
    columns = 1 if strip > 1 else min(columns, max(1, len(cells)))
    rows = -(-len(cells) // columns) or 1
    width, height = columns * (across + _PAD) + _PAD, rows * (side + caption + _PAD) + _PAD
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, cell in enumerate(cells):
        x, y = _PAD + index % columns * (across + _PAD), _PAD + index // columns * (side + caption + _PAD)
        frames = cell.pixels if cell.pixels.ndim == 4 else cell.pixels[None]
        for place, frame in enumerate(frames):
            small = Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(small, (x + place * side, y))
        colour = {True: _GREEN, False: _RED, None: _GRAY}[cell.right]
        pen.rectangle(
            (x - 2, y - 2, x + side * len(frames) + 1, y + side + 1),
            outline=colour if cell.right is not None else (225, 225, 225),
            width=2,
        )
        lines = textwrap.wrap(cell.text, max(8, across // 8))[:3]
        pen.multiline_text((x, y + side + 5), "\n".join(lines), fill=colour, font=font, spacing=2)
    save_picture(np.asarray(sheet), Path(path))
    return Path(path)
