"""Sources: where pictures and captions lie, cut into units that a worker reads one at a time.

A source only locates. Layouts are those that `data/` reads; here they are cut so that nothing of a size that
grows with the source is held: a list of lines is cut at its bytes, a folder at its names.
"""

from __future__ import annotations

import hashlib
import itertools
import os.path
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from diptych.curation.stage import Shared
from diptych.data.captioned.layouts import (
    PICTURE_KEYS,
    PICTURES,
    Found,
    csv_rows,
    jsonl_rows,
    listed_row,
    names_below,
    shard,
    sidecar,
    sidecars_of,
)
from diptych.data.foreign import MAX_LINE, MAX_TEXT, inside, printable, regular, shortened, without_bom
from diptych.files.typed import parse, read_json

LINES = 1024
"""Lines, or pictures of a folder, of one unit."""
URL = "url"


@dataclass(frozen=True)
class Place:
    """One input: where its picture's bytes lie, and what is said of it; or what is wrong with it."""

    id: str
    source: str
    """The listing, the shard or the folder that it stands in."""
    file: str = ""
    """Absolute; '' where there is no picture to look for."""
    offset: int = 0
    size: int = 0
    captions: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    problem: str = ""


class Unit(Protocol):
    """What one worker reads at a time: light, and the same in every process."""

    @property
    def key(self) -> str:
        """Of its place, and of its files as they are now."""
        ...

    def read(self, store: Path) -> Iterator[Place]:
        """Its inputs, in a fixed order. What has to be fetched is put whole into the folder `store`."""
        ...


@runtime_checkable
class Drawn(Protocol):
    """A unit whose pictures are drawn when it is read."""

    def draw(self, store: Path, shared: Shared) -> Iterator[Place]: ...


class Source(Protocol):
    def units(self) -> list[Unit]: ...


def open_source(path: Path) -> Source:
    """A folder, a JSONL file, a metadata.csv, a tar shard, a JSON list of data sets, or a Parquet file of
    addresses. Raises ValueError for what is none of them."""
    if path.is_dir():
        return FolderSource(path)
    regular(path)
    ending = path.suffix.lower()
    if ending == ".parquet" or (ending == ".jsonl" and _has_addresses(path)):
        from diptych.curation.fetched import AddressSource

        return AddressSource(path)
    if ending == ".jsonl":
        return ListSource(path)
    if ending == ".csv":
        return UnitsSource([TableUnit(str(path.parent), path.name)])
    if ending == ".tar":
        names = [p.name for p in path.parent.iterdir()]
        return UnitsSource(
            [ShardUnit(str(path.parent), path.name, tuple(sorted(sidecars_of(path.name, names))))]
        )
    if ending == ".json":
        told = read_json(path)
        if isinstance(told, dict) and "drawer" in told:
            from diptych.curation.instruct import InstructSource

            return InstructSource(path)
        return MetaSource(path)
    raise ValueError(
        f"{path} is no source: a folder, .jsonl, .csv, .tar, .json (a list of data sets) or .parquet "
        "(addresses) is needed"
    )


def _has_addresses(path: Path) -> bool:
    """Whether the first lines name addresses instead of files."""
    for _, row, _ in itertools.islice(jsonl_rows(path), 20):
        if isinstance(row, dict):
            return isinstance(row.get(URL), str) and not any(key in row for key in PICTURE_KEYS)
    return False


@dataclass(frozen=True)
class UnitsSource:
    """Units that are there already."""

    given: list[Any]

    def units(self) -> list[Unit]:
        return list(self.given)


@dataclass(frozen=True)
class ShardUnit:
    """A tar shard with its sidecars."""

    folder: str
    name: str
    sidecars: tuple[str, ...]

    @property
    def key(self) -> str:
        return _key(Path(self.folder), (self.name, *self.sidecars))

    def read(self, store: Path) -> Iterator[Place]:
        yield from _placed(self.folder, self.name, shard(Path(self.folder), self.name, self.sidecars))


@dataclass(frozen=True)
class LinesUnit:
    """Some lines of a JSONL file, each a row."""

    folder: str
    name: str
    first: int
    """Number of its first line, from 1."""
    offset: int
    size: int

    @property
    def key(self) -> str:
        return _key(Path(self.folder), (self.name,), str(self.first), str(self.size))

    def read(self, store: Path) -> Iterator[Place]:
        yield from _placed(self.folder, self.name, self._found())

    def _found(self) -> Iterator[Found]:
        folder = Path(self.folder)
        root, base = folder.resolve(), str(Path(self.name).parent)
        for number, text, problem in self.texts():
            where = f"{self.name}:{number}"
            if not problem:
                try:
                    yield listed_row(root, base, where, self.name, parse(text, "line"))
                    continue
                except ValueError as error:
                    problem = str(error).removeprefix("line: ")
            yield Found(where, self.name, problem=problem)

    def texts(self) -> Iterator[tuple[int, bytes, str]]:
        """(number, bytes, problem) of its lines that are not blank."""
        with (Path(self.folder) / self.name).open("rb") as file:
            file.seek(self.offset)
            number, end = self.first, self.offset + self.size
            while (at := file.tell()) < end and (text := file.readline(min(MAX_LINE, end - at))):
                size = len(text)
                while not text.endswith(b"\n") and file.tell() < end:
                    # told, and not held: the rest of a line that is too long
                    size += len(piece := file.readline(min(MAX_LINE, end - file.tell())))
                    text = piece[-1:] if piece else b"\n"
                if size > MAX_LINE:
                    yield number, b"", f"a line of {size:,} bytes ({MAX_LINE:,} at most)"
                elif text.strip():
                    yield number, without_bom(text, at), ""
                number += 1


