"""All rows of a run, column by column: read from what stages left, or from the table that joined it
before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.curation.plan import Plan
from diptych.curation.stage import Stage, WholeStage
from diptych.curation.table import (
    DONE,
    ERROR,
    ROWS,
    digests_in,
    is_scalar,
    numbers,
    read_rows,
    stage_schema,
    texts_in,
    vectors_in,
)

JOINED = b"diptych_curation"
"""Key in the metadata of the decision table: the hash of what its scores depend on."""
GROUP = 64
"""Shards that are joined at a time."""


class RunView:
    """Columns are loaded when they are asked for, those of one stage together; `forget` lets them go."""

    def __init__(self, plan: Plan, joined: Path | None = None) -> None:
        """`joined`: a decision table, used where it was made from the same scores."""
        self.plan = plan
        self._count = len(plan)
        self.alive = np.ones(self._count, dtype=bool)
        self.derived: dict[str, np.ndarray] = {}
        """What stages' judgements gave, by full name."""
        self._tables: dict[str, pa.Table] = {}
        self._joined = joined if joined is not None and _made_from(joined) == plan.joined else None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.derived:
            return self.derived[name]
        return numbers(self._column(name))

    def strings(self, name: str) -> np.ndarray:
        if name in self.derived:
            return self.derived[name]
        return texts_in(self._column(name))

    def digests(self, name: str) -> np.ndarray:
        return digests_in(self._column(name))

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        column = self._column(name).combine_chunks()
        lengths = column.value_lengths().fill_null(0).to_numpy()
        return np.concatenate([[0], np.cumsum(lengths)]), column.flatten().to_numpy()

    def vectors(self, name: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        stage = self._stage(name)
        short = name.rpartition(".")[2]
        for number, shard in enumerate(self.plan.shards):
            table = pq.read_table(self.plan.path(stage, shard), columns=[short], use_threads=False)
            yield self.plan.starts[number], *vectors_in(table.column(0))

    def errors(self, stage: Stage) -> np.ndarray:
        """Why rows failed at a stage, as objects; '' for those that did not."""
        return texts_in(self._column(f"{stage.name}.{ERROR}"))

    def computed(self, stage: Stage) -> np.ndarray:
        return numbers(self._column(f"{stage.name}.{DONE}"))

    def forget(self) -> None:
        self._tables.clear()

    def _stage(self, name: str) -> Stage:
        return self.plan.stage(name.rpartition(".")[0])

    def _column(self, name: str) -> pa.ChunkedArray:
        owner, _, short = name.rpartition(".")
        if not owner:
            return self._rows(short).column(short)
        if owner not in [stage.name for stage in self.plan.stages]:
            raise ValueError(f"there is no column {name!r}: the recipe has no stage that gives it")
        stage = self.plan.stage(owner)
        table = self._whole(stage)
        if short in table.column_names:
            return table.column(short)
        if short not in stage.gives():
            raise ValueError(f"there is no column {name!r}: {owner} gives {', '.join(stage.gives())}")
        # lists and bytes are many times as large as scores: read when they are asked for, and not kept
        shards = [None] if isinstance(stage, WholeStage) else self.plan.shards
        paths = [self.plan.path(stage, shard) for shard in shards]
        return pa.concat_tables(
            [pq.read_table(path, columns=[short], use_threads=False) for path in paths]
        ).column(0)

    def _rows(self, name: str) -> pa.Table:
        if self._joined is not None:
            return pq.read_table(self._joined, columns=[name], use_threads=False)
        parts = [read_rows(self.plan.out, shard, [name]) for shard in self.plan.shards]
        return pa.concat_tables(parts) if parts else ROWS.empty_table().select([name])

    def _load(self, stage: Stage) -> pa.Table:
        schema = scalars(stage)
        if self._joined is not None:
            names = [f"{stage.name}.{name}" for name in schema.names]
            return pq.read_table(self._joined, columns=names, use_threads=False).rename_columns(schema.names)
        if isinstance(stage, WholeStage):
            return pq.read_table(self.plan.path(stage, None), columns=schema.names, use_threads=False)
        parts = [
            pq.read_table(self.plan.path(stage, shard), columns=schema.names, use_threads=False)
            for shard in self.plan.shards
        ]
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def _whole(self, stage: Stage) -> pa.Table:
        if stage.name not in self._tables:
            self._tables[stage.name] = self._load(stage)
        return self._tables[stage.name]

    def joined(self) -> Iterator[tuple[int, pa.Table]]:
        """(first row, table) of everything that is no vector and no list, some shards at a time."""
        shards, starts = self.plan.shards, self.plan.starts
        old = pq.ParquetFile(self._joined) if self._joined is not None else None
        names = list(joined_schema(self.plan.stages).names)
        at = 0
        for group, first in enumerate(range(0, len(shards), GROUP)):
            if old is not None:
                table = old.read_row_group(group, columns=names, use_threads=False).select(names)
            else:
                table = pa.concat_tables(
                    [self._shard(n) for n in range(first, min(first + GROUP, len(shards)))]
                )
            assert at == starts[first]
            yield at, table
            at += table.num_rows

    def part(self, name: str, first: int, count: int) -> pa.ChunkedArray:
        """A column of lists that a stage made, of whole shards: row `first` begins one."""
        stage, short, tables = self._stage(name), name.rpartition(".")[2], []
        for shard, start in zip(self.plan.shards, self.plan.starts, strict=True):
            if first <= start < first + count:
                tables.append(pq.read_table(self.plan.path(stage, shard), columns=[short], use_threads=False))
        return pa.concat_tables(tables).column(0)

    def _shard(self, number: int) -> pa.Table:
        shard = self.plan.shards[number]
        rows = read_rows(self.plan.out, shard)
        for stage in self.plan.stages:
            if not stage.gives():
                continue
            schema = scalars(stage)
            if isinstance(stage, WholeStage):
                table = self._whole(stage).slice(self.plan.starts[number], shard.count)
            else:
                table = pq.read_table(self.plan.path(stage, shard), columns=schema.names, use_threads=False)
            for name in schema.names:
                rows = rows.append_column(f"{stage.name}.{name}", table.column(name))
        return rows


def scalars(stage: Stage) -> pa.Schema:
    """Columns of a stage that belong in the decision table."""
    return pa.schema([field for field in stage_schema(stage.gives()) if is_scalar(field.type)])


def joined_schema(stages: Sequence[Stage]) -> pa.Schema:
    fields = list(ROWS)
    for stage in stages:
        if stage.gives():
            fields += [field.with_name(f"{stage.name}.{field.name}") for field in scalars(stage)]
    return pa.schema(fields)


def _made_from(path: Path) -> str:
    try:
        return (pq.read_schema(path).metadata or {}).get(JOINED, b"").decode()
    except (pa.ArrowException, OSError):
        return ""
