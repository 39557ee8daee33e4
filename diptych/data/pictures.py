"""Decoding strangers' picture files safely, and writing ours whole."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.files.whole import whole

MAX_PIXELS = 32_000_000
"""Largest picture that is decoded; a small file can claim a huge one."""
FPS = 8.0
"""Frames a second of a clip that says nothing of them."""


class PictureError(ValueError):
    """A file that is no usable picture; the message says which and why."""


def open_picture(source: str | Path | bytes, name: str | None = None) -> np.ndarray:
    """A picture file as uint8 RGB (height, width, 3).

    Transparent pictures are put on white, 16-bit and CMYK ones are converted, of an animation the first frame
    is used. Raises PictureError for a missing or broken file, one that is no picture, and one that would
    decode to over MAX_PIXELS.
    """
    label = name or (str(source) if not isinstance(source, bytes) else "picture")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; ours is the stricter limit, and an error
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        # the header alone has been read so far
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise PictureError(
                f"{label}: decodes to {width}x{height} px, more than the {MAX_PIXELS // 10**6} "
                "megapixels allowed"
            )
        if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
            values = np.asarray(image, dtype=np.float64)
            # Pillow clips 16-bit gray to white when converting; the range is scaled instead
            top = 65535.0 if values.max(initial=0) > 255 else 255.0
            image = Image.fromarray((values / top * 255.0).clip(0, 255).astype(np.uint8))
        # a palette's transparency is no band: both have to be looked for
        if "A" in image.getbands() or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            image.alpha_composite(rgba)
        return np.asarray(image.convert("RGB"))
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"{label}: no such file") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{label}: too large to decode ({error})") from error
    # what Pillow's decoders raise on damaged files, SyntaxError among them
    except (OSError, ValueError, SyntaxError) as error:
        raise PictureError(f"{label}: not a readable picture ({error})") from error


def save_picture(frames: np.ndarray, path: Path, fps: float | None = None) -> None:
    """Write a picture, uint8 (height, width, 3), or a clip (frames, height, width, 3), whole or not at all;
    the ending of the name says how. Raises ValueError for an ending that is no picture format, or none that
    holds a clip."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    pictures = [Image.fromarray(pixels) for pixels in (frames if frames.ndim == 4 else frames[None])]
    known = Image.SAVE if len(pictures) == 1 else Image.SAVE_ALL
    if kind not in known:
        what, endings = ("picture", ".png, .jpg, .webp") if len(pictures) == 1 else ("clip", ".webp, .gif")
        raise ValueError(f"{path}: a {what} is written as {endings} ..., not as {path.suffix or 'this'!r}")
    clip: dict[str, Any] = {}
    if len(pictures) > 1:
        clip = {"save_all": True, "append_images": pictures[1:], "duration": 1000 / (fps or FPS), "loop": 0}
    with whole(path) as aside:
        pictures[0].save(aside, format=kind, **clip)


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bicubic, uint8 (height, width, 3)."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def edges(pixels: np.ndarray) -> np.ndarray:
    """Edges of a picture as a picture: white where brightness changes (Sobel, scaled to the strongest), black
    elsewhere."""
    grey = pixels.astype(np.float32).mean(2)
    # repeated and not zero: a black rim would be the strongest edge of all
    padded = np.pad(grey, 1, mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    horizontal = across[:-2] + 2 * across[1:-1] + across[2:]
    vertical = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    strength = np.hypot(horizontal, vertical)
    scaled = strength / max(float(strength.max()), 1e-6) * 255
    return np.repeat(scaled[..., None], 3, axis=2).round().astype(np.uint8)


CONTROLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"edges": edges}
"""What can be computed from a picture (uint8, height, width, 3) to draw along, by name."""
