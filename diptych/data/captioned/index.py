"""An index of picture-caption pairs on disk: built once, with every picture decoded once, so that plans need
no picture at all.

One Parquet file holds a row a picture: where its bytes lie, its size, captions, scores and checksum. What
cannot be used has a row as well, with the reason. Layouts are read by `layouts.py`.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.contracts import BadSample
from diptych.data.captioned.layouts import Found, Unit, units
from diptych.data.clips import VIDEOS, open_clip
from diptych.data.foreign import MAX_TEXT, read_bytes, regular, shortened
from diptych.data.pictures import MAX_BYTES, MAX_SIDE, PictureError, Room, open_picture
from diptych.files.memory import give_memory_back
from diptych.files.whole import whole

INDEX = "diptych-index.parquet"
"""Name of the index inside the folder that it is about."""
VERSION = b"2"


@dataclass(frozen=True)
class Row:
    """One picture or clip, or what is wrong with one."""

    id: str
    """Its file, relative to the folder; for a shard's member, the shard and the member's key."""
    file: str
    offset: int
    size: int
    modified: int
    """Of the file, ns: an index whose files changed since is refused."""
    width: int
    height: int
    captions: tuple[str, ...]
    scores: tuple[float, ...]
    """One a caption, or none; NaN for a caption without one."""
    sha256: str
    problem: str
    """'' for a usable picture or clip."""

    @property
    def is_clip(self) -> bool:
        return self.file.lower().endswith(VIDEOS)


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("modified", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("captions", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("sha256", pa.string()),
        ("problem", pa.string()),
    ],
    metadata={b"diptych_index": VERSION},
)


def build(folder: Path, out: Path | None = None, progress: Callable[[int, int], None] | None = None) -> Path:
    """Index a folder of pictures and captions; returns the index's path.

    Parts are written aside as they finish, so a run that was stopped goes on; the index appears whole or not
    at all. Raises ValueError for a folder without anything to index.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    out = out or folder / INDEX
    _check_output(folder, out)
    aside = _parts(out)
    work = units(folder)
    if not work:
        raise ValueError(f"{folder} holds no pictures, no JSONL and no tar shards")
    aside.mkdir(parents=True, exist_ok=True)
    # each thread would else keep room for the largest picture that it has decoded
    give_memory_back()
    total = sum(unit.weight for unit in work)
    done = 0
    parts = []
    # threads are enough: Pillow lets go of the interpreter while it decodes
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for unit in work:
            # named by what it was made from, so a part is used again only while its files are as they were
            part = aside / f"{_key(folder, unit)}.parquet"
            if not part.is_file():
                rows = list(pool.map(lambda found: _examine(folder, found), unit.read(folder)))
                _write(rows, part)
            parts.append(part)
            done += unit.weight
            if progress is not None:
                progress(done, total)
    rows = [row for part in parts for row in _rows(pq.read_table(part))]
    _write(_without_duplicates(rows), out)
    # parts alone: the folder may have been somebody's before
    for part in aside.iterdir():
        if re.fullmatch(r"[0-9a-f]{24}\.parquet", part.name):
            part.unlink()
    if not any(aside.iterdir()):
        aside.rmdir()
    return out


def _check_output(folder: Path, out: Path) -> None:
    """Raises ValueError where an index cannot lie, or something else would be lost."""
    if out.parent.resolve() != folder.resolve():
        raise ValueError(f"{out}: an index lies in the folder that it is about: {folder / out.name}")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; an index is a file, such as {folder / INDEX}")
    if (parts := _parts(out)).is_symlink():
        raise ValueError(f"{parts} is a link, which may lead out of the folder: remove it")
    # a damaged file of our own name is replaced
    if os.path.lexists(out) and out.name != INDEX and not _is_index(out):
        raise ValueError(f"{out} is there already and is no index: give another name")


def _parts(out: Path) -> Path:
    """Where the parts of an index lie until it is whole."""
    return out.with_name(out.name + ".parts")


def _is_index(path: Path) -> bool:
    try:
        return b"diptych_index" in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


_files = Room(MAX_BYTES)
"""Bytes of picture files that all threads hold at one time."""
_NOTHING = hashlib.sha256(b"").hexdigest()[:24]


