"""What a worker does: pure functions of their files, each result written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.curation.decode import CHANGED, Seen, bytes_of
from diptych.curation.read import Drawn, Place, Unit
from diptych.curation.stage import BATCH, Batch, RowError, Shared, Stage, StopRun
from diptych.curation.table import (
    DONE,
    ERROR,
    ROWS,
    Shard,
    as_arrow,
    batches,
    read_rows,
    rows_path,
    shards_of,
    stage_schema,
    write_table,
)
from diptych.data.pictures import MAX_BYTES

AGAIN = ".again"
"""Ending of the mark beside a stage's file in which something is to be tried once more by a later run."""
DIED = "the process that looked at it died"
Tell = Callable[[int | None], Any]


@dataclass(frozen=True)
class Done:
    """What a task leaves besides its files."""

    rows: int
    failed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage; of `decode` for reading and decoding."""
    shards: tuple[Shard, ...] = ()
    """Of a unit that was read."""
    made: Any = None


class Task(Protocol):
    def run(self, shared: Shared, tell: Tell) -> Done:
        """`tell` says which row is begun, where the task was asked to be careful."""
        ...


def carry_out(task: Task, shared: Shared, tell: Tell = lambda row: None) -> Done:
    return task.run(shared, tell)


@dataclass(frozen=True)
class ReadTask:
    """One unit of a source -> its rows, each with the hash of its bytes."""

    out: Path
    unit: Unit
    key: str

    def run(self, shared: Shared, tell: Tell) -> Done:
        path = rows_path(self.out, self.key)
        if path.is_file() and (shards := _unchanged(path)) is not None:
            return Done(sum(shard.count for shard in shards), shards=shards)
        started = time.perf_counter()
        store = self.out / "fetched"
        places = self.unit.draw(store, shared) if isinstance(self.unit, Drawn) else self.unit.read(store)
        rows = [_row(place) for place in places]
        columns = {name: [row[name] for row in rows] for name in ROWS.names}
        table = pa.table(columns, schema=ROWS)
        shards = tuple(shards_of(self.key, table))
        told = json.dumps([[shard.start, shard.count, shard.content] for shard in shards])
        write_table(table.replace_schema_metadata({"shards": told}), path)
        failed = sum(bool(row["problem"]) for row in rows)
        return Done(len(rows), failed, {"read": time.perf_counter() - started}, shards)


def _unchanged(path: Path) -> tuple[Shard, ...] | None:
    """The shards of rows that were read before, while everything lies as it lay then. None where a file
    changed, and where something could not be read: it may be there now."""
    table = pq.read_table(path, columns=["file", "modified", "problem"], use_threads=False)
    before: dict[str, int] = {}
    for file, modified, problem in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if problem:
            return None
        before[file] = modified
    try:
        if any(os.stat(file).st_mtime_ns != modified for file, modified in before.items()):
            return None
    except OSError:
        return None
    told = json.loads(table.schema.metadata[b"shards"])
    return tuple(Shard(path.stem, *one) for one in told)


def _row(place: Place) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(place, name, None) for name in ROWS.names}
    row |= {"modified": 0, "sha256": None}
    if place.problem:
        return row
    try:
        with open(place.file, "rb") as file:
            row["modified"] = os.fstat(file.fileno()).st_mtime_ns
            if place.size > MAX_BYTES:
                raise RowError(f"the picture has {place.size:,} bytes ({MAX_BYTES:,} at most)")
            file.seek(place.offset)
            data = file.read(place.size)
        if len(data) < place.size:
            raise RowError("the file ends before the picture does")
        if not data:
            raise RowError("the file is empty")
        row["sha256"] = sha256(data).digest()
    except RowError as error:
        row["problem"] = str(error)
    except OSError as error:
        row["problem"] = f"the file cannot be read ({error.strerror})"
    return row


@dataclass(frozen=True)
class Part:
    """One stage in the pass over a shard."""

    stage: Stage
    path: Path
    rows: np.ndarray | None = None
    """bool: the rows that a costly stage is asked for; None for all."""


@dataclass(frozen=True)
class Column:
    """Where a column of an earlier stage lies for a shard."""

    path: Path
    column: str
    start: int = 0


@dataclass(frozen=True)
class PassTask:
    """One shard, and all stages that are to be computed of it: every picture is read and decoded once."""

    out: Path
    shard: Shard
    parts: tuple[Part, ...]
    have: Mapping[str, Column]
    careful: bool = False
    """Telling which row is decoded: one may have killed a worker."""
    deadly: frozenset[int] = frozenset()

    def run(self, shared: Shared, tell: Tell) -> Done:
        rows = read_rows(self.out, self.shard)
        columns = {name: rows.column(name).to_pylist() for name in ROWS.names}
        for name, place in self.have.items():
            table = pq.read_table(place.path, columns=[place.column], use_threads=False)
            columns[name] = table.column(0).slice(place.start, self.shard.count).to_pylist()
        runs = [_Running(part, self.shard.count, shared) for part in self.parts]
        for run in runs:
            columns |= run.values
        seconds = {run.stage.name: 0.0 for run in runs} | {"decode": 0.0}
        for part in batches(self.shard.count, BATCH):
            members = [row for row in range(part.start, part.stop) if not columns["problem"][row]]
            self._look(runs, members, columns, seconds, tell if self.careful else lambda row: None)
            for run in runs:
                started = time.perf_counter()
                run.compute(members, columns)
                seconds[run.stage.name] += time.perf_counter() - started
        for run in runs:
            run.write()
        return Done(self.shard.count, sum(run.failed for run in runs), seconds)

    def _look(
        self,
        runs: Sequence[_Running],
        members: Sequence[int],
        columns: Any,
        seconds: dict[str, float],
        tell: Tell,
    ) -> None:
        looking = [run for run in runs if run.stage.look is not None]
        for row in members:
            asking = [run for run in looking if run.wanted[row]]
            if not asking:
                continue
            tell(row)
            started = time.perf_counter()
            try:
                if row in self.deadly:
                    raise RowError(DIED)
                place = (columns[name][row] for name in ("file", "offset", "size", "modified"))
                seen = Seen(bytes_of(*place), columns["id"][row])
            except Exception as error:
                for run in asking:
                    run.fail(row, _reason(error), again=str(error) in (CHANGED, DIED))
                continue
            finally:
                seconds["decode"] += time.perf_counter() - started
            for run in asking:
                started = time.perf_counter()
                try:
                    assert run.stage.look is not None
                    run.looked[row] = run.stage.look(seen, run.loaded)
                except Exception as error:
                    run.fail(row, _reason(error))
                seconds[run.stage.name] += time.perf_counter() - started
        tell(None)

    def more_careful(self) -> PassTask:
        return replace(self, careful=True)

    def without(self, row: int) -> PassTask:
        """The same, but for a row that kills whoever looks at it."""
        return replace(self, careful=False, deadly=self.deadly | {row})


class _Running:
    """A stage while it is computed for one shard."""

    def __init__(self, part: Part, count: int, shared: Shared) -> None:
        self.stage, self.path = part.stage, part.path
        self.gives = part.stage.gives()
        self.values: dict[str, list[Any]] = {name: [None] * count for name in part.stage.columns()}
        self.errors, self.again = [""] * count, False
        self.wanted = np.ones(count, dtype=bool) if part.rows is None else part.rows.copy()
        self.done = np.zeros(count, dtype=bool)
        if part.rows is not None and self.path.is_file():
            self._take_over()
        self.looked: dict[int, Any] = {}
        self.loaded = part.stage.load(shared)

    @property
    def failed(self) -> int:
        return sum(map(bool, self.errors))

    def _take_over(self) -> None:
        """What an earlier run paid for."""
        table = pq.read_table(self.path, use_threads=False)
        self.done = np.array(table.column(DONE).to_pylist(), dtype=bool)
        # what is tried once more must not carry the reason of the last time
        told = zip(table.column(ERROR).to_pylist(), self.done, strict=True)
        self.errors = [error if done else "" for error, done in told]
        for name in self.gives:
            self.values[f"{self.stage.name}.{name}"][:] = table.column(name).to_pylist()
        self.wanted &= ~self.done

    def fail(self, row: int, reason: str, again: bool = False) -> None:
        self.errors[row], self.done[row] = reason, not again
        self.again |= again

    def compute(self, members: Sequence[int], columns: Mapping[str, list[Any]]) -> None:
        needs = self.stage.needs()
        rows = [
            row
            for row in members
            if self.wanted[row]
            and not self.errors[row]
            and all(columns[name][row] is not None for name in needs)
        ]
        self._safely(rows, columns)
        for row in rows:
            self.looked.pop(row, None)

    def _safely(self, rows: Sequence[int], columns: Mapping[str, list[Any]]) -> None:
        if not rows:
            return
        batch = Batch(
            [columns["id"][row] for row in rows],
            {name: [columns[name][row] for row in rows] for name in self.stage.needs()},
        )
        batch.looked = [self.looked.get(row) for row in rows]
        try:
            made = self.stage.compute(batch, self.loaded)
        except Exception as error:
            reason = _reason(error)
            if len(rows) == 1:
                self.fail(rows[0], reason)
                return
            # one row of them: each is tried alone, and has an outcome of its own
            for row in rows:
                self._safely([row], columns)
            return
        for name in self.gives:
            if name not in made or len(made[name]) != len(rows):
                raise StopRun(f"the stage {self.stage.name} must give one value a row for {name!r}")
        for at, row in enumerate(rows):
            if at in batch.failures:
                self.fail(row, *batch.failures[at])
                continue
            self.done[row] = True
            for name in self.gives:
                self.values[f"{self.stage.name}.{name}"][row] = made[name][at]

    def write(self) -> None:
        schema = stage_schema(self.gives)
        try:
            columns = [
                as_arrow(self.values[f"{self.stage.name}.{name}"], kind) for name, kind in self.gives.items()
            ]
        except ValueError as error:
            raise StopRun(f"the stage {self.stage.name} gave {error}") from error
        columns += [pa.array(self.errors, pa.string()), pa.array(self.done, pa.bool_())]
        mark = self.path.with_name(self.path.name + AGAIN)
        if self.again:
            mark.parent.mkdir(parents=True, exist_ok=True)
            # before the file: a kill between the two must not leave a failure that counts as final
            mark.touch()
        write_table(pa.table(columns, schema=schema), self.path)
        if not self.again:
            mark.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """What failed one row, in a line; what ends the whole run is raised on."""
    if isinstance(error, StopRun | MemoryError):
        raise error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise error
    said = " ".join(str(error).split())
    said = said if isinstance(error, RowError) else f"{type(error).__name__}: {said}"
    # places in memory are others in every run, and a reason is part of what must be equal to the byte
    said = re.sub(r" at 0x[0-9a-fA-F]+", "", said)
    return said if len(said) <= 300 else f"{said[:300]} ..."
