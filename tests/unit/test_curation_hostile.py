"""Hostile inputs of curation: every row one named outcome, and the run ends well."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import curated
import numpy as np
import pytest
from PIL import Image

from diptych.curation.engine import COUNTS, NothingKept

GOOD = curated.encoded(curated.pixels(0))
WORDS = "a picture of something"
Made = Callable[[Path], Path]


def picture(data: bytes, name: str = "it.png", text: str | bytes = WORDS) -> Made:
    """A folder with a good picture and this one."""

    def make(folder: Path) -> Path:
        curated.folder(folder, 1)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if text is not None:
            path.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder

    return make


def listed(*rows: Any) -> Made:
    """A folder with a good picture, and a list of these lines and a good one."""

    def make(folder: Path) -> Path:
        curated.folder(folder, 1)
        (folder / "0000.txt").unlink()
        good = json.dumps({"image": "0000.png", "text": WORDS})
        path = folder / "rows.jsonl"
        path.write_bytes(
            b"".join(
                (
                    row
                    if isinstance(row, bytes)
                    else row.encode()
                    if isinstance(row, str)
                    else json.dumps(row).encode()
                )
                + b"\n"
                for row in (*rows, good)
            )
        )
        return folder

    return make


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> Made:
    """A shard with these members and a good sample."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True)
        with tarfile.open(folder / "a.tar", "w") as made:
            for member in (*members, ("good.png", GOOD), ("good.txt", WORDS.encode())):
                if isinstance(member, tarfile.TarInfo):
                    made.addfile(member)
                    continue
                about = tarfile.TarInfo(member[0])
                about.size = len(member[1])
                made.addfile(about, io.BytesIO(member[1]))
        return folder

    return make


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def whole_tar(data: bytes) -> Made:
    def make(folder: Path) -> Path:
        curated.folder(folder, 1)
        (folder / "a.tar").write_bytes(data)
        return folder

    return make


def also(act: Callable[[Path], Any]) -> Made:
    """A folder with a good picture, and what `act` does to it."""

    def make(folder: Path) -> Path:
        curated.folder(folder, 1)
        act(folder)
        return folder

    return make


