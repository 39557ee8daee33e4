"""Attached pictures: formats that are not read, sizes that no memory holds, what is no file at all."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hostile.case import Case, Prepare
from hostile.stock import Stock, pixels

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(pwned) (w) file closefile\nshowpage\n"


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    """A picture file's bytes."""
    out = io.BytesIO()
    (image or Image.fromarray(pixels())).save(out, format=kind, **options)
    return out.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG whose header claims what it likes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def stored(data: bytes | Callable[[], bytes], name: str = "a.png") -> Prepare:
    """One file of these bytes."""

    def files(folder: Path, _: Stock) -> None:
        (folder / name).write_bytes(data if isinstance(data, bytes) else data())

    return files


def asked(name: str, data: bytes | Callable[[], bytes] | Prepare, says: str, **more: object) -> Case:
    """A question about a.png."""
    files = data if callable(data) and data.__name__ == "files" else stored(data)  # type: ignore[arg-type]
    more = {"argv": ("do", "what is this?", "-i", "a.png"), **more}
    return Case(name=f"picture:{name}", says=says, files=files, **more)  # type: ignore[arg-type]


def _fifo() -> Prepare:
    def files(folder: Path, _: Stock) -> None:
        os.mkfifo(folder / "a.png")

    return files


def _folder() -> Prepare:
    def files(folder: Path, _: Stock) -> None:
        (folder / "a.png").mkdir()

    return files


def _link(target: str) -> Prepare:
    def files(folder: Path, _: Stock) -> None:
        (folder / "a.png").symlink_to(target)

    return files


def _sparse() -> Prepare:
    def files(folder: Path, _: Stock) -> None:
        with (folder / "a.png").open("wb") as file:
            file.write(encoded("PNG"))
            file.truncate(50 * 2**30)

    return files


def _float(value: float) -> Callable[[], bytes]:
    return lambda: encoded("TIFF", Image.fromarray(np.full((32, 32), value, dtype=np.float32)))


GREY16 = Image.fromarray(np.full((32, 32), 40000, dtype=np.uint16))
UNREADABLE = "a.png.*not a readable picture"
CASES = [
    asked("eps", EPS, UNREADABLE, always=True),
    *(
        asked(kind.lower(), lambda kind=kind: encoded(kind), UNREADABLE, always=kind == "AVIF")
        for kind in ("AVIF", "DDS", "IM", "BLP", "TGA", "PCX", "PPM", "ICO", "ICNS", "SGI", "PDF", "JPEG2000")
        if kind not in ("BLP",)
    ),
    asked("blp", lambda: encoded("BLP", Image.fromarray(pixels()).convert("P")), UNREADABLE),
    asked("strip 30,000,000 x 1", png(30_000_000, 1), r"a.png.*30000000x1 px", always=True),
    asked("strip 1 x 30,000,000", png(1, 30_000_000), r"a.png.*1x30000000 px"),
    asked("bomb 100,000 x 100,000", png(100_000, 100_000), "a.png.*(too large|100000x100000)"),
    asked("bomb 2^31 - 1", png(2**31 - 1, 2**31 - 1), "a.png"),
    asked(
        "bomb that packs well",
        lambda: png(32000, 32000, 8, 0, zlib.compress(bytes(10**7))),
        "a.png.*(large|32000)",
    ),
    asked("no width", png(0, 32), "a.png"),
    asked("no data", png(32, 32), UNREADABLE),
    asked("truncated", lambda: encoded("PNG")[:-900], UNREADABLE, always=True),
    asked("header alone", lambda: encoded("PNG")[:33], UNREADABLE),
    asked("truncated jpeg", lambda: encoded("JPEG")[:-500], UNREADABLE),
    asked("truncated webp", lambda: encoded("WEBP")[:-100], UNREADABLE),
    asked("truncated gif", lambda: encoded("GIF")[:300], UNREADABLE),
    asked("empty", b"", UNREADABLE),
    asked("zeros", bytes(10_000), UNREADABLE),
    asked("html", b"<html><body>404 not found</body></html>", UNREADABLE),
    asked(
        "git lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", UNREADABLE
    ),
    asked("svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', UNREADABLE),
    asked("flipped checksum", lambda: encoded("PNG").replace(b"IDAT", b"IDBT"), UNREADABLE),
    asked(
        "text chunk bomb", lambda: encoded("PNG")[:33] + struct.pack(">I", 2**31 - 1) + b"zTXt", UNREADABLE
    ),
    asked("pipe", _fifo(), "a.png is a pipe", always=True),
    asked("folder", _folder(), "a.png is a folder"),
    asked("link to nowhere", _link("nowhere"), "a.png: no such file"),
    asked("link to itself", _link("a.png"), "a.png"),
    asked("device", _link("/dev/zero"), "a.png is a pipe, a device"),
    asked("link to memory", _link("/proc/self/mem"), "a.png"),
    asked("sparse 50 GB", _sparse(), r"a.png has 53,687,091,200 bytes", always=True),
    asked("not there", lambda: b"", "b.png: no such file", argv=("do", "what is this?", "-i", "b.png")),
    asked("no name", lambda: b"", "(folder|empty|name)", argv=("do", "what is this?", "-i", "")),
    asked("a zero in its name", lambda: b"", "x", argv=("do", "what is this?", "-i", "a\0x.png")),
    asked("a long name", lambda: b"", "too long", argv=("do", "what is this?", "-i", "x" * 5000)),
    asked("float nan", _float(float("nan")), "a.png.*finite"),
    asked("float 1e30", _float(1e30), "a.png.*float picture"),
    asked("float minus infinity", _float(float("-inf")), "a.png.*finite"),
    asked("float in range", _float(0.5), r"\w", status=0, always=True),
    asked("16 bits", lambda: encoded("PNG", GREY16), r"\w", status=0),
    asked("16 bits tiff", lambda: encoded("TIFF", GREY16), r"\w", status=0),
    asked("cmyk", lambda: encoded("JPEG", Image.new("CMYK", (32, 32), 99)), r"\w", status=0),
    asked("one bit", lambda: encoded("PNG", Image.new("1", (32, 32), 1)), r"\w", status=0),
    asked(
        "palette with transparency",
        lambda: encoded("GIF", Image.new("P", (9, 9)), transparency=0),
        r"\w",
        status=0,
    ),
    asked("one pixel", lambda: encoded("PNG", Image.new("RGB", (1, 1))), r"\w", status=0),
    asked("a strip that is read", lambda: encoded("PNG", Image.new("L", (390, 2))), r"\w", status=0),
    asked("a strip too thin to read", lambda: encoded("PNG", Image.new("L", (32_768, 2))), "200 times"),
    asked("31 megapixels", lambda: encoded("PNG", Image.new("L", (6000, 5300))), r"\w", status=0),
    asked("jpeg named png", lambda: encoded("JPEG"), r"\w", status=0),
    asked(
        "exif of noise",
        lambda: encoded("JPEG", None, exif=b"Exif\0\0" + bytes(range(256))),
        r"\w",
        status=0,
    ),
    *(
        asked(
            f"{command} on {name}",
            lambda: encoded("PNG")[:-900],
            UNREADABLE,
            argv=(command, "remove the heart", "-i", "a.png", *more),
        )
        for command, name, more in (("do", "a broken edit", ("-o", "b.png")), ("plan", "a broken edit", ()))
    ),
    *(
        asked(
            f"{count} pictures",
            lambda: encoded("PNG"),
            "pictures are attached",
            argv=("do", "what is this?", *("-i", "a.png") * count),
        )
        for count in (2, 70)
    ),
]
