"""Readers for samples on disk: JSONL with a media folder (SenseNova-U1's line format as it is), and plain
text.

A JSONL line: {"conversations": [{"from": "human", "value": "<image> what is this?"}, {"from": "gpt", "value":
"a cat"}], "image": "cat.png"}; `image` is one name or a list, in the order of the "<image>" marks. A picture
in a gpt turn is drawn.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diptych.contracts import BadSample, Picture, Sample, Turn
from diptych.data.mixture import shuffled
from diptych.data.pictures import PictureError, open_picture, resize
from diptych.files.typed import parse

MARK = "<image>"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def line_offsets(path: Path) -> list[tuple[int, int]]:
    """(line number from 1, byte offset) of every line that is not blank. Raises ValueError for a missing or
    empty file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    offsets, at = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                offsets.append((number, at))
            at += len(line)
    if not offsets:
        raise ValueError(f"{path} has no samples: every line is blank")
    return offsets


class JsonlSource:
    """Samples of a JSONL file; media are looked up in `media` (the file's own folder unless given), never
    outside it."""

    def __init__(
        self, path: Path, *, seed: int, multiple: int, max_side: int, media: Path | None = None
    ) -> None:
        self.path, self.name, self.seed = path, path.stem, seed
        self.multiple, self.max_side = multiple, max_side
        self.media = (media or path.parent).resolve()
        self.offsets = line_offsets(path)

    def __len__(self) -> int:
        return len(self.offsets)

    def draw(self, number: int) -> Sample:
        return self.read(shuffled(number, len(self), self.seed))

    def read(self, index: int) -> Sample:
        """The index-th sample. Raises BadSample with file, line and reason."""
        number, offset = self.offsets[index]
        where = f"{self.path}:{number}"
        with self.path.open("rb") as file:
            file.seek(offset)
            raw = file.readline()
        try:
            line = parse(raw, where)
        except ValueError as error:
            raise BadSample(str(error)) from error
        return self._sample(line, where)

    def _sample(self, line: object, where: str) -> Sample:
        conversations = line.get("conversations") if isinstance(line, dict) else None
        if not isinstance(conversations, list) or not conversations:
            raise BadSample(f"{where}: no 'conversations' list")
        assert isinstance(line, dict)
        names = line.get("image", [])
        names = [names] if isinstance(names, str) else list(names)
        marks = sum(
            str(turn.get("value", "")).count(MARK) for turn in conversations if isinstance(turn, dict)
        )
        if marks != len(names):
            raise BadSample(f"{where}: {marks} {MARK} marks, but {len(names)} pictures")
        pictures = iter(names)
        turns = []
        for turn in conversations:
            role = _ROLES.get(turn.get("from", "")) if isinstance(turn, dict) else None
            if role is None or not isinstance(turn.get("value"), str):
                raise BadSample(f"{where}: a turn needs 'from' (human, gpt or system) and a text 'value'")
            turns.append(Turn(role, self._parts(turn["value"], pictures, role, where)))
        drawn = any(isinstance(p, Picture) and p.drawn for t in turns for p in t.parts)
        read = any(isinstance(p, Picture) and not p.drawn for t in turns for p in t.parts)
        task = ("edit" if read else "generate") if drawn else ("understand" if read else "text")
        return Sample(tuple(turns), task, where)

    def _parts(self, value: str, pictures: Iterator[str], role: str, where: str) -> tuple[str | Picture, ...]:
        parts: list[str | Picture] = []
        for piece in re.split(f"({MARK})", value):
            if piece == MARK:
                pixels = self._picture(next(pictures), where)
                parts.append(Picture(pixels, drawn=role == "assistant"))
            elif piece.strip():
                parts.append(piece.strip())
        return tuple(parts)

    def _picture(self, name: str, where: str) -> np.ndarray:
        # a file from elsewhere must not read what lies outside its media
        path = (self.media / name).resolve()
        if not path.is_relative_to(self.media):
            raise BadSample(f"{where}: image {name!r} lies outside {self.media}")
        if not path.is_file():
            near = difflib.get_close_matches(
                name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [], n=1
            )
            raise BadSample(
                f"{where}: image {name!r} is not in {self.media}"
                + (f" (nearest: {near[0]!r})" if near else "")
            )
        try:
            pixels = open_picture(path)
        except PictureError as error:
            raise BadSample(f"{where}: {error}") from error
        return fit(pixels, self.multiple, self.max_side)


def fit(pixels: np.ndarray, multiple: int, max_side: int) -> np.ndarray:
    """Shrunk so that the longer side is at most `max_side`, sides rounded to multiples."""
    height, width = pixels.shape[:2]
    # never enlarged: that adds tokens and nothing to see
    scale = min(1.0, max_side / max(height, width))
    sides = [max(multiple, round(side * scale / multiple) * multiple) for side in (width, height)]
    return resize(pixels, sides[0], sides[1])


class TextSource:
    """Paragraphs of a UTF-8 text file as language-modelling samples."""

    def __init__(self, path: Path, *, seed: int) -> None:
        self.path, self.name, self.seed = path, path.stem, seed
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error})") from error
        self.paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
        if not self.paragraphs:
            raise ValueError(f"{path} has no text")

    def __len__(self) -> int:
        return len(self.paragraphs)

    def draw(self, number: int) -> Sample:
        index = shuffled(number, len(self), self.seed)
        # the assistant's, as only its words are predicted
        return Sample(
            (Turn("assistant", (self.paragraphs[index],)),), "text", f"{self.path}, paragraph {index + 1}"
        )
