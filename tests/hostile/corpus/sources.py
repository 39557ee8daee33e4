"""Folders of pictures with captions, their index and their cache."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from hostile.case import Case
from hostile.corpus.pictures import EPS, encoded, png
from hostile.stock import DRAWN, Stock, pixels

INDEX = "diptych-index.parquet"
MADE = (f"d/{INDEX}",)


def _folder(**files: bytes | str) -> Callable[[Path, Stock], None]:
    """One good picture, and files by name ('__' for a dot)."""

    def make(folder: Path, _: Stock) -> None:
        data = folder / "d"
        data.mkdir()
        Image.fromarray(pixels()).save(data / "good.png")
        (data / "good.txt").write_text("a good picture")
        for name, content in files.items():
            path = data / name.replace("__", ".")
            path.write_bytes(
                content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
            )

    return make


def _also(change: Callable[[Path], None]) -> Callable[[Path, Stock], None]:
    def make(folder: Path, stock: Stock) -> None:
        _folder()(folder, stock)
        change(folder / "d")

    return make


def _tar(*members: tuple[str, bytes], **special: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind in special.items():
            member = tarfile.TarInfo(f"{name}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    return out.getvalue()


def _listed(*rows: object) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


ITEMS: dict[str, Callable[[Path, Stock], None]] = {
    "eps": _folder(bad__png=EPS, bad__txt="x"),
    "avif": _folder(bad__png=encoded("AVIF"), bad__txt="x"),
    "strip": _folder(bad__png=png(30_000_000, 1), bad__txt="x"),
    "truncated": _folder(bad__png=encoded("PNG")[:-900], bad__txt="x"),
    "empty picture": _folder(bad__png=b"", bad__txt="x"),
    "no caption": _folder(bad__png=encoded("BMP")),
    "no picture": _folder(bad__txt="x"),
    "caption of no UTF-8": _folder(bad__png=encoded("BMP"), bad__txt=b"\xff\xfe\x00"),
    "caption of 200,000 characters": _folder(bad__png=encoded("BMP"), bad__txt="x" * 200_000),
    "scores of null": _folder(bad__jsonl=_listed({"file_name": "nothing.png", "text": "x", "scores": None})),
    "captions 5": _folder(bad__jsonl=_listed({"file_name": "good.png", "captions": 5})),
    "captions of null": _folder(bad__jsonl=_listed({"file_name": "good.png", "captions": [1, None]})),
    "file of a list": _folder(bad__jsonl=_listed({"file_name": ["good.png"], "text": "x"})),
    "file with a zero": _folder(bad__jsonl=_listed({"file_name": "a\0b.png", "text": "x"})),
    "file of 5,000 characters": _folder(bad__jsonl=_listed({"file_name": "x" * 5000, "text": "x"})),
    "file outside": _folder(bad__jsonl=_listed({"file_name": "../../outside/secret.txt", "text": "x"})),
    "lines of noise": _folder(bad__jsonl=_listed("{", "5", "null", "[]", "[" * 100_000)),
    "a lone surrogate": _folder(bad__jsonl='{"file_name": "good.png", "text": "\\ud800"}'),
    "csv without an end": _folder(metadata__csv='file_name,text\ngood.png,"' + "x" * 200_000),
    "csv of noise": _folder(metadata__csv=bytes(range(256)) * 50),
    "csv of no UTF-8": _folder(metadata__csv=b"file_name,text\ngood.png,\xff\n"),
    "tar cut off": _folder(bad__tar=_tar(("a.png", encoded("PNG")))[:700]),
    "tar of noise": _folder(bad__tar=bytes(range(1, 256)) * 8),
    "tar that is packed": _folder(bad__tar=b"\x1f\x8b\x08" + bytes(500)),
    "tar that is zstd": _folder(bad__tar=b"\x28\xb5\x2f\xfd" + bytes(500)),
    "tar with ../": _folder(bad__tar=_tar(("../../a.png", encoded("PNG")), ("../../a.txt", b"x"))),
    "tar at the root": _folder(bad__tar=_tar(("/etc/a.png", encoded("PNG")), ("/etc/a.txt", b"x"))),
    "tar with links": _folder(bad__tar=_tar(soft=tarfile.SYMTYPE, hard=tarfile.LNKTYPE)),
    "tar with devices": _folder(bad__tar=_tar(("a.txt", b"x"), pipe=tarfile.FIFOTYPE, node=tarfile.CHRTYPE)),
    "tar with json of noise": _folder(bad__tar=_tar(("a.png", encoded("PNG")), ("a.json", b"[" * 50_000))),
    "sidecar [1]": _folder(
        bad__tar=_tar(("a.png", encoded("PNG")), ("a.txt", b"x")), bad_clip_score__json="[1]"
    ),
    "name of no UTF-8": _also(lambda d: (d / os.fsdecode(b"\xff\xfe.png")).write_bytes(encoded("PNG"))),
    "name of escapes": _also(lambda d: (d / "\x1b[31m.png").write_bytes(b"")),
    "pipe": _also(lambda d: os.mkfifo(d / "pipe.png")),
    "link outside": _also(lambda d: (d / "link.png").symlink_to("../../outside/secret.txt")),
    "link to itself": _also(lambda d: (d / "link.png").symlink_to("link.png")),
    "captions that link outside": _also(
        lambda d: ((d / "b.png").write_bytes(encoded("BMP")), (d / "b.txt").symlink_to("/etc/passwd"))
    ),
    "sparse 50 GB": _also(lambda d: os.truncate(_touched(d / "b.png"), 50 * 2**30)),
    "sparse caption of 3 GB": _also(
        lambda d: (os.truncate(_touched(d / "b.txt"), 3 * 2**30), (d / "b.png").write_bytes(encoded("BMP")))
    ),
}


def _touched(path: Path) -> Path:
    path.touch()
    return path


def _nested(folder: Path) -> None:
    for _ in range(200):
        folder = folder / "deeper"
    folder.mkdir(parents=True)


def _bare(kind: str) -> Callable[[Path, Stock], None]:
    def make(folder: Path, _: Stock) -> None:
        if kind == "file":
            (folder / "d").write_text("mine")
        elif kind:
            (folder / "d").mkdir()
        if kind == "other":
            (folder / "d" / "notes.doc").write_text("mine")
        if kind == "nested":
            _nested(folder / "d")

    return make


def _indexed(change: Callable[[Path], None]) -> Callable[[Path, Stock], None]:
    def make(folder: Path, stock: Stock) -> None:
        change(stock.put("pictures", folder / "d"))

    return make


def _rewritten(**columns: object) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = data / INDEX
        table = pq.read_table(path)
        for name, value in columns.items():
            field = table.schema.field(name)
            at = table.schema.get_field_index(name)
            table = table.set_column(at, field, pa.array([value] * len(table), field.type))
        pq.write_table(table, path)

    return change


def _damaged(path: str, how: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        # a cache's shards are named by what they hold
        (found,) = sorted(data.glob(path))[:1]
        found.write_bytes(how(found.read_bytes()))

    return change


INDICES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (_damaged(INDEX, lambda data: data[:300]), "is no whole index"),
    "flipped": (_damaged(INDEX, lambda data: data[:40] + b"\xff" * 400 + data[440:]), INDEX),
    "empty": (_damaged(INDEX, lambda data: b""), "is no whole index"),
    "text": (_damaged(INDEX, lambda data: b"{}"), "is no whole index"),
    "gone": (lambda d: (d / INDEX).unlink(), "there is no index"),
    "file outside": (_rewritten(file="../../outside/secret.txt"), "lies outside"),
    "file at the root": (_rewritten(file="/etc/passwd"), "lies outside"),
    "file of a zero": (_rewritten(file="a\0b"), "no name of a file|changed or went"),
    "no width": (_rewritten(width=0), "size of 0x32"),
    "a height beyond all": (_rewritten(height=2**31 - 1), "size of 32x2147483647"),
    "a size below 0": (_rewritten(size=-1), "-1 bytes"),
    "an offset below 0": (_rewritten(offset=-1), "byte -1"),
    "no checksum": (_rewritten(sha256=""), "no checksum"),
    "no captions": (_rewritten(captions=[]), "no caption"),
    "scores beyond all": (_rewritten(captions=["x"], scores=[float("inf")]), "scores"),
    "pictures that changed": (lambda d: (d / "1.png").write_bytes(b"other"), "changed or went"),
    "a pipe": (lambda d: ((d / INDEX).unlink(), os.mkfifo(d / INDEX)), "no index|pipe"),
}
DRAWN_RUN = ("train", "sana-small", "-o", "run", "--pictures", "d", "--space", "space", *DRAWN)


def _cached(change: Callable[[Path], None]) -> Callable[[Path, Stock], None]:
    def make(folder: Path, stock: Stock) -> None:
        stock.put("pictures", folder / "d")
        stock.put("space", folder / "space")
        change(stock.put("cache", folder / "cache"))

    return make


SHARD = "latents-*.safetensors"
CACHES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a manifest of noise": (_damaged("cache.json", lambda data: b"{"), "cache.json"),
    "a manifest of nothing": (_damaged("cache.json", lambda data: b"{}"), "cache.json"),
    "a manifest that names /etc": (
        _damaged("cache.json", lambda data: data.replace(b"latents-", b"/etc/latents-")),
        "no plain file name",
    ),
    "no manifest": (lambda d: (d / "cache.json").unlink(), "no finished cache"),
    "a shard cut off": (_damaged(SHARD, lambda data: data[:100]), "latents-.* has 100 of"),
    "a flipped byte": (_damaged(SHARD, lambda data: data[:-1] + bytes([data[-1] ^ 1])), "latents-"),
    "another space": (
        _damaged("cache.json", lambda data: data.replace(b'"space": "', b'"space": "x')),
        "space",
    ),
}


def _cache_command(*more: str) -> tuple[str, ...]:
    usual = {"--space": "space", "--resolutions": "32", "--multiple": "16", "--batch": "4", "-o": "c"}
    given = dict(zip(more[::2], more[1::2], strict=True))
    return ("data", "cache", "d", *(word for pair in {**usual, **given}.items() for word in pair))


CACHED = {
    ("--part", "5", "--parts", "2"): "part",
    ("--part", "-1"): "part",
    ("--parts", "0"): "part",
    ("--batch", "0"): "batch",
    ("--multiple", "0"): "multiple",
    ("--resolutions", "1600000000"): "resolution",
    ("--resolutions", "-1"): "resolution",
    ("--validation", "nan"): "validation",
    ("--control", "maps"): "control",
    ("--space", "d"): "d",
    ("--space", "nowhere"): "nowhere",
}


def _both(folder: Path, stock: Stock) -> None:
    stock.put("pictures", folder / "d")
    stock.put("space", folder / "space")


ALWAYS = {"eps", "file outside", "name of no UTF-8", "tar with ../", "a flipped byte"}
CASES = [
    *(
        Case(
            name=f"sources:{name}",
            argv=("data", "index", "d"),
            says=r"diptych-index.parquet: 1 pictures, [1-9]\d* problems",
            files=files,
            status=0,
            makes=MADE,
            always=name in ALWAYS,
        )
        for name, files in ITEMS.items()
    ),
    *(
        Case(name=f"sources:{name}", argv=("data", "index", "d", *more), says=says, files=files)
        for name, files, more, says in (
            ("nothing", _bare(""), (), "d is no folder"),
            ("a file", _bare("file"), (), "d is no folder"),
            ("an empty folder", _bare("empty"), (), "d holds no pictures"),
            ("other things", _bare("other"), (), "d holds no pictures"),
            ("folders in folders", _bare("nested"), (), "d holds no pictures"),
            ("over a picture", _folder(), ("-o", "d/good.png"), "good.png is there already"),
            ("over a folder", _bare("empty"), ("-o", "d"), "d"),
            ("elsewhere", _folder(), ("-o", "e/index"), "lies in the folder"),
        )
    ),
    *(
        Case(
            name=f"sources:index, {name}, {command[1]}",
            argv=command,
            says=says,
            files=_indexed(change),
            always=name == "file outside" and command[1] == "inspect",
        )
        for name, (change, says) in INDICES.items()
        for command in (
            ("data", "inspect", "d", "-o", "seen"),
            ("data", "cache", "d", "-o", "c", "--space", "d"),
        )
        if command[1] == "inspect"
    ),
    *(
        Case(
            name=f"sources:cache, {name}",
            argv=(*DRAWN_RUN, "--cache", "cache"),
            says=says,
            files=_cached(change),
            # its bytes are looked at when they are first read
            may_make=("run", "run/*") if name == "a flipped byte" else (),
            always=name in ALWAYS,
        )
        for name, (change, says) in CACHES.items()
    ),
    *(
        Case(name=f"sources:cache {' '.join(o)}", argv=_cache_command(*o), says=says, files=_both)
        for o, says in CACHED.items()
    ),
    *(
        Case(name=f"sources:inspect {' '.join(o)}", argv=("data", "inspect", "d", *o), says=says, files=_both)
        for o, says in {
            ("--resolutions", "1600000000"): "resolution",
            ("--resolutions", "0"): "resolution",
            ("--multiple", "0"): "multiple",
            ("--multiple", "-32"): "multiple",
            ("-o", "d"): "d holds other files",
        }.items()
    ),
]
