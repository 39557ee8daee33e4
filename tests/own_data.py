"""Data of one's own for tests: a list of data sets with a kind of sample each, and its pictures."""

import json
from pathlib import Path
from typing import Any

from PIL import Image


def said(asked: str, answer: str, *pictures: str, **more: Any) -> dict[str, Any]:
    """A line of a JSONL file."""
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": 1, "conversations": turns, "image": list(pictures), **more}


KINDS = {
    "t2i": said("a red one", "<image>", "red.png", width=48, height=40),
    "it2i": said("<image>\nbluer", "<image>", "red.png", "blue.png"),
    "interleave_gen": said("a tale", "first <image> then <image> end", "red.png", "blue.png"),
    "text": said("hello", "yes?"),
    "none": said("<image>\n<image>\nwhich is red?", "the first", "red.png", "blue.png"),
}
"""A line of each task, by the names that lists have for them."""


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_list(folder: Path) -> Path:
    """A list with a data set of each task, four lines each: my-t2i, my-it2i ..."""
    (folder / "media").mkdir()
    for name, size in (("red", (48, 40)), ("blue", (64, 32))):
        Image.new("RGB", size, name).save(folder / "media" / f"{name}.png")
    values = {}
    for task, row in KINDS.items():
        write_lines(folder / f"{task}.jsonl", *[{**row, "id": n} for n in range(4)])
        values[f"my-{task}"] = {
            "root": "media",
            "annotation": f"{task}.jsonl",
            "task": task,
            "language": "en",
        }
    (folder / "meta.json").write_text(json.dumps(values))
    return folder / "meta.json"
