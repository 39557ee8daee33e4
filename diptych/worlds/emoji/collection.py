"""Every emoji of the font as a folder of pictures with captions: a small real data set in one command."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.worlds.emoji.font import find_font, render_glyph
from diptych.worlds.emoji.names import full_kinds

MARGIN = 0.06
"""Share of the picture that is left free at each side."""


def write_collection(
    folder: Path, size: int, tones: bool, only: str = "", progress: Callable[[int, int], None] | None = None
) -> int:
    """One PNG of `size` px a glyph, on white, and a text file with its Unicode name; returns how many there
    are.

    Raises FontNotFoundError without a colour emoji font, ValueError where no name holds `only`.
    """
    if not 16 <= size <= 1024:
        raise ValueError(f"size must be 16 to 1024 px, got {size}")
    font = find_font(None)
    kinds = [kind for kind in full_kinds(()) if only in kind.name and (tones or "skin tone" not in kind.name)]
    if not kinds:
        raise ValueError(f"no emoji has {only!r} in its name")
    folder.mkdir(parents=True, exist_ok=True)
    glyph = round(size * (1 - 2 * MARGIN))
    border = (size - glyph) // 2
    count = 0
    for done, kind in enumerate(kinds, 1):
        picture = render_glyph(kind.emoji, glyph, font)
        if picture is not None:
            canvas = np.ones((size, size, 3), dtype=np.float32)
            area = canvas[border : border + glyph, border : border + glyph]
            area += picture[..., 3:] * (picture[..., :3] - area)
            name = _file_name(kind.name)
            Image.fromarray((canvas * 255 + 0.5).astype(np.uint8)).save(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(kind.name + "\n", encoding="utf-8")
            count += 1
        if progress is not None:
            progress(done, len(kinds))
    return count


def _file_name(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return "".join(c if c.isalnum() else "-" for c in plain).strip("-") or f"u{ord(name[0]):x}"
