"""Decoding strangers' clips safely: some frames of one, each with its time; and coding ours. By PyAV (extra
`video`)."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.foreign import regular
from diptych.data.pictures import MAX_PIXELS, MAX_SIDE, PictureError
from diptych.request import FPS, Media

VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv")
"""Endings of names that only clips have."""
MAX_BYTES = 2**32
MAX_SECONDS = 600.0
"""Of the clip."""
MAX_FRAMES = 36_000
"""That are decoded: ten minutes at 60 a second."""
MAX_DECODED = 2**35
"""Pixels that are decoded: ten minutes of 1920x1080 at 24 a second, and a little over."""
PATIENCE = 120.0
"""Seconds that decoding may take."""
KEPT_PIXELS = 2**20
"""Of a frame that is kept; larger ones are shrunk: many frames are looked at, and none of them closely."""


def is_clip(path: Path) -> bool:
    """Whether a file has a clip's name, or is an animation by what it holds."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEOS
    try:
        regular(path, MAX_BYTES)
        with Image.open(path, formats=("GIF",)) as image:
            return bool(getattr(image, "is_animated", False))
    # whoever opens it as a picture will say what is wrong
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return False


def open_clip(path: Path, most: int, fps: float | None = None) -> Media:
    """At most so many frames of a clip (MP4, WebM, Matroska, GIF), spread evenly over its time, or the first
    ones at so many a second; as they are shown: turned as the file says, transparent ones on white, at most
    KEPT_PIXELS each; with their times in seconds from the first.

    Raises PictureError for what is missing, broken, no regular file, of another kind, without pictures, or
    larger or longer than the limits above; and where PyAV is absent.
    """
    try:
        import av
    except ImportError as error:
        raise PictureError(
            f"{path}: clips are read with PyAV, which is not installed: pip install 'diptych[video]'"
        ) from error
    try:
        regular(path, MAX_BYTES)
    except ValueError as error:
        raise PictureError(str(error)) from error
    try:
        # the kind is named and the file is handed over open: a playlist in it could else name other files, or
        # addresses of the net
        with path.open("rb") as file:
            kind = _kind(file.read(12), path)
            file.seek(0)
            with av.open(file, format=kind) as container:
                frames = _frames(container, path)
                found = _sampled(frames, most) if fps is None else _paced(frames, most, fps)
    except PictureError:
        raise
    # FFmpeg's errors are many, among them OSError and ValueError; its decoders raise what damage leads to
    except Exception as error:
        raise PictureError(f"{path}: not a readable clip ({error or type(error).__name__})") from error
    if not found:
        raise PictureError(f"{path}: not a readable clip (no frame of it can be decoded)")
    if len({pixels.shape for _, pixels in found}) > 1:
        raise PictureError(f"{path}: its frames are of several sizes, and one is needed")
    return Media(np.stack([pixels for _, pixels in found]), str(path), times=tuple(at for at, _ in found))