def _examine(folder: Path, found: Found) -> Row:
    """Decode one picture or clip and make its row."""
    path = folder / found.file
    place: dict[str, Any] = {"id": found.id, "file": found.file, "offset": found.offset, "size": found.size}
    if found.problem or not path.is_file():
        return Row(
            **place,
            modified=0,
            width=0,
            height=0,
            captions=(),
            scores=(),
            sha256="",
            problem=found.problem or "the file is gone",
        )
    width = height = 0
    sha = _NOTHING
    try:
        if found.size > MAX_BYTES:
            raise PictureError(f"the picture has {found.size:,} bytes ({MAX_BYTES:,} at most)")
        with _files.taken(found.size):
            data = read_bytes(path, found.offset, found.size)
            # of the bytes as they lie: a picture saved anew counts as another one
            sha = hashlib.sha256(data).hexdigest()[:24]
            # decoded whole, not only its header: a file that is cut short is found now and not in the middle
            # of a run
            if found.file.lower().endswith(VIDEOS):
                frames = open_clip(path, 2).frames
                height, width = frames.shape[1:3]
                if len(frames) == 1:
                    raise PictureError("the clip shows a single picture")
            else:
                height, width = open_picture(data, found.id).shape[:2]
        problem = "" if found.captions else "no caption"
    except PictureError as error:
        problem = str(error).removeprefix(f"{found.id}: ").removeprefix(f"{path}: ")
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror})"
    if not found.size:
        problem = "the file is empty"
    modified = path.stat().st_mtime_ns
    return Row(
        **place,
        modified=modified,
        width=width,
        height=height,
        captions=found.captions,
        scores=found.scores,
        sha256=sha,
        problem=problem,
    )


def _without_duplicates(rows: Iterable[Row]) -> list[Row]:
    """Rows in order of their ids; the second and later pictures of the same bytes are named as duplicates."""
    first: dict[str, str] = {}
    kept = []
    for row in sorted(rows, key=lambda row: row.id):
        same = first.setdefault(row.sha256, row.id) if row.sha256 and not row.problem else row.id
        kept.append(row if same == row.id else replace(row, problem=f"the same bytes as {same}"))
    return kept


def _key(folder: Path, unit: Unit) -> str:
    digest = hashlib.sha256(VERSION)
    for name in unit.files:
        stat = (folder / name).stat()
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    # and by what was found: two parts of one listing's problems depend on the same file
    for found in unit.found:
        digest.update(f"{found}\0".encode())
    return digest.hexdigest()[:24]


def _write(rows: Sequence[Row], path: Path) -> None:
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    with whole(path) as aside:
        pq.write_table(pa.table(columns, schema=SCHEMA), aside)


