"""Readers for samples on disk: JSONL with a media folder (SenseNova-U1's line format as it is), and plain
text.

A JSONL line: {"conversations": [{"from": "human", "value": "<image> what is this?"}, {"from": "gpt", "value":
"a cat"}], "image": "cat.png"}; `image` is one name or a list, in the order of the "<image>" marks. A picture
in a gpt turn is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diptych.contracts import BadSample, Picture, Sample, Turn
from diptych.data.foreign import (
    MAX_LINE,
    MAX_TEXT,
    inside,
    lines,
    read_bytes,
    regular,
    shortened,
    without_bom,
)
from diptych.data.mixture import shuffled
from diptych.data.pictures import PictureError, open_picture, resize
from diptych.files.typed import parse
from diptych.request import MANY

MARK = "<image>"
MAX_TEXT_FILE = 2**28
"""Bytes of a text file, all of which is kept in memory."""
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class JsonlSource:
    """Samples of a JSONL file; media are looked up in `media` (the file's own folder unless given), never
    outside it."""

    def __init__(
        self, path: Path, *, seed: int, multiple: int, max_side: int, media: Path | None = None
    ) -> None:
        self.path, self.name, self.seed = path, path.stem, seed
        self.multiple, self.max_side = multiple, max_side
        self.media = (media or path.parent).resolve()
        self.lines = [(line.number, line.offset, line.size) for line in lines(path)]
        if not self.lines:
            raise ValueError(f"{path} has no samples: every line is blank")

    def __len__(self) -> int:
        return len(self.lines)

    def draw(self, number: int) -> Sample:
        return self.read(shuffled(number, len(self), self.seed))

    def read(self, index: int) -> Sample:
        """The index-th sample. Raises BadSample with file, line and reason."""
        number, offset, size = self.lines[index]
        where = f"{self.path}:{number}"
        if size > MAX_LINE:
            raise BadSample(f"{where}: a line of {size:,} bytes; at most {MAX_LINE:,} are read")
        try:
            raw = without_bom(read_bytes(self.path, offset, size), offset)
            return self._sample(parse(raw, where), where)
        except OSError as error:
            raise BadSample(f"{where}: cannot be read any more ({error.strerror})") from error
        except BadSample:
            raise
        except ValueError as error:
            raise BadSample(str(error)) from error

    def _sample(self, line: object, where: str) -> Sample:
        conversations = line.get("conversations") if isinstance(line, dict) else None
        if not isinstance(conversations, list) or not conversations:
            raise BadSample(f"{where}: no 'conversations' list")
        assert isinstance(line, dict)
        names = line.get("image", [])
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadSample(
                f"{where}: 'image' must be a name or a list of names, got {shortened(str(names))}"
            )
        told = [_turn(turn, where) for turn in conversations]
        length = sum(len(value) for _, value in told)
        if length > MAX_TEXT:
            raise BadSample(f"{where}: {length:,} characters; a sample has at most {MAX_TEXT:,}")
        marks = sum(value.count(MARK) for _, value in told)
        if marks != len(names):
            raise BadSample(f"{where}: {marks} {MARK} marks, but {len(names)} pictures")
        if marks > MANY:
            raise BadSample(f"{where}: {marks} pictures; a sample has at most {MANY}")
        pictures = iter(names)
        turns = [Turn(role, self._parts(value, pictures, role, where)) for role, value in told]
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
        try:
            # a file from elsewhere must not read what lies outside its media
            path = inside(self.media, name)
        except ValueError as error:
            raise BadSample(f"{where}: image {error}") from error
        try:
            pixels = open_picture(path)
        except PictureError as error:
            raise BadSample(f"{where}: {error}") from error
        return fit(pixels, self.multiple, self.max_side)


def _turn(turn: object, where: str) -> tuple[str, str]:
    """Role and text of a turn."""
    who, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    role = _ROLES.get(who) if isinstance(who, str) else None
    if role is None or not isinstance(value, str):
        raise BadSample(f"{where}: a turn needs 'from' (human, gpt or system) and a text 'value'")
    return role, value


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
        regular(path, MAX_TEXT_FILE)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error})") from error
        self.paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
        if not self.paragraphs:
            raise ValueError(f"{path} has no text")

    def __len__(self) -> int:
        return len(self.paragraphs)

    def draw(self, number: int) -> Sample:
        index = shuffled(number, len(self), self.seed)
        where = f"{self.path}, paragraph {index + 1}"
        paragraph = self.paragraphs[index]
        if len(paragraph) > MAX_TEXT:
            raise BadSample(f"{where}: {len(paragraph):,} characters; a paragraph has at most {MAX_TEXT:,}")
        # the assistant's, as only its words are predicted
        return Sample((Turn("assistant", (paragraph,)),), "text", where)
