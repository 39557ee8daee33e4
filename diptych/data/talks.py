"""A conversation in a file: turns with the names of the pictures and clips that they bring, which are in the
file's folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from diptych.contracts import SPEAKERS
from diptych.data.foreign import inside, regular
from diptych.files.typed import convert, read_json, to_json
from diptych.files.whole import whole, write_whole

MAX_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Said:
    """One turn of the file."""

    role: str
    text: str
    media: tuple[str, ...] = ()
    """Files in the folder of the conversation, in the order of the marks <image> in the text."""

    def __post_init__(self) -> None:
        if self.role not in SPEAKERS:
            raise ValueError(f"role must be one of {', '.join(SPEAKERS)}, got {self.role!r}")


def read_talk(path: Path) -> list[Said]:
    """The turns of a file; none where it is not there yet. Raises ValueError for what is no such file, and
    for a picture that is missing or outside its folder."""
    if not path.exists():
        return []
    regular(path, MAX_BYTES)
    turns = convert(tuple[Said, ...], read_json(path), str(path))
    for number, turn in enumerate(turns):
        for name in turn.media:
            try:
                inside(path.parent.resolve(), name)
            except ValueError as error:
                raise ValueError(f"{path}[{number}].media: {error}") from error
    return list(turns)


def media_of(path: Path, turn: Said) -> list[Path]:
    """Where the pictures of a turn are."""
    return [path.parent / name for name in turn.media]


def write_talk(path: Path, turns: Sequence[Said]) -> None:
    """The whole file anew."""
    write_whole(path, to_json([asdict(turn) for turn in turns]))


def kept(path: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """Names of files as the conversation at `path` has them: what none of its turns names yet is copied into
    its folder, under a name that is free. A file beside it may be written over, as out.png is by the next
    drawing."""
    folder, names = path.parent.resolve(), []
    own = {(folder / name).resolve() for turn in read_talk(path) for name in turn.media}
    for file in files:
        at = file.resolve()
        if at not in own:
            # no name that several pictures of one output get: talk-0.png would be that of -o talk.png too
            places = (folder / f"{path.stem}.{number}{file.suffix}" for number in count())
            at = next(place for place in places if not place.exists())
            with whole(at) as aside:
                shutil.copyfile(file, aside)
        names.append(at.relative_to(folder).as_posix())
    return tuple(names)