def _rows(table: pa.Table) -> list[Row]:
    columns = [_values(table.column(name)) for name in table.column_names]
    return [Row(**dict(zip(table.column_names, row, strict=True))) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Values of a column, lists as tuples. Texts that are written once are held once, however many rows have
    them."""
    found: list[Any] = []
    for chunk in column.chunks:
        listed = pa.types.is_list(chunk.type)
        values = chunk.flatten() if listed else chunk
        if pa.types.is_dictionary(values.type):
            texts = values.dictionary.to_pylist()
            plain = [None if place is None else texts[place] for place in values.indices.to_pylist()]
        else:
            plain = values.to_pylist()
        if listed:
            each = iter(plain)
            plain = [tuple(islice(each, count)) for count in pc.list_value_length(chunk).to_pylist()]
        found += plain
    return found


def _fault(row: Row) -> str:
    """What no usable row of ours has, or ''."""
    if not (1 <= row.width <= MAX_SIDE and 1 <= row.height <= MAX_SIDE):
        return f"has a size of {row.width}x{row.height} px"
    if row.offset < 0 or not 0 < row.size <= MAX_BYTES:
        return f"lies at byte {row.offset} with {row.size} bytes"
    if not row.captions or None in row.captions or max(map(len, row.captions)) > MAX_TEXT:
        return "has no caption, or one that is too long"
    if (
        None in row.scores
        or len(row.scores) not in (0, len(row.captions))
        or math.inf in map(abs, row.scores)
    ):
        return "has other scores than captions"
    return "" if re.fullmatch("[0-9a-f]{24}", row.sha256) else "has no checksum"


def _read(path: Path) -> pa.Table:
    """The table of an index, its texts still as numbers of the texts that they repeat. Raises ValueError for
    one that is small on disk and would be huge in memory."""
    size = regular(path)
    most = max(UNPACKED, RATIO * size)
    with pq.ParquetFile(path, read_dictionary=_TEXTS) as file:
        about = file.metadata
        # a row holds a checksum at least; what claims more rows than bytes would fill the memory
        if about.num_rows > size:
            raise ValueError(f"{about.num_rows:,} rows in {size:,} bytes")
        columns = [
            about.row_group(group).column(number)
            for group in range(about.num_row_groups)
            for number in range(about.num_columns)
        ]
        # what its pages unpack to, with the numbers and objects that each value is held by
        declared = sum(column.total_uncompressed_size + 16 * column.num_values for column in columns)
        if declared > most:
            raise ValueError(f"{size:,} bytes unpack to {declared:,}, and at most {most:,} are read")
        table = file.read()
    texts = [table.column(name) for name in table.column_names]
    told = sum(_letters(column) for column in texts)
    if told > TEXT:
        raise ValueError(f"it repeats {told:,} bytes of text, and at most {TEXT:,} are read")
    return table


UNPACKED, RATIO = 2**28, 32
"""Bytes that an index may take in memory however small it is on disk, and how many for each byte there: what
is written here packs repeated texts by 22 at most."""
TEXT = 2**33
"""Bytes of its texts, each as often as it stands there: they are held once, and read in every run."""
_TEXTS = [
    f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
    for field in SCHEMA
    if field.type in (pa.string(), pa.list_(pa.string()))
]


def _letters(column: pa.ChunkedArray) -> int:
    """Bytes of the texts of a column, each as often as it stands there."""
    total = 0
    for chunk in column.chunks:
        values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        if pa.types.is_dictionary(values.type):
            lengths = pc.binary_length(values.dictionary)
            total += pc.sum(pc.take(lengths, values.indices)).as_py() or 0
    return total


class Index:
    """An index opened for training: its usable pictures in `rows`, its clips and its problems apart.

    Raises ValueError for a file that is no index, one of another version, and one whose pictures changed
    since.
    """

    def __init__(self, path: Path) -> None:
        path = path / INDEX if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"{path}: there is no index; make one with: diptych data index {path.parent}")
        again = f"make it again with: diptych data index {path.parent}"
        try:
            schema = pq.read_schema(path)
            if (schema.metadata or {}).get(b"diptych_index") != VERSION:
                raise ValueError("it is of another version, or of something else")
            if not schema.equals(SCHEMA):
                raise ValueError("it has other columns than an index")
            table = _read(path)
            if any(column.null_count for column in table.columns):
                raise ValueError("it has values that are missing")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{path} is no whole index ({error}); {again}") from error
        self.path, self.folder = path, path.parent
        rows = _rows(table)
        self.rows = [row for row in rows if not row.problem and not row.is_clip]
        self.clips = [row for row in rows if not row.problem and row.is_clip]
        self.problems = [row for row in rows if row.problem]
        self._check()

    def _check(self) -> None:
        """What an index of ours always is: others may have made or changed the file."""
        root, changed = self.folder.resolve(), []
        for row in (*self.rows, *self.clips):
            if fault := _fault(row):
                raise ValueError(f"{self.path}: {shortened(row.id)} {fault}")
        resolved = cache(Path.resolve)
        for name, modified in {row.file: row.modified for row in (*self.rows, *self.clips)}.items():
            file = self.folder / name
            try:
                # its folder once for all files in it; a link by itself
                real = file.resolve() if file.is_symlink() else resolved(file.parent) / file.name
                there = file.is_file() and file.stat().st_mtime_ns == modified
            except (OSError, RuntimeError, ValueError):
                raise ValueError(f"{self.path}: {shortened(name)} is no name of a file") from None
            if not real.is_relative_to(root) or file.name == "..":
                raise ValueError(f"{self.path}: {shortened(name)} lies outside {self.folder}")
            if not there:
                changed.append(name)
        if changed:
            raise ValueError(
                f"{self.path}: {len(changed)} files changed or went since it was made (first: "
                f"{changed[0]}); make it again with: "
                f"diptych data index {self.folder}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def sizes(self) -> np.ndarray:
        """(N, 2): width and height of every usable picture."""
        return np.array([(row.width, row.height) for row in self.rows], dtype=np.int64).reshape(-1, 2)

    def picture(self, number: int) -> np.ndarray:
        """Pixels of a usable picture. Raises BadSample with its id where it cannot be read any more."""
        row = self.rows[number]
        try:
            return open_picture(read_bytes(self.folder / row.file, row.offset, row.size), row.id)
        except (PictureError, OSError) as error:
            raise BadSample(f"{row.id}: {error}") from error
