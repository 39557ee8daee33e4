"""Readers for samples on disk: JSONL with a media folder (SenseNova-U1's line format as it is), and plain
text.

A JSONL line: {"conversations": [{"from": "human", "value": "<image> what is this?"}, {"from": "gpt", "value":
"a cat"}], "image": "cat.png"}; `image` is one name or a list, in the order of the "<image>" marks, and so are
`video` and "<video>". A picture in a gpt turn is drawn; thoughts stand there between <think> and </think>. A
clip that is the whole gpt turn is drawn, by the pictures and clips of the human one: `roles` says what each
is for ("first", "last", "source", "mask", "control", "reference"); unless given, a first frame or a source.
"""

from __future__ import annotations

import copy
import hashlib
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diptych.clips import CLIP_ORDER, clip_turn
from diptych.contracts import BadSample, Picture, Sample, Turn
from diptych.data.captioned.buckets import Bucket
from diptych.data.captioned.buckets import fit as fit_to
from diptych.data.conversations.forms import END_THINK, THINK
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
from diptych.request import MANY, MARK, Role

CLIP = "<video>"
"""Stands in a text where a clip belongs."""
_THOUGHT = re.compile(f"{THINK}.*?{END_THINK}", re.DOTALL)
MAX_TEXT_FILE = 2**28
"""Bytes of a text file, all of which is kept in memory."""
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Sizes(Protocol):
    """How large a sample's pictures are trained at."""

    def __call__(self, pixels: np.ndarray, *, task: str, drawn: bool, together: int) -> np.ndarray:
        """A picture (height, width, 3) of a sample for `task`, which has `together` pictures to read, at the
        size that it is read or drawn at. Raises ValueError for one of no possible size."""
        ...


Clips = Callable[[Path], tuple[str | Picture, ...]]
"""Opens a clip that is asked about as parts of a turn; ValueError for one that cannot be read."""
Films = Callable[[Path], np.ndarray]
"""Opens a clip that is drawn, or given for one that is, as frames (frames, height, width, 3) at the rate and
size at which a model draws; ValueError for one that cannot be read."""