@dataclass(frozen=True)
class TalkUnit:
    """Some lines of conversations, of which those are rows that ask for a picture and get one."""

    lines: LinesUnit
    media: str
    drawn: bool
    """Whether the list of data sets says that its pictures are drawn ones."""

    @property
    def key(self) -> str:
        return _key(Path(self.lines.folder), (self.lines.name,), self.lines.key, self.media, str(self.drawn))

    def read(self, store: Path) -> Iterator[Place]:
        yield from _placed(self.media, self.lines.name, self._found())

    def _found(self) -> Iterator[Found]:
        for number, text, problem in self.lines.texts():
            where = f"{self.lines.name}:{number}"
            try:
                if problem:
                    raise ValueError(problem)
                yield self._pair(where, parse(text, "line"))
            except ValueError as error:
                yield Found(where, self.lines.name, problem=str(error).removeprefix(f"{where}: "))

    def _pair(self, where: str, line: object) -> Found:
        from diptych.data.conversations.readers import names_in, told_in
        from diptych.request import MARK

        if not self.drawn:
            raise ValueError("of a data set whose pictures are not drawn ones")
        told = told_in(line, where)
        assert isinstance(line, dict)
        names = names_in(line, "image", where)
        asked = [value for role, value in told if role == "user"]
        said = "".join(value for role, value in told if role == "assistant")
        if len(names) != 1 or MARK not in said or any(MARK in value for value in asked):
            raise ValueError("no single picture that is drawn from words alone")
        path = inside(Path(self.media).resolve(), names[0])
        caption = " ".join(asked).strip()
        if len(caption) > MAX_TEXT:
            raise ValueError(f"a caption of {len(caption):,} characters ({MAX_TEXT:,} at most)")
        captions = (caption,) if caption else ()
        return Found(names[0], names[0], size=path.stat().st_size, captions=captions)


@dataclass(frozen=True)
class TableUnit:
    """A metadata.csv: rows end where their quotes do, so it cannot be cut at its lines."""

    folder: str
    name: str

    @property
    def key(self) -> str:
        return _key(Path(self.folder), (self.name,))

    def read(self, store: Path) -> Iterator[Place]:
        yield from _placed(self.folder, self.name, self._found())

    def _found(self) -> Iterator[Found]:
        folder = Path(self.folder)
        root, base = folder.resolve(), str(Path(self.name).parent)
        try:
            for number, row, problem in csv_rows(folder / self.name):
                where = f"{self.name}:{number}"
                if problem:
                    yield Found(where, self.name, problem=problem)
                else:
                    yield listed_row(root, base, where, self.name, row)
        except (OSError, ValueError) as error:
            yield Found(self.name, self.name, problem=f"cannot be read further ({error})")


@dataclass(frozen=True)
class PicturesUnit:
    """Some pictures of a folder, with the text files of their names, and texts without a picture."""

    folder: str
    names: tuple[str, ...]
    texts: tuple[str, ...]
    problems: tuple[Found, ...] = ()

    @property
    def key(self) -> str:
        told = (f"{found.id}\0{found.problem}" for found in self.problems)
        return _key(Path(self.folder), (*self.names, *self.texts), *told)

    def read(self, store: Path) -> Iterator[Place]:
        folder = Path(self.folder)
        for name in self.names:
            try:
                found = sidecar(folder, name, self.texts)
            except OSError as error:
                found = Found(name, name, problem=f"the file cannot be read ({error.strerror})")
            yield from _placed(self.folder, str(Path(name).parent), (found,))
        yield from _placed(self.folder, ".", self.problems)


