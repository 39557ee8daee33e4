"""Lists of addresses as a source: each unit's pictures are fetched once, into a tar of their own."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.curation.address import AddressError, FetchLimits, fetch
from diptych.curation.read import LINES, LinesUnit, Place, Unit, cut_lines
from diptych.data.captioned.layouts import captions_in
from diptych.data.foreign import MAX_TEXT, printable, shortened
from diptych.files.typed import convert, parse, to_json
from diptych.files.whole import whole

URLS = ("url", "URL", "image_url")
CAPTIONS = ("captions", "caption", "text", "prompt", "TEXT", "scores")
CONNECTIONS = 16
"""Addresses that one worker asks at a time."""
_TOLD = "told.json"


class AddressSource:
    """A Parquet or JSONL file with an address and captions a row."""

    def __init__(self, path: Path, limits: FetchLimits | None = None) -> None:
        self.path, self.limits = path, limits or FetchLimits()

    def units(self) -> list[Unit]:
        """Raises ValueError for a file without addresses, and for one that is no Parquet file."""
        if self.path.suffix.lower() != ".parquet":
            rows: list[Any] = list(cut_lines(self.path.parent, self.path.name))
        else:
            try:
                about = pq.read_metadata(self.path)
                names = pq.read_schema(self.path).names
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{self.path} is no whole Parquet file ({error})") from error
            if not set(URLS) & set(names):
                raise ValueError(
                    f"{self.path} has no column of addresses: one of {', '.join(URLS)} is needed, there are "
                    f"{', '.join(names[:20])}"
                )
            before, rows = 0, []
            for group in range(about.num_row_groups):
                count = about.row_group(group).num_rows
                for first in range(0, count, LINES):
                    rows.append(
                        GroupRows(str(self.path), group, first, min(LINES, count - first), before + first)
                    )
                before += count
        if not rows:
            raise ValueError(f"{self.path} has no rows")
        return [AddressUnit(str(self.path), part, self.limits) for part in rows]


@dataclass(frozen=True)
class GroupRows:
    """Some rows of one row group of a Parquet file."""

    path: str
    group: int
    first: int
    count: int
    number: int
    """Of its first row in the file."""

    @property
    def key(self) -> str:
        return f"{self.group} {self.first} {self.count}"

    def rows(self) -> Iterator[tuple[int, Any, str]]:
        """(number, values, problem), numbers from 1."""
        table = _group(self.path, self.group).slice(self.first, self.count)
        for at, row in enumerate(table.to_pylist(), self.number + 1):
            yield at, row, ""


# rows of one group follow one another: read once a worker, and not once a unit
@lru_cache(maxsize=1)
def _group(path: str, group: int) -> pa.Table:
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name in (*URLS, *CAPTIONS)]
        return file.read_row_group(group, columns=names, use_threads=False)


@dataclass(frozen=True)
class AddressUnit:
    """Some rows of a list, fetched together."""

    path: str
    part: GroupRows | LinesUnit
    limits: FetchLimits

    @property
    def key(self) -> str:
        found = Path(self.path).stat()
        told = (
            f"{Path(self.path).absolute()} {found.st_size} {found.st_mtime_ns} {self.part.key} {self.limits}"
        )
        return hashlib.sha256(told.encode()).hexdigest()[:24]

    def read(self, store: Path) -> Iterator[Place]:
        """What was fetched before is kept; what failed and may have come back is asked for once more."""
        store.mkdir(parents=True, exist_ok=True)
        path = store / f"{self.key}.tar"
        wanted = {number: (row, problem) for number, row, problem in self._rows()}
        before, places = _fetched(path)
        urls = {n: _address(row) for n, (row, problem) in wanted.items() if not problem}
        left = {n: url for n, url in urls.items() if url and n not in places and not _final(before.get(n))}
        if left or not path.is_file():
            _fetch_all(path, left, places, before, self.limits)
            before, places = _fetched(path)
        name = Path(self.path).name
        for number, (row, problem) in wanted.items():
            label = f"{name}:{number}"
            if not problem and not urls[number]:
                problem = f"no address: one of {', '.join(URLS)} is needed"
            if not problem and number in before:
                problem = f"{before[number][0]} ({shortened(urls[number])})"
            texts: tuple[str, ...] = ()
            if not problem:
                try:
                    texts, scores = captions_in(_named(row))
                    if max(map(len, texts), default=0) > MAX_TEXT:
                        problem = f"a caption of more than {MAX_TEXT:,} characters"
                except ValueError as error:
                    problem = f"a row {error}"
            if problem:
                yield Place(label, name, problem=printable(problem))
            else:
                offset, size = places[number]
                yield Place(label, name, str(path.absolute()), offset, size, texts, scores)

    def _rows(self) -> Iterator[tuple[int, Any, str]]:
        if isinstance(self.part, GroupRows):
            yield from self.part.rows()
            return
        for number, text, problem in self.part.texts():
            try:
                yield number, None if problem else parse(text, "line"), problem
            except ValueError as error:
                yield number, None, str(error).removeprefix("line: ")


def _address(row: Any) -> str:
    values = (row.get(key) for key in URLS) if isinstance(row, dict) else ()
    return next((value for value in values if isinstance(value, str) and value), "")


def _named(row: dict[str, Any]) -> dict[str, Any]:
    # as published lists of addresses call their captions
    return {**row, "text": row["TEXT"]} if "TEXT" in row and "text" not in row else row


def _final(told: Sequence[Any] | None) -> bool:
    """Whether a failure will be the same another time."""
    return told is not None and not told[1]


def _fetched(path: Path) -> tuple[dict[int, tuple[str, bool]], dict[int, tuple[int, int]]]:
    """What a unit's tar says of each row: (reason, whether it may pass) of failures, (offset, size) of
    pictures."""
    if not path.is_file():
        return {}, {}
    places, failures = {}, {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.name == _TOLD:
                handle = tar.extractfile(member)
                assert handle is not None
                told = convert(dict[str, tuple[str, bool]], parse(handle.read(), str(path)), str(path))
                failures = {int(number): reason for number, reason in told.items()}
            else:
                places[int(member.name)] = (member.offset_data, member.size)
    return failures, places


def _fetch_all(
    path: Path,
    urls: Mapping[int, str],
    have: Mapping[int, tuple[int, int]],
    before: Mapping[int, tuple[str, bool]],
    limits: FetchLimits,
) -> None:
    """The unit's tar with what was there and what came now, in the order of the rows."""
    # on disk, as a thousand pictures need not fit into memory; of one name, so that what a kill left goes
    aside = path.with_name(f".{path.stem}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    failures = dict(before)

    def one(number: int) -> None:
        failures.pop(number, None)
        try:
            (aside / str(number)).write_bytes(fetch(urls[number], limits))
        except AddressError as error:
            failures[number] = (str(error), error.passing)

    try:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(one, urls))
        with whole(path) as made, tarfile.open(made, "w:", format=tarfile.USTAR_FORMAT) as tar:
            for number in sorted({*have, *urls} - set(failures)):
                if number in have:
                    offset, size = have[number]
                    with path.open("rb") as file:
                        file.seek(offset)
                        _add(tar, str(number), file.read(size))
                else:
                    _add(tar, str(number), (aside / str(number)).read_bytes())
            _add(tar, _TOLD, to_json({str(n): failures[n] for n in sorted(failures)}).encode())
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
