"""JSONL of one's own: a bad line is named, counted and passed over; a file that is none is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

from PIL import Image

from hostile.case import Case
from hostile.stock import JOINT, LINE, Stock, pixels

RUN = ("train", "emoji-small", "--start", "joint", "-o", "run", "--jsonl", "lines.jsonl", *JOINT)


def _told(value: object, image: object = None, who: object = "human") -> str:
    return json.dumps(
        {"conversations": [{"from": who, "value": value}], **({} if image is None else {"image": image})}
    )


BAD = {
    "no JSON": "a cat",
    "cut off": '{"conversations": [{"from": "human"',
    "a number": "5",
    "a list": "[]",
    "null": "null",
    "NaN": '{"conversations": NaN}',
    "no conversations": "{}",
    "conversations of null": '{"conversations": null}',
    "conversations of nothing": '{"conversations": []}',
    "a turn of a number": '{"conversations": [5]}',
    "a turn of nothing": '{"conversations": [{}]}',
    "from of a list": _told("x", who=[]),
    "from of nobody": _told("x", who="robot"),
    "value of a number": _told(5),
    "value of null": _told(None),
    "value of a list": _told(["x"]),
    "picture null": '{"conversations": [{"from": "human", "value": "<image> x"}], "image": null}',
    "picture 5": _told("<image> x", 5),
    "picture [5]": _told("<image> x", [5]),
    "picture of an object": _told("<image> x", {"path": "a.png"}),
    "picture of nothing": _told("<image> x", ""),
    "picture that is not there": _told("<image> x", "b.png"),
    "picture outside": _told("<image> x", "../outside/a.png"),
    "picture at the root": _told("<image> x", "/etc/passwd"),
    "picture that is the folder": _told("<image> x", "."),
    "picture of 5,000 characters": _told("<image> x", "x" * 5000),
    "picture with a zero": _told("<image> x", "a\0.png"),
    "picture that is a pipe": _told("<image> x", "pipe.png"),
    "picture that links outside": _told("<image> x", "link.png"),
    "picture of a broken avif": _told("<image> x", "broken.avif"),
    "picture that is text": _told("<image> x", "lines.jsonl"),
    "fewer pictures than marks": _told("<image><image> x", "a.png"),
    "more pictures than marks": _told("x", "a.png"),
    "a lone surrogate": '{"conversations": [{"from": "human", "value": "\\ud800"}]}',
    "deep nesting": "[" * 100_000,
    "deep objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a long text": _told("x " * 60_000),
    "a duplicate key": '{"conversations": 5, "conversations": {}}',
    "escapes": _told("x", who="\x1b[31m"),
    "no UTF-8": "\udcff\udcfe",
    "100 pictures": _told("<image>" * 100, ["a.png"] * 100),
}
GOOD = {
    "U+2028": _told("a\u2028b", who="gpt"),
    "unknown keys": json.dumps({**LINE, "id": 5, "extra": None}),
    "a byte order mark": "\ufeff" + json.dumps(LINE),
    "carriage returns": json.dumps(LINE) + "\r",
}


def _lines(*lines: str):
    def files(folder: Path, stock: Stock) -> None:
        stock.put("joint", folder / "joint")
        Image.fromarray(pixels()).save(folder / "a.png")
        Image.fromarray(pixels()).save(folder.parent / "outside" / "a.png")
        os.mkfifo(folder / "pipe.png")
        (folder / "link.png").symlink_to("../outside/a.png")
        (folder / "broken.avif").write_bytes(b"\0\0\0\x1cftypavif" + bytes(50))
        text = "\n".join(lines) + "\n"
        (folder / "lines.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))

    return files


def _file(content: bytes | None):
    def files(folder: Path, stock: Stock) -> None:
        stock.put("joint", folder / "joint")
        if content is not None:
            (folder / "lines.jsonl").write_bytes(content)

    return files


def _special(kind: str):
    def files(folder: Path, stock: Stock) -> None:
        stock.put("joint", folder / "joint")
        path = folder / "lines.jsonl"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "sparse":
            with path.open("wb") as file:
                file.truncate(50 * 2**30)
        elif kind == "device":
            path.symlink_to("/dev/zero")

    return files


MADE = ("run", "run/*")
ALWAYS = {"picture null", "a lone surrogate", "deep nesting", "picture outside"}
CASES = [
    *(
        Case(
            name=f"lines:{name}",
            argv=RUN,
            says=r"unusable sample: \S*lines.jsonl:1: ",
            files=_lines(line, json.dumps(LINE)),
            status=0,
            makes=MADE,
            always=name in ALWAYS,
        )
        for name, line in BAD.items()
    ),
    *(
        Case(name=f"lines:{name}", argv=RUN, says="2/2", files=_lines(line), status=0, makes=MADE)
        for name, line in GOOD.items()
    ),
    *(
        Case(name=f"lines:a file of {name}", argv=RUN, says="lines.jsonl", files=files, may_make=may)
        for name, files, may in (
            ("nothing", _file(b""), ()),
            ("blanks", _file(b"\n \n\n"), ()),
            ("nobody", _file(None), ()),
            ("a pipe", _special("pipe"), ()),
            ("a folder", _special("folder"), ()),
            ("50 GB of zeros", _special("sparse"), ()),
            ("endless zeros", _special("device"), ()),
        )
    ),
    Case(
        name="lines:bad ones alone",
        argv=(*RUN, "--max-bad-samples", "5"),
        says="lines.jsonl|sample",
        files=_lines("5", "6"),
        may_make=MADE,
        always=True,
    ),
    Case(
        name="lines:a file that no mixture names",
        argv=("train", "emoji-small", "--start", "joint", "-o", "run", "--jsonl", "lines.jsonl"),
        says="no mixture draws from 'lines'",
        files=_lines(json.dumps(LINE)),
        always=True,
    ),
    Case(
        name="lines:a file named as a built-in source",
        argv=("train", "emoji-small", "--start", "joint", "-o", "run", "--jsonl", "generate.jsonl"),
        says="'generate' would name two sources",
        files=_lines(json.dumps(LINE)),
    ),
    Case(
        name="lines:two files of one name",
        argv=(
            "train",
            "emoji-small",
            "--start",
            "joint",
            "-o",
            "run",
            "--jsonl",
            "lines.jsonl",
            "b/lines.jsonl",
        ),
        says="'lines' would name two sources",
        files=_lines(json.dumps(LINE)),
    ),
    Case(
        name="lines:text that is not UTF-8",
        argv=("train", "emoji-small", "--start", "joint", "-o", "run", "--text", "lines.jsonl", *JOINT),
        says="lines.jsonl is not UTF-8",
        files=_lines("\udcff\udcfe"),
    ),
    *(
        Case(
            name=f"lines:calibration by {name}",
            argv=("prune", "default", "--depth", "4", "--calibrate", path, "-o", "smaller", "--prompts", "1"),
            says=says,
            files=_lines(line),
            always=name == "nothing",
        )
        for name, path, line, says in (
            ("nothing", "lines.jsonl", "\n", "lines.jsonl"),
            ("no prompts", "lines.jsonl", json.dumps(LINE), "lines.jsonl"),
            ("numbers", "lines.jsonl", '{"prompt": 5}', "lines.jsonl"),
            ("a long prompt", "lines.jsonl", json.dumps({"prompt": "x" * 5000}), "lines.jsonl|characters"),
            ("what is not there", "nothing.txt", "", "nothing.txt"),
            ("a picture", "a.png", "", "a.png"),
            ("a pipe", "pipe.png", "", "pipe.png"),
        )
    ),
]