class FolderSource:
    """Everything in a folder: shards, listings, and pictures that no listing names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def units(self) -> list[Unit]:
        """Raises ValueError for a folder with nothing of use in it."""
        names, problems = names_below(self.folder)
        known = set(names)
        where = str(self.folder)
        work: list[Unit] = []
        listed: list[np.ndarray] = []
        for name in names:
            if name.endswith(".tar"):
                work.append(ShardUnit(where, name, tuple(sidecars_of(name, names))))
            elif name.endswith(".jsonl"):
                listed.append(_listed(self.folder, name, jsonl_rows(self.folder / name)))
                work += cut_lines(self.folder, name)
            elif name.endswith("metadata.csv"):
                listed.append(_listed(self.folder, name, csv_rows(self.folder / name)))
                work.append(TableUnit(where, name))
        told = np.unique(np.concatenate(listed)) if listed else np.zeros(0, np.uint64)
        pictures = [name for name in names if name.lower().endswith(PICTURES)]
        stems = {str(Path(name).with_suffix("")) for name in pictures}
        lonely = [
            Found(name, name, problem="a caption without a picture")
            for name in names
            if name.endswith(".txt") and name.removesuffix(".txt") not in stems
        ]
        if len(told):
            pictures = [name for name in pictures if not _among(told, _mark(name))]
        for start in range(0, len(pictures), LINES):
            part = tuple(pictures[start : start + LINES])
            texts = tuple(sorted({str(Path(name).with_suffix(".txt")) for name in part} & known))
            work.append(PicturesUnit(where, part, texts))
        wrong = problems + lonely
        work += [
            PicturesUnit(where, (), (), tuple(wrong[at : at + LINES])) for at in range(0, len(wrong), LINES)
        ]
        if not work:
            raise ValueError(f"{self.folder} holds no pictures, no JSONL and no tar shards")
        return work


class ListSource:
    """A JSONL file; pictures are looked up from its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def units(self) -> list[Unit]:
        """Raises ValueError for a file without lines."""
        work: list[Unit] = list(cut_lines(self.path.parent, self.path.name))
        if not work:
            raise ValueError(f"{self.path} has no lines")
        return work


class MetaSource:
    """A JSON object of data sets by name, each with a folder and lines of conversations."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def units(self) -> list[Unit]:
        """Raises ValueError for a list that names what is not there, and for one without a line."""
        from diptych.data.conversations.meta import read_meta

        work: list[Unit] = [
            TalkUnit(lines, str(found.root), found.task == "generate")
            for found in read_meta(self.path)
            for lines in cut_lines(found.annotation.parent, found.annotation.name)
        ]
        if not work:
            raise ValueError(f"{self.path} names no data set that has a line")
        return work


def cut_lines(folder: Path, name: str) -> Iterator[LinesUnit]:
    """A JSONL file in pieces of LINES lines."""
    first, begin, at, number = 1, 0, 0, 0
    regular(folder / name)
    with (folder / name).open("rb") as file:
        for number, text in enumerate(_ends(file), 1):
            at += text
            if number % LINES == 0:
                yield LinesUnit(str(folder), name, first, begin, at - begin)
                first, begin = number + 1, at
    if at > begin:
        yield LinesUnit(str(folder), name, first, begin, at - begin)


def _ends(file: Any) -> Iterator[int]:
    """Bytes of each line, however long."""
    size = 0
    while piece := file.readline(MAX_LINE):
        size += len(piece)
        if piece.endswith(b"\n"):
            yield size
            size = 0
    if size:
        yield size


def _listed(folder: Path, name: str, rows: Iterable[tuple[int, Any, str]]) -> np.ndarray:
    """Marks of the pictures that a listing names, sorted; eight bytes each, as there may be millions."""
    base = str(Path(name).parent)
    marks: list[np.ndarray] = []
    try:
        while part := list(itertools.islice(rows, 65536)):
            found = (
                next((row[key] for key in PICTURE_KEYS if isinstance(row.get(key), str)), None)
                for _, row, problem in part
                if not problem and isinstance(row, dict)
            )
            marks.append(
                np.array([_mark(os.path.normpath(f"{base}/{n}")) for n in found if n], dtype=np.uint64)
            )
    # the unit that reads it says so
    except (OSError, ValueError):
        pass
    return np.concatenate(marks) if marks else np.zeros(0, np.uint64)


def _mark(name: str) -> np.uint64:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest))


def _among(marks: np.ndarray, mark: np.uint64) -> bool:
    at = int(np.searchsorted(marks, mark))
    return at < len(marks) and marks[at] == mark


def _placed(folder: str, source: str, found: Iterable[Found]) -> Iterator[Place]:
    for one in found:
        if one.problem:
            yield Place(printable(one.id), source, problem=one.problem)
        else:
            path = os.path.abspath(os.path.join(folder, one.file))
            yield Place(one.id, source, path, one.offset, one.size, one.captions, one.scores)


def _key(folder: Path, names: Iterable[str], *more: str) -> str:
    """Of a unit: its files by name, size and time, and what else belongs to it. Raises ValueError for a file
    that went."""
    digest = hashlib.sha256(str(folder.absolute()).encode())
    for name in names:
        try:
            found = (folder / name).stat()
        except OSError as error:
            raise ValueError(f"{shortened(str(folder / name))}: {(error.strerror or '').lower()}") from error
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    for text in more:
        digest.update(f"{text}\0".encode())
    return digest.hexdigest()[:24]
