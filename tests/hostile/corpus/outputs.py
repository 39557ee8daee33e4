"""Where answers and results go: folders, files of others, full disks, pipes that nobody reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.case import Case
from hostile.corpus.models import values
from hostile.corpus.pictures import encoded
from hostile.stock import JOINT, LINE, Stock

QUICK = ("--steps", "1", "--seed", "1")


def _everything(folder: Path, stock: Stock) -> None:
    stock.put("joint", folder / "joint")
    stock.put("joint_run", folder / "run")
    (folder / "lines.jsonl").write_text(json.dumps(LINE) + "\n")
    (folder / "prompts.txt").write_text("a cat\n")


def _there(name: str, content: bytes | None = b"mine") -> Callable[[Path, Stock], None]:
    def make(folder: Path, stock: Stock) -> None:
        _everything(folder, stock)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)

    return make


def _link(name: str, target: str) -> Callable[[Path, Stock], None]:
    def make(folder: Path, stock: Stock) -> None:
        _everything(folder, stock)
        (folder / name).symlink_to(target)

    return make


FOLDERS: dict[str, tuple[str, ...]] = {
    "export": ("export", "run", "-o", "there"),
    "grow": ("grow", "joint", "--depth", "4", "-o", "there"),
    "prune": (
        "prune",
        "default",
        "--depth",
        "5",
        "--calibrate",
        "prompts.txt",
        "--prompts",
        "1",
        "-o",
        "there",
    ),
    "evaluate": ("evaluate", "joint", "--prompts", "1", "--split", "questions", "-o", "there"),
    "demo": ("demo", "--model", "joint", "-o", "there"),
    "drawn": ("data", "drawn", "there", "--model", "joint", "--count", "1"),
    "emoji": ("data", "emoji", "there", "--only", "carrot"),
}
PLACES: dict[str, Callable[[Path, Stock], None]] = {
    "other files": _there("there/notes.txt"),
    "a model": _there("there/config.json"),
    "a run": _there("there/checkpoints/x"),
    "a file": _there("there"),
    "a link to nowhere": _link("there", "../outside/new"),
    "what nobody may write": _link("there", "/proc/1"),
}
ALWAYS = {("export", "a run"), ("evaluate", "a file")}
DRAWINGS: dict[str, tuple[str, Callable[[Path, Stock], None], str]] = {
    "a folder": ("there", _there("there", None), "there is a folder"),
    "a folder named .png": ("there.png", _there("there.png", None), "there.png is a folder"),
    "below a file": ("there/a.png", _there("there"), "there is a file, not a folder"),
    "no ending": ("there", _everything, "is written as"),
    "another ending": ("a.exe", _everything, "is written as"),
    "an ending that is not read": ("a.eps", _everything, "is written as .png, .jpg"),
    "a long name": ("x" * 300 + ".png", _everything, "too long"),
    "a long way": ("/".join(["x" * 200] * 30) + "/a.png", _everything, "too long"),
    "a zero": ("a\0.png", _everything, "."),
    "what nobody may write": ("/proc/a.png", _everything, "cannot be written"),
    "a device": ("/dev/null", _everything, "no ordinary file"),
    "nothing": ("", _everything, "."),
    "a circle of links": ("a.png", _link("a.png", "a.png"), "a.png"),
}


def _case(name: str, argv: tuple[str, ...], says: str, files: Any = _everything, **more: Any) -> Case:
    return Case(name=f"outputs:{name}", argv=argv, says=says, files=files, **more)


CASES = [
    *(
        _case(f"{command} into {place}", argv, "there", files, always=(command, place) in ALWAYS)
        for command, argv in FOLDERS.items()
        for place, files in PLACES.items()
        # a collection takes its place among other files
        if command != "emoji" or place in ("a file", "a link to nowhere", "what nobody may write")
    ),
    *(
        _case(
            f"do into {name}", ("do", "a cat", "-o", path, *QUICK), says, files, always=name == "below a file"
        )
        for name, (path, files, says) in DRAWINGS.items()
    ),
    *(
        _case(f"convert over {place}", ("convert", "default", "there", "--to", "diptych"), ".", files)
        for place, files in PLACES.items()
    ),
    _case(
        "do on a full disk",
        ("do", "a cat", "-o", "a.png", *QUICK),
        "large|space",
        _there("a.png", encoded("PNG")),
        largest=3000,
        always=True,
    ),
    _case("export on a full disk", FOLDERS["export"], "large|space|there", largest=200_000, always=True),
    _case("grow on a full disk", FOLDERS["grow"], "large|space|there", largest=20_000),
    _case(
        "training on a full disk",
        ("train", "emoji-small", "--start", "joint", "-o", "new", "--jsonl", "lines.jsonl", *JOINT),
        "large|space|could not be written",
        largest=200_000,
        may_make=("new", "new/*"),
    ),
    _case(
        "training among other files",
        ("train", "emoji-small", "--start", "joint", "-o", "there", "--jsonl", "lines.jsonl", *JOINT),
        "there holds other files .notes.txt",
        _there("there/notes.txt"),
    ),
    _case(
        "training that nobody reads",
        ("train", "emoji-small", "--start", "joint", "-o", "new", "--jsonl", "lines.jsonl", *JOINT),
        "",
        stdout="closed",
        status=0,
        makes=("new", "new/checkpoints/step-00000002", "new/*"),
    ),
    *(
        _case(
            f"convert to {form} on a full disk",
            ("convert", "m", out, "--to", form),
            "cannot be written",
            lambda folder, stock: stock.put("published", folder / "m"),
            largest=10_000,
        )
        for form, out in (("sana", "out.pth"), ("diptych", "out"), ("diffusers", "out"))
    ),
    *(
        _case(
            f"convert to {form} named {out}",
            ("convert", "m", out, "--to", form),
            f"{out}: the form",
            lambda folder, stock: stock.put("published", folder / "m"),
        )
        for form, out in (("sana", "out.safetensors"), ("sana", "out.png"), ("lora-peft", "out.pth"))
    ),
    _case(
        "a cache among pictures",
        ("data", "cache", "d", "-o", "d", "--space", "space", "--resolutions", "32", "--batch", "4"),
        "d holds something else than a cache",
        lambda folder, stock: (stock.put("pictures", folder / "d"), stock.put("space", folder / "space")),
    ),
    _case(
        "an index on a full disk",
        ("data", "index", "d"),
        "large|space",
        lambda folder, stock: stock.put("pictures", folder / "d"),
        largest=500,
        may_make=("d/diptych-index.parquet.parts", "d/diptych-index.parquet.parts/*"),
    ),
    _case(
        "a cache on a full disk",
        ("data", "cache", "d", "-o", "c", "--space", "space", "--resolutions", "32", "--batch", "4"),
        "large|space",
        lambda folder, stock: (stock.put("pictures", folder / "d"), stock.put("space", folder / "space")),
        largest=500,
        may_make=("c", "c/encoders.json"),
    ),
    _case("a plan to a full disk", ("plan", "a cat"), "space", stdout="full", always=True),
    _case("numbers to a full disk", ("info", "--json"), "space", stdout="full"),
    *(
        _case(
            f"{name} to a closed pipe",
            argv,
            "",
            stdout="closed",
            status=0,
            makes=makes,
            always=name == "plan",
        )
        for name, argv, makes in (
            ("plan", ("plan", "a cat"), ()),
            ("info", ("info", "joint"), ()),
            ("do", ("do", "a cat", "--model", "joint", "-o", "a.png", *QUICK), ("a.png",)),
            ("evaluate", FOLDERS["evaluate"], ("there", "there/results.json", "there/*")),
            ("train --help", ("train",), ()),
        )
        if name != "train --help"
    ),
    *(
        _case(
            f"candidates with a {name} of noise",
            ("do", "a cat", "--model", "joint", "--best-of", "2", "--candidates", "there", "--steps", "1"),
            "there/request.json",
            _there(f"there/{name}", b"[5]\n{}\nx\n"),
        )
        for name in ("request.json",)
    ),
    _case(
        "calibration of noise",
        FOLDERS["prune"],
        "there",
        _there("there/calibration.json", b"[5"),
        may_make=("there/*",),
        changes=("there/calibration.json",),
    ),
    _case(
        "export beside somebody's adapters",
        FOLDERS["export"],
        "there-lora.safetensors is there already",
        lambda folder, stock: (
            _there("there-lora.safetensors")(folder, stock),
            values("config.json", lora_rank=2, stages__0__trainable="lora")(folder / "run"),
        ),
    ),
    _case(
        "grow beside somebody's .old and .part",
        FOLDERS["grow"],
        "grown",
        lambda folder, stock: (
            _everything(folder, stock),
            [(folder / f"there{end}").mkdir() for end in (".old", ".part", ".before")],
            [
                (folder / f"there{end}" / "mine.txt").write_text("mine")
                for end in (".old", ".part", ".before")
            ],
        ),
        status=0,
        makes=("there", "there/*"),
        always=True,
    ),
    _case(
        "convert beside somebody's .part",
        ("convert", "m", "there", "--to", "diffusers"),
        "there: written",
        lambda folder, stock: (
            stock.put("published", folder / "m"),
            (folder / "there.part").mkdir(),
            (folder / "there.part" / "mine.txt").write_text("mine"),
        ),
        status=0,
        makes=("there", "there/*"),
    ),
    _case(
        "drawings over a longer file",
        FOLDERS["drawn"],
        "there",
        _there("there/drawn.jsonl", b'{"mine": 1}\n' * 50),
        always=True,
    ),
]