def mode(mode: str, kind: str = "PNG", array: Any = None, **how: Any) -> bytes:
    file = io.BytesIO()
    made = Image.fromarray(curated.pixels(3)).convert(mode) if array is None else Image.fromarray(array)
    made.save(file, kind, **how)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """One colour, a few kilobytes, side x side px."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(curated.pixels(seed)) for seed in (5, 6, 7)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return mode("RGB", "JPEG", exif=exif, quality=95)


def gzipped(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w:gz") as made:
        about = tarfile.TarInfo("x.png")
        about.size = len(GOOD)
        made.addfile(about, io.BytesIO(GOOD))


def cut_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name in ("x.png", "y.png"):
            about = tarfile.TarInfo(name)
            about.size = len(GOOD)
            made.addfile(about, io.BytesIO(GOOD))
    return file.getvalue()[: 700 + len(GOOD)]


JPEG = mode("RGB", "JPEG", quality=95)
KEPT = "kept"
CASES: dict[str, tuple[Made, str]] = {
    # name -> (what makes it, part of the reason that some row ends with; KEPT where every row is kept)
    "truncated png": (picture(GOOD[: len(GOOD) // 2]), "not a readable picture"),
    "truncated jpeg": (picture(JPEG[: len(JPEG) // 2], "it.jpg"), "not a readable picture"),
    "truncated header": (picture(GOOD[:20]), "not a readable picture"),
    "a png of noise": (picture(GOOD[:60] + os.urandom(300)), "not a readable picture"),
    "an empty file": (picture(b""), "the file is empty"),
    "one byte": (picture(b"\x89"), "not a readable picture"),
    "text that is called png": (picture(b"this is no picture" * 9), "not a readable picture"),
    "html that is called jpg": (
        picture(b"<html><body>404</body></html>", "it.jpg"),
        "not a readable picture",
    ),
    "a program": (picture(b"\x7fELF" + bytes(500)), "not a readable picture"),
    "postscript": (picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a readable picture"),
    "a svg": (picture(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not a readable picture"),
    "a bomb": (picture(bomb(20_000)), "too large to decode"),
    "a smaller bomb": (picture(bomb(9_000)), "decodes to 9000x9000 px"),
    "a long bomb": (picture(mode("RGB", array=np.zeros((1, 40_000, 3), np.uint8))), "decodes to 40000x1 px"),
    "a jpeg that is called png": (picture(JPEG), KEPT),
    "a png that is called jpg": (picture(curated.encoded(curated.pixels(3)), "it.jpg"), KEPT),
    "capital endings": (picture(JPEG, "IT.JPEG"), KEPT),
    "cmyk": (picture(mode("CMYK", "JPEG", quality=95), "it.jpg"), KEPT),
    "gray": (picture(mode("L")), KEPT),
    "a palette": (picture(mode("P")), KEPT),
    "alpha": (picture(mode("RGBA")), KEPT),
    "gray with alpha": (picture(mode("LA")), KEPT),
    "two colours": (picture(mode("1")), KEPT),
    "16 bits": (picture(mode("", array=curated.pixels(4)[..., 0].astype(np.uint16) * 256)), KEPT),
    "floats": (
        picture(mode("F", "TIFF", curated.pixels(4)[..., 0].astype(np.float32) / 255), "it.tif"),
        KEPT,
    ),
    "floats that are none": (
        picture(mode("F", "TIFF", np.full((80, 80), np.nan, np.float32)), "it.tif"),
        "no finite numbers",
    ),
    "animated": (picture(animation(), "it.gif"), KEPT),
    "half an animation": (picture(animation()[:-300], "it.gif"), KEPT),
    "turned by exif": (picture(turned(), "it.jpg"), KEPT),
    "webp": (picture(mode("RGB", "WEBP", lossless=True), "it.webp"), KEPT),
    "bmp": (picture(mode("RGB", "BMP"), "it.bmp"), KEPT),
    "one colour": (picture(mode("RGB", array=np.full((80, 80, 3), 9, np.uint8))), "one colour"),
    "one pixel": (picture(mode("RGB", array=np.zeros((1, 1, 3), np.uint8))), "too small"),
    "a strip": (picture(mode("RGB", array=np.resize(curated.pixels(4), (64, 900, 3)))), "too long"),
    "a name of umlauts": (picture(curated.encoded(curated.pixels(3)), "Äpfel & Birnen.png"), KEPT),
    "a name of signs": (picture(curated.encoded(curated.pixels(3)), "🐈‍⬛ 猫.png"), KEPT),
    "a name with a line break": (picture(curated.encoded(curated.pixels(3)), "a\nb.png"), KEPT),
    "a name that is no utf-8": (
        also(lambda f: Path(os.fsdecode(os.fsencode(f) + b"/\xff.png")).write_bytes(GOOD)),
        "its name is not UTF-8",
    ),
    "a caption that is no utf-8": (picture(GOOD, text=b"caf\xe9 \xff"), "not UTF-8 text"),
    "a caption of 10 MB": (picture(GOOD, text="word " * 2_000_000), "a caption of 9,999,999 characters"),
    "a caption of 20 MB": (picture(GOOD, text="word " * 4_000_000), "its text file cannot be read"),
    "a caption of zeros": (picture(curated.encoded(curated.pixels(3)), text=b"a\0b two words"), KEPT),
    "a caption of blanks": (picture(curated.encoded(curated.pixels(3)), text=" \n\t "), "no caption"),
    "a caption that turns the line": (
        picture(curated.encoded(curated.pixels(3)), text="abc \u202e def"),
        KEPT,
    ),
    "a caption of one word, often": (
        picture(curated.encoded(curated.pixels(3)), text="cat " * 99),
        "repetition",
    ),
    "a caption that sells": (
        picture(curated.encoded(curated.pixels(3)), text="Buy now! Free shipping"),
        "boilerplate",
    ),
    "a caption with an address": (
        picture(curated.encoded(curated.pixels(3)), text="see https://example.org/x for more"),
        "an address in the caption",
    ),
    "a caption alone": (also(lambda f: (f / "lonely.txt").write_text("x")), "a caption without a picture"),
    "a link that leads out": (
        also(lambda f: (f / "l.png").symlink_to("/etc/passwd")),
        "a link that leads nowhere",
    ),
    "a link in a circle": (
        also(lambda f: (f / "l.png").symlink_to(f / "l.png")),
        "a link that leads nowhere",
    ),
    "a pipe": (also(lambda f: os.mkfifo(f / "p.png")), "a pipe, a device or a socket"),
    "a folder called png": (also(lambda f: (f / "d.png").mkdir()), KEPT),
    "a million lines' like": (
        listed(*[{"image": "0000.png", "text": WORDS}] * 3000),
        "the same bytes as another",
    ),
    "a line that is no json": (listed("{"), "not JSON"),
    "a line of brackets": (listed("[" * 5000), "nested too deeply"),
    "a line that is a number": (listed("7"), "no picture"),
    "a line of broken utf-8": (listed(b'{"image": "\xff.png"}'), "not JSON"),
    "a line of 17 MB": (listed(b'{"text": "' + b"x" * 17_000_000 + b'"}'), "a line of 17,0"),
    "a line with a lone surrogate": (listed('{"image": "\\ud800.png", "text": "x"}'), "not JSON"),
    "a file that is not there": (listed({"image": "nothing.png", "text": "x"}), "is not in"),
    "a file outside": (listed({"image": "../../../etc/passwd", "text": "x"}), "lies outside"),
    "an absolute file": (listed({"image": "/etc/passwd", "text": "x"}), "lies outside"),
    "a file of a zero": (listed({"image": "a\0b.png", "text": "x"}), "no name of a file"),
    "a file of 5,000 letters": (listed({"image": "x" * 5000, "text": "x"}), "no name of a file"),
    "captions that are no texts": (
        listed({"image": "0000.png", "captions": [1, None]}),
        "which are no texts",
    ),
    "scores that are no numbers": (
        listed({"image": "0000.png", "captions": ["a b", "c d"], "scores": ["NaN", None]}),
        "the same bytes as another",
    ),
    "scores without end": (
        listed({"image": "0000.png", "captions": ["a b"], "scores": [1e308]}),
        "the same bytes as another",
    ),
    "a member that leads out": (tar(("../../out.png", GOOD)), "its name leads out of the shard"),
    "an absolute member": (tar(("/etc/x.png", GOOD)), "its name leads out of the shard"),
    "a member that is a link": (
        tar(special("l.png", tarfile.SYMTYPE, "/etc/passwd")),
        "links are not followed",
    ),
    "a member that is a hard link": (
        tar(special("l.png", tarfile.LNKTYPE, "good.png")),
        "links are not followed",
    ),
    "a member twice": (tar(("good.png", b"first")), "a second member of this name"),
    "a member that is a device": (tar(special("l.png", tarfile.CHRTYPE)), KEPT),
    "a member without words": (tar(("x.png", curated.encoded(curated.pixels(3)))), "no caption"),
    "words without a picture": (tar(("x.txt", b"x")), "a caption without a picture"),
    "json that is none": (
        tar(("x.png", curated.encoded(curated.pixels(3))), ("x.json", b"{")),
        "its .json cannot be read",
    ),
    "a cut shard": (whole_tar(cut_tar()), "no valid header"),
    "a shard of noise": (whole_tar(b"\1" * 5000), "not a whole tar file"),
    "an empty shard": (whole_tar(b""), "not a whole tar file"),
    "a packed shard": (also(gzipped), "packed with gzip"),
    "a csv of an open quote": (
        also(lambda f: (f / "metadata.csv").write_text('file_name,text\n0000.png,"' + "x" * 200_000)),
        "not CSV",
    ),
}


def test_there_are_enough_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_every_row_ends_in_one_named_outcome_and_the_run_ends_well(name, tmp_path):
    make, wanted = CASES[name]
    source = make(tmp_path / "source")
    with suppress(NothingKept):
        curated.run(source, tmp_path / "out")
    rows = curated.outcomes(tmp_path / "out")
    told = json.loads((tmp_path / "out" / COUNTS).read_text())
    assert told["rows"] == len(rows) == told["kept"] + told["dropped"] + told["failed"]
    for row in rows:
        assert row["outcome"] in ("kept", "dropped", "failed")
        assert bool(row["reason"]) == (row["outcome"] != "kept")
    reasons = {row["reason"] for row in rows if row["reason"]}
    if wanted == KEPT:
        assert not reasons
    else:
        assert any(wanted in reason for reason in reasons), reasons
    # what is good beside it is kept, once
    assert told["kept"] >= 1


def test_a_thousand_damages_at_random_all_have_an_outcome(tmp_path):
    """Bytes flipped anywhere in a picture: it is read or it is named, and nothing else happens."""
    rng = np.random.default_rng(3)
    source = tmp_path / "source"
    source.mkdir()
    kinds = [(GOOD, "png"), (JPEG, "jpg"), (animation(), "gif"), (mode("RGB", "WEBP"), "webp")]
    for number in range(300):
        data, ending = kinds[number % len(kinds)]
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 20)):
            damaged[at] = rng.integers(0, 256)
        (source / f"{number:04d}.{ending}").write_bytes(bytes(damaged))
        (source / f"{number:04d}.txt").write_text(WORDS)
    curated.run(source, tmp_path / "out")
    rows = curated.outcomes(tmp_path / "out")
    assert len(rows) == 300
    assert all(bool(row["reason"]) == (row["outcome"] != "kept") for row in rows)