class JsonlSource:
    """Samples of a JSONL file; media are looked up in `media` (the file's own folder unless given), never
    outside it."""

    def __init__(
        self,
        path: Path,
        *,
        seed: int,
        sizes: Sizes,
        media: Path | None = None,
        name: str | None = None,
        task: str | None = None,
        exact: bool = False,
        clips: Clips | None = None,
        films: Films | None = None,
        validation: float = 0.0,
    ) -> None:
        """`task`: what every sample is for; None: found out for each by what it holds. `exact`: texts with
        their white space. `clips` and `films` open clips; None where none are looked at, and drawn.
        `validation`: share of the lines, chosen by their bytes, that `kept` has instead.

        Raises ValueError for a file without samples.
        """
        self.path, self.name, self.seed = path, name or path.stem, seed
        self.sizes, self.task, self.exact, self.clips, self.films = sizes, task, exact, clips, films
        self.media = (media or path.parent).resolve()
        self.lines, self._kept = _places(path, validation)

    def __len__(self) -> int:
        return len(self.lines)

    def kept(self) -> JsonlSource | None:
        """The samples that are never trained on, as a source of their own; None where there are none."""
        if not len(self._kept):
            return None
        made = copy.copy(self)
        made.lines = self._kept
        return made

    def draw(self, number: int) -> Sample:
        return self.read(shuffled(number, len(self), self.seed))

    def read(self, index: int) -> Sample:
        """The index-th sample. Raises BadSample with file, line and reason."""
        line, where = self._line(index)
        try:
            return self._sample(line, where)
        except BadSample:
            raise
        except ValueError as error:
            raise BadSample(f"{where}: {error}") from error

    def texts(self, count: int) -> Iterator[str]:
        """What is said in the first samples, pictures unopened; lines that cannot be read are passed over."""
        for index in range(min(count, len(self))):
            with suppress(BadSample):
                line, where = self._line(index)
                for _, value in told_in(line, where):
                    yield from (piece for piece in re.split(f"{MARK}|{CLIP}", value) if piece.strip())

    def _line(self, index: int) -> tuple[object, str]:
        number, offset, size = self.lines[index].tolist()
        where = f"{self.path}:{number}"
        if size > MAX_LINE:
            raise BadSample(f"{where}: a line of {size:,} bytes; at most {MAX_LINE:,} are read")
        try:
            return parse(without_bom(read_bytes(self.path, offset, size), offset), where), where
        except OSError as error:
            raise BadSample(f"{where}: cannot be read any more ({error.strerror})") from error
        except ValueError as error:
            raise BadSample(str(error)) from error

    def _sample(self, line: object, where: str) -> Sample:
        told = told_in(line, where)
        assert isinstance(line, dict)
        names, clips = names_in(line, "image", where), names_in(line, "video", where)
        length = sum(len(value) for _, value in told)
        if length > MAX_TEXT:
            raise BadSample(f"{where}: {length:,} characters; a sample has at most {MAX_TEXT:,}")
        for mark, media, what in ((MARK, names, "pictures"), (CLIP, clips, "clips")):
            marks = sum(value.count(mark) for _, value in told)
            if marks != len(media):
                raise BadSample(f"{where}: {marks} {mark} marks, but {len(media)} {what}")
            if marks > MANY:
                raise BadSample(f"{where}: {marks} {what}; a sample has at most {MANY}")
        if any(CLIP in value for role, value in told if role == "assistant"):
            return self._filmed(line, told, (iter(names), iter(clips)), where)
        task = self._task(told, bool(clips), where)
        together = sum(value.count(MARK) for role, value in told if role != "assistant")
        waiting = iter(names), iter(clips)
        turns = [Turn(role, self._parts(value, role, waiting, task, together, where)) for role, value in told]
        if not any(turn.role == "assistant" and turn.parts for turn in turns):
            raise BadSample(f"{where}: no gpt turn says or draws anything, so nothing can be learnt from it")
        return Sample(tuple(turns), task, where)

    def _task(self, told: Sequence[tuple[str, str]], clips: bool, where: str) -> str:
        """What a sample is for. Raises BadSample where that is not the source's task."""
        said = [value for role, value in told if role == "assistant"]
        drawn = sum(value.count(MARK) for value in said)
        read = clips or any(MARK in value for role, value in told if role != "assistant")
        words = any(re.sub(_THOUGHT, "", value).replace(MARK, "").strip() for value in said if MARK in value)
        if self.task is None:
            if not drawn:
                return "understand" if read else "text"
            return "interleave" if drawn > 1 or words else "edit" if read else "generate"
        has = {
            "generate": drawn == 1 and not read,
            "edit": drawn == 1 and read,
            "interleave": drawn > 0,
            "text": not drawn and not read,
            "understand": not drawn,
        }
        if not has[self.task]:
            raise BadSample(
                f"{where}: {drawn} pictures to draw and {'some' if read else 'none'} to read make no sample "
                f"of the task {self.task!r}"
            )
        return self.task

    def _filmed(
        self,
        line: Mapping[str, Any],
        told: Sequence[tuple[str, str]],
        media: tuple[Iterator[str], Iterator[str]],
        where: str,
    ) -> Sample:
        """A sample whose answer is a clip: the words, and pictures and clips by their roles."""
        if self.films is None:
            raise BadSample(f"{where}: a clip in a gpt turn, and no clips are drawn by this model")
        *before, (role, asked), (_, answer) = [("", ""), *told]
        if before[1:] or role != "user" or answer.strip() != CLIP:
            raise BadSample(f"{where}: a clip is drawn as the whole answer, one {CLIP}, to one human turn")
        marks = re.findall(f"{MARK}|{CLIP}", asked)
        roles = names_in(line, "roles", where) or [
            Role.FIRST if mark == MARK else Role.SOURCE for mark in marks
        ]
        if len(roles) != len(marks) or not set(roles) <= {str(role) for role in CLIP_ORDER}:
            raise BadSample(
                f"{where}: 'roles' has one of {', '.join(CLIP_ORDER)} for each of {len(marks)} media, got "
                f"{shortened(', '.join(roles))}"
            )
        given = [
            (
                Role(role),
                self._picture(next(media[0]), where) if mark == MARK else self._film(media[1], where),
            )
            for mark, role in zip(marks, roles, strict=True)
        ]
        drawn = self._film(media[1], where)
        size = Bucket(drawn.shape[2], drawn.shape[1])
        fitted = []
        for role, pixels in given:
            frames = np.stack(
                [fit_to(frame, size) for frame in (pixels if pixels.ndim == 4 else pixels[None])]
            )
            fitted.append((role, frames[: len(drawn)] if pixels.ndim == 4 else frames[0]))
        text = re.sub(f"\\s*({MARK}|{CLIP})\\s*", " ", asked).strip()
        turns = (Turn("user", clip_turn(text, fitted)), Turn("assistant", (Picture(drawn, drawn=True),)))
        return Sample(turns, "clip-edit" if given else "clip", where)

    def _film(self, names: Iterator[str], where: str) -> np.ndarray:
        assert self.films is not None
        return self.films(self._path(next(names), "video", where))

    def _parts(
        self,
        value: str,
        role: str,
        media: tuple[Iterator[str], Iterator[str]],
        task: str,
        together: int,
        where: str,
    ) -> tuple[str | Picture, ...]:
        parts: list[str | Picture] = []
        drawn = role == "assistant"
        for piece in re.split(f"({MARK}|{CLIP})", value.strip() if drawn else value):
            if piece == MARK:
                pixels = self._picture(next(media[0]), where)
                parts.append(Picture(self.sizes(pixels, task=task, drawn=drawn, together=together), drawn))
            elif piece == CLIP:
                parts += self._clip(next(media[1]), where)
            elif said := piece if self.exact else piece.strip():
                parts.append(said)
        return tuple(parts)

    def _picture(self, name: str, where: str) -> np.ndarray:
        path = self._path(name, "image", where)
        try:
            return open_picture(path)
        except PictureError as error:
            raise BadSample(f"{where}: {error}") from error

    def _clip(self, name: str, where: str) -> tuple[str | Picture, ...]:
        if self.clips is None:
            raise BadSample(f"{where}: a clip, and this model looks at none (conversation.clip_frames is 0)")
        return self.clips(self._path(name, "video", where))

    def _path(self, name: str, key: str, where: str) -> Path:
        try:
            # a file from elsewhere must not read what lies outside its media
            return inside(self.media, name)
        except ValueError as error:
            raise BadSample(f"{where}: {key} {error}") from error