def encoded(frames: np.ndarray, kind: str, fps: float) -> bytes:
    """The file of a clip, uint8 (frames, height, width, 3), as 'mp4' or 'webm'."""
    import av

    codec, options = _CODECS[kind]
    film = io.BytesIO()
    with av.open(film, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width = frames.shape[1:3]
        # players know the smaller one best, in which two px a side share a colour
        stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
        for pixels in frames:
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
    return film.getvalue()


_CODECS = {
    "mp4": ("libx264", {"crf": "12", "preset": "medium"}),
    # without a rate of bits, the quality alone is what is kept to
    "webm": ("libvpx-vp9", {"crf": "12", "b:v": "0"}),
}
"""Kind -> codec, and how finely it codes: clips are short, and small details are what they show."""


def _kind(start: bytes, path: Path) -> str:
    """FFmpeg's name for what a file is, by its first bytes."""
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mov"
    if start.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if start.startswith(b"GIF8"):
        return "gif"
    raise PictureError(f"{path}: not a readable clip (none of MP4, WebM, Matroska, GIF, or damaged)")


def _frames(container: Any, path: Path) -> Iterator[tuple[float, Any]]:
    """Decoded frames with their times."""
    if not container.streams.video:
        raise PictureError(f"{path}: holds sound alone, and pictures are needed")
    stream = container.streams.video[0]
    _check_size(stream.codec_context.width, stream.codec_context.height, path)
    # sizes can change within a stream: the decoder itself refuses larger frames
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    begun, count, decoded = time.monotonic(), 0, 0
    first: float | None = None
    now = 0.0
    for packet in container.demux(stream):
        if time.monotonic() - begun > PATIENCE:
            raise PictureError(f"{path}: takes longer than {PATIENCE:.0f} s to decode: cut it shorter")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise PictureError(f"{path}: not a readable clip (damaged at {now:.1f} s)")
            count, decoded = count + 1, decoded + frame.width * frame.height
            if count > MAX_FRAMES or decoded > MAX_DECODED:
                raise PictureError(
                    f"{path}: has more than {MAX_FRAMES:,} frames, or {MAX_DECODED // 10**9} thousand "
                    "megapixels in all: cut it shorter"
                )
            _check_size(frame.width, frame.height, path)
            # a frame that has no time follows the one before it
            after = 0.0 if first is None else first + now + 1 / FPS
            at = after if frame.time is None else float(frame.time)
            first = at if first is None else first
            # times of a damaged file may go backwards; what is shown does not
            now = max(now, at - first)
            if now > MAX_SECONDS:
                raise PictureError(f"{path}: lasts longer than {MAX_SECONDS:.0f} s: cut it shorter")
            yield now, frame


def _check_size(width: int, height: int, path: Path) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise PictureError(
            f"{path}: frames are {width}x{height} px, and at most {MAX_PIXELS // 10**6} megapixels and "
            f"{MAX_SIDE} px a side are allowed"
        )


def _sampled(frames: Iterator[tuple[float, Any]], most: int) -> list[tuple[float, np.ndarray]]:
    """At most so many frames, evenly in time, the first and the last among them. One pass, as what a header
    says of a clip's length may be wrong: of frames that are nearer to one another than a step that grows,
    only one is kept."""
    kept: list[tuple[float, np.ndarray]] = []
    step, last = 0.0, None
    for at, frame in frames:
        last = (at, frame)
        # of frames at one time too, of which a damaged file may have any number
        if kept and (at <= kept[-1][0] or at - kept[-1][0] < step):
            continue
        kept.append((at, _pixels(frame)))
        if len(kept) > 2 * most:
            step = max(2 * step, at / most)
            kept = _apart(kept, step)
    if last is not None and last[0] > kept[-1][0]:
        kept.append((last[0], _pixels(last[1])))
    if len(kept) <= most:
        return kept
    times = np.array([at for at, _ in kept])
    nearest = [int(np.abs(times - wish).argmin()) for wish in np.linspace(times[0], times[-1], most)]
    return [kept[index] for index in dict.fromkeys(nearest)]


def _paced(frames: Iterator[tuple[float, Any]], most: int, fps: float) -> list[tuple[float, np.ndarray]]:
    """What is on the screen at 0, 1 / fps, 2 / fps ... seconds, at most so many times."""
    kept: list[tuple[float, np.ndarray]] = []
    last: tuple[float, Any] | None = None
    for at, frame in frames:
        if last is not None:
            # one frame may be on the screen for several of ours
            kept += _while(last[1], kept, at, most, fps)
            if len(kept) == most:
                return kept
        last = (at, frame)
    # how long the last one is shown is not known: as long as any
    return kept if last is None else kept + _while(last[1], kept, last[0] + _SAME, most, fps)


_SAME = 1e-3
"""Seconds: times in a file are rounded to less."""


def _while(
    frame: Any, kept: list[tuple[float, np.ndarray]], end: float, most: int, fps: float
) -> list[tuple[float, np.ndarray]]:
    """A frame that is on the screen until `end`, at each of the next times before it."""
    times: list[float] = []
    while len(kept) + len(times) < most and (len(kept) + len(times)) / fps < end - _SAME / 2:
        times.append((len(kept) + len(times)) / fps)
    if not times:
        return []
    pixels = _pixels(frame)
    return [(at, pixels) for at in times]


def _apart(frames: list[tuple[float, np.ndarray]], step: float) -> list[tuple[float, np.ndarray]]:
    """Those that are at least a step behind the one before."""
    kept = frames[:1]
    for frame in frames[1:]:
        if frame[0] - kept[-1][0] >= step:
            kept.append(frame)
    return kept


def _pixels(frame: Any) -> np.ndarray:
    shrink = min(1.0, (KEPT_PIXELS / (frame.width * frame.height)) ** 0.5)
    size = {"width": max(1, round(frame.width * shrink)), "height": max(1, round(frame.height * shrink))}
    if any(component.is_alpha for component in frame.format.components):
        rgba = Image.fromarray(frame.to_ndarray(format="rgba", **size))
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        white.alpha_composite(rgba)
        pixels = np.asarray(white.convert("RGB"))
    else:
        pixels = frame.to_ndarray(format="rgb24", **size)
    # FFmpeg and numpy both turn against the clock
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
