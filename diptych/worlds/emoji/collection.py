"""Every emoji of the font as a folder of pictures with captions: a small real data set in one command."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.files.whole import whole
from diptych.worlds.emoji.font import find_font, render_glyph
from diptych.worlds.emoji.names import full_kinds

MARGIN = 0.06
"""Share of the picture that is left free at each side."""


def write_collection(
    folder: Path, size: int, tones: bool, only: str = "", progress: Callable[[int, int], None] | None = None
) -> int:
    """One PNG of `size` px a glyph, on white, and a text file with its Unicode name; returns how many there
    are.

    Files of the same bytes are kept. Raises FontNotFoundError without a colour emoji font, ValueError where
    no name holds `only`, and where a file of one of the names is something else.
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
    written: set[str] = set()
    for done, kind in enumerate(kinds, 1):
        picture = render_glyph(kind.emoji, glyph, font)
        if picture is not None:
            canvas = np.ones((size, size, 3), dtype=np.float32)
            area = canvas[border : border + glyph, border : border + glyph]
            area += picture[..., 3:] * (picture[..., :3] - area)
            name = _file_name(kind.name)
            if name in written:
                # "keycap: *" and "keycap: #" have one name without their signs
                name += "".join(f"-{ord(c):x}" for c in kind.emoji)
            written.add(name)
            buffer = io.BytesIO()
            Image.fromarray((canvas * 255 + 0.5).astype(np.uint8)).save(buffer, "PNG")
            _write(folder / f"{name}.png", buffer.getvalue())
            _write(folder / f"{name}.txt", f"{kind.name}\n".encode())
        if progress is not None:
            progress(done, len(kinds))
    return len(written)


def _write(path: Path, data: bytes) -> None:
    """A file whole. Raises ValueError where another one of that name is there."""
    if path.exists():
        # the same bytes are of a run that was stopped
        if not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data:
            raise ValueError(f"{path} is there already and is something else: name another folder")
        return
    with whole(path) as aside:
        aside.write_bytes(data)


def _file_name(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return "".join(c if c.isalnum() else "-" for c in plain).strip("-") or f"u{ord(name[0]):x}"