def _places(path: Path, validation: float) -> tuple[np.ndarray, np.ndarray]:
    """Number, offset and size in bytes of the lines (N, 3) to train on, and of those that are kept. The file
    is gone through once, and nothing in it is decoded."""
    # plain numbers: a file may have tens of millions of lines
    found = array("q"), array("q")
    for line in lines(path):
        kept = bool(validation) and _share_of(line.text or b"") < validation
        found[kept].extend((line.number, line.offset, line.size))
    if not found[0]:
        raise ValueError(f"{path} has no samples: every line is blank, or kept for validation")
    learnt, held = (np.frombuffer(places, dtype=np.int64).reshape(-1, 3) for places in found)
    return learnt, held


def _share_of(line: bytes) -> float:
    """A line's place between 0 and 1 by its bytes: a larger share keeps what a smaller one kept."""
    return int.from_bytes(hashlib.blake2b(line.strip(), digest_size=8).digest()) / 2**64


def told_in(line: object, where: str) -> list[tuple[str, str]]:
    """Role and text of every turn of a line."""
    conversations = line.get("conversations") if isinstance(line, dict) else None
    if not isinstance(conversations, list) or not conversations:
        raise BadSample(f"{where}: no 'conversations' list")
    return [_turn(turn, where) for turn in conversations]


def names_in(line: Mapping[str, Any], key: str, where: str) -> list[str]:
    found = line.get(key) or []
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadSample(f"{where}: {key!r} must be a name or a list of names, got {shortened(str(names))}")
    return names


def _turn(turn: object, where: str) -> tuple[str, str]:
    """Role and text of a turn."""
    who, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    role = _ROLES.get(who) if isinstance(who, str) else None
    if role is None or not isinstance(value, str):
        raise BadSample(f"{where}: a turn needs 'from' (human, gpt or system) and a text 'value'")
    return role, value


def within(multiple: int, max_side: int) -> Sizes:
    """Pictures that are read and drawn alike: at most `max_side` px, sides multiples."""

    def sizes(pixels: np.ndarray, **_: Any) -> np.ndarray:
        return fit(pixels, multiple, max_side)

    return sizes


def fit(pixels: np.ndarray, multiple: int, max_side: int) -> np.ndarray:
    """Shrunk so that the longer side is at most `max_side`, sides rounded to multiples."""
    height, width = pixels.shape[:2]
    # never enlarged: that adds tokens and nothing to see
    scale = min(1.0, max_side / max(height, width))
    sides = [max(multiple, round(side * scale / multiple) * multiple) for side in (width, height)]
    return resize(pixels, sides[0], sides[1])


class TextSource:
    """Paragraphs of a UTF-8 text file as language-modelling samples."""

    def __init__(self, path: Path, *, seed: int, validation: float = 0.0) -> None:
        """`validation`: share of the paragraphs, chosen by their bytes, that `kept` has instead."""
        self.path, self.name, self.seed = path, path.stem, seed
        regular(path, MAX_TEXT_FILE)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error})") from error
        found = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
        if not found:
            raise ValueError(f"{path} has no text")
        numbered = list(enumerate(found, 1))
        held = [bool(validation) and _share_of(p.encode()) < validation for p in found]
        self.paragraphs = [p for p, kept in zip(numbered, held, strict=True) if not kept]
        self._kept = [p for p, kept in zip(numbered, held, strict=True) if kept]
        if not self.paragraphs:
            raise ValueError(f"{path} has no text that is not kept for validation")

    def __len__(self) -> int:
        return len(self.paragraphs)

    def kept(self) -> TextSource | None:
        """The paragraphs that are never trained on, as a source of their own; None where there are none."""
        if not self._kept:
            return None
        made = copy.copy(self)
        made.paragraphs = self._kept
        return made

    def texts(self, count: int) -> Iterator[str]:
        """The first paragraphs."""
        yield from (text for _, text in self.paragraphs[:count])

    def draw(self, number: int) -> Sample:
        place, paragraph = self.paragraphs[shuffled(number, len(self), self.seed)]
        where = f"{self.path}, paragraph {place}"
        if len(paragraph) > MAX_TEXT:
            raise BadSample(f"{where}: {len(paragraph):,} characters; a paragraph has at most {MAX_TEXT:,}")
        # the assistant's, as only its words are predicted
        return Sample((Turn("assistant", (paragraph,)),), "text", where)
