"""The colour emoji font: finding it and rendering glyphs.

The glyphs are bitmaps of one fixed size inside the font (a 109 px strike for Noto Color Emoji); every other
size is a Lanczos reduction of that bitmap.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

STRIKE = 109
"""The only size, in points, that Noto Color Emoji can be opened at."""
# px; the bitmaps of the strike are 136 wide
_CANVAS = 136
_INSTALL = (
    "install it with `apt-get install fonts-noto-color-emoji`, or set DIPTYCH_EMOJI_FONT to a font file"
)


class FontNotFoundError(FileNotFoundError):
    """No colour emoji font is installed; the message says how to install one."""


def find_font(path: str | Path | None = None) -> Path:
    """Path of the colour emoji font: `path`, else $DIPTYCH_EMOJI_FONT, else what fontconfig knows.

    Raises FontNotFoundError with the install command where there is none.
    """
    chosen = path or os.environ.get("DIPTYCH_EMOJI_FONT")
    if chosen:
        if not Path(chosen).is_file():
            raise FontNotFoundError(f"emoji font {str(chosen)!r} does not exist; {_INSTALL}")
        return Path(chosen)
    if shutil.which("fc-list"):
        listing = subprocess.run(["fc-list", ":", "file"], capture_output=True, text=True, check=False).stdout
        # fc-list has no order of its own, and which font is found must not change from call to call
        for line in sorted(listing.splitlines()):
            name = line.strip().rstrip(":")
            if "emoji" in name.lower() and "color" in name.lower() and Path(name).is_file():
                return Path(name)
    default = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    if default.is_file():
        return default
    raise FontNotFoundError(f"no colour emoji font is installed; {_INSTALL}")


@functools.cache
def _open(path: Path) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(path), STRIKE)
    except OSError as error:
        raise FontNotFoundError(
            f"{path} cannot be opened as a colour emoji font ({error}); {_INSTALL}"
        ) from error


def render_glyph(emoji: str, size: int, font: Path) -> np.ndarray | None:
    """One glyph as float32 RGBA in 0..1, shape (size, size, 4), centred, longest side = size.

    None where the font has no picture for the sequence, or draws its parts one beside the other.
    """
    face = _open(font)
    # an unjoined sequence is wider than one glyph: the font does not know it
    if face.getlength(emoji) > 140:
        return None
    picture = Image.new("RGBA", (_CANVAS, _CANVAS), (0, 0, 0, 0))
    ImageDraw.Draw(picture).text((0, 0), emoji, font=face, embedded_color=True)
    box = picture.getchannel("A").getbbox()
    if box is None:
        return None
    # glyphs fill their bitmaps differently; cut to what is drawn, all have the same longest side
    picture = picture.crop(box)
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    # premultiplied, so that the transparent surroundings do not bleed into the edge
    small = picture.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(small, ((size - width) // 2, (size - height) // 2))
    return np.asarray(canvas, dtype=np.float32) / 255.0
