"""Decoding strangers' picture files safely, and writing ours whole."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from diptych.data.foreign import regular
from diptych.files.whole import whole
from diptych.request import FPS

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
"""Formats that are read. Pillow knows some forty, among them ones that start other programs (EPS)."""
FILMS = {".mp4": "mp4", ".webm": "webm"}
"""Endings of clips that are written with PyAV (extra `video`), and FFmpeg's names of what they are."""
WRITTEN_CLIPS = {**FILMS, ".webp": "WEBP", ".gif": "GIF", ".png": "PNG"}
WRITTEN = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""Endings of what is written, and Pillow's names of the formats: what is drawn can be attached again."""
MAX_PIXELS = 32_000_000
"""Largest picture that is decoded; a small file can claim a huge one."""
MAX_SIDE = 32_768
"""Longest side, px: a strip of 30,000,000 x 1 has few pixels, and what it is resized to has many."""
MAX_BYTES = 2**28
"""Largest file: 16 bits of four channels of the largest picture, uncompressed."""
AT_ONCE = 48_000_000
"""Pixels that threads decode at one time: at up to 20 bytes each with all copies, about 1 GB."""


class PictureError(ValueError):
    """A file that is no usable picture; the message says which and why."""


class Room:
    """A share of memory that threads take and give back; who finds too little left waits."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Hold `amount`, at most all there is, for the length of the block."""
        amount = min(amount, self.size)
        with self._changed:
            self._changed.wait_for(lambda: amount <= self.left)
            self.left -= amount
        try:
            yield
        finally:
            with self._changed:
                self.left += amount
                self._changed.notify_all()


_decoding = Room(AT_ONCE)


def open_picture(source: str | Path | bytes, name: str | None = None) -> np.ndarray:
    """A picture file as uint8 RGB (height, width, 3), turned as its EXIF data says.

    Transparent pictures are put on white; CMYK, 16-bit, 32-bit and float ones are converted; of an animation
    the first frame is used. Raises PictureError for what is missing, broken, no regular file, of another
    format than FORMATS, and larger than MAX_BYTES, MAX_SIDE or MAX_PIXELS; all of this before any pixel is
    decoded.
    """
    label = name or (str(source) if not isinstance(source, bytes) else "picture")
    if not isinstance(source, bytes):
        try:
            regular(Path(source), MAX_BYTES)
        except ValueError as error:
            raise PictureError(str(error)) from error
    try:
        with warnings.catch_warnings():
            # of large pictures, where ours is the stricter limit and an error, and of odd metadata
            warnings.simplefilter("ignore")
            return _decoded(io.BytesIO(source) if isinstance(source, bytes) else source, label)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"{label}: too large to decode ({error})") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise PictureError(f"{label}: not a readable picture (none of {known}, or damaged)") from error
    # decoders raise whatever their damaged data leads to: OSError, SyntaxError, struct.error, TypeError,
    # MemoryError, KeyError ...
    except Exception as error:
        raise PictureError(f"{label}: not a readable picture ({error or type(error).__name__})") from error


class Header(NamedTuple):
    """What a picture file says of itself."""

    format: str
    mode: str
    """Pillow's: RGB, L, P, CMYK, I;16 ..."""
    alpha: bool
    turned: bool
    """Stored otherwise than it is shown, by its EXIF data."""
    animated: bool
    luminance: float
    """Sum of a JPEG's table of quantisation of brightness; 0 for others."""


def header(data: bytes) -> Header:
    """Of a picture that `open_picture` has read: nothing is decoded here, and nothing is checked again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            tables = getattr(image, "quantization", None) or {}
            try:
                animated = bool(getattr(image, "is_animated", False))
            # a first frame may be whole, and what follows it damaged
            except Exception:
                animated = False
            return Header(
                image.format or "",
                image.mode,
                "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info,
                _turn(image) is not None,
                animated,
                float(sum(tables[min(tables)])) if tables else 0.0,
            )


def _decoded(source: io.BytesIO | str | Path, label: str) -> np.ndarray:
    with Image.open(source, formats=FORMATS) as image:
        # the header alone has been read so far
        width, height = image.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            raise PictureError(
                f"{label}: decodes to {width}x{height} px, and at most {MAX_PIXELS // 10**6} megapixels and "
                f"{MAX_SIDE} px a side are allowed"
            )
        with _decoding.taken(width * height):
            return _pixels(image, label)


def _pixels(image: Image.Image, label: str) -> np.ndarray:
    # loaded before it is asked for its turn: of a TIFF, Pillow itself turns the pixels, and forgets it
    image.load()
    turn = _turn(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        image = Image.fromarray(_eight_bit(image, label))
    # a palette's transparency is no band: both have to be looked for
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image.alpha_composite(rgba)
    image = image.convert("RGB")
    return np.asarray(image if turn is None else image.transpose(turn))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    # a whole picture may carry damaged metadata; then it stands as it is stored
    except Exception:
        return None


_TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> how the stored pixels are turned to be shown."""


def _eight_bit(image: Image.Image, label: str) -> np.ndarray:
    """Gray of more than 8 bits as uint8: scaled, where Pillow would clip it to white."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise PictureError(f"{label}: holds values that are no finite numbers")
        # 0 to 1, a little over for the ringing of a resize; what is far over holds 8 or 16 bits as floats
        tops = [top for top in (1.0, 255.0, 65535.0) if values.max(initial=0) < 2 * top]
        if not tops:
            raise PictureError(f"{label}: a float picture holds 0 to 1, and here {values.max():g}")
        top = tops[0]
    elif image.mode == "I":
        if tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
            # Pillow shows unsigned 32 bits as signed ones
            values = values.view(np.uint32)
        # wide cells often hold narrow values: Pillow's own pictures of whole numbers are such
        tops = [top for top in (255.0, 65535.0, 2.0**31 - 1) if values.max(initial=0) <= top]
        top = tops[0] if tops else 2.0**32 - 1
    else:
        # Pillow gives 12 bits of a TIFF in 16 as well
        top = 2.0 ** tags.get(_BITS, (16,))[0] - 1
    shares = (values.astype(np.float32) / np.float32(top)).clip(0, 1)
    if tags.get(_PHOTOMETRIC) == 0:
        # in such a TIFF the smallest value is white
        shares = 1 - shares
    return (shares * 255).astype(np.uint8)


_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339


def names(path: Path, count: int) -> list[Path]:
    """Where so many pictures are written: `path`, or path-0, path-1 ... for several."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(count)]


def save_picture(frames: np.ndarray, path: Path, fps: float | None = None) -> None:
    """Write a picture, uint8 (height, width, 3), or a clip (frames, height, width, 3), whole or not at all;
    the ending of the name says how. Raises ValueError as `format_of`."""
    kind = format_of(path, len(frames) if frames.ndim == 4 else 1)
    if kind in FILMS.values():
        from diptych.data.clips import encoded

        # made in memory: what FFmpeg cannot write for want of space it may pass over
        film = encoded(frames, kind, fps or FPS)
        with whole(path) as aside:
            aside.write_bytes(film)
        return
    pictures = [Image.fromarray(pixels) for pixels in (frames if frames.ndim == 4 else frames[None])]
    clip: dict[str, Any] = {}
    if len(pictures) > 1:
        clip = {"save_all": True, "append_images": pictures[1:], "duration": 1000 / (fps or FPS), "loop": 0}
    with whole(path) as aside:
        pictures[0].save(aside, format=kind, **clip)


def format_of(path: Path, frames: int = 1) -> str:
    """The format that a picture's or clip's name asks for, as the one who writes it calls it. Raises
    ValueError for an ending that is no picture format, or none that holds a clip, and where PyAV is needed
    and absent."""
    what, known = ("picture", WRITTEN) if frames == 1 else ("clip", WRITTEN_CLIPS)
    kind = known.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path}: a {what} is written as {', '.join(known)}, not as {path.suffix or 'this'!r}"
        )
    if kind in FILMS.values() and find_spec("av") is None:
        raise ValueError(
            f"{path}: clips are written so with PyAV, which is not installed: pip install "
            "'diptych[video]', or name a .gif"
        )
    return kind


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
