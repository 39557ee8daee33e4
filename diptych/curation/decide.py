"""From scores to decisions: what becomes of every row, by which stage, for which reason, with which score.

Pure and fast: columns and thresholds in, one outcome a row out. No picture is opened and no model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.curation.stage import Stage, WholeStage
from diptych.curation.view import JOINED, RunView, joined_schema
from diptych.files.whole import whole

KEPT, DROPPED, FAILED = "kept", "dropped", "failed"
READ = "read"
"""What reading the source is called among the stages."""
TOLD = 200
"""Reasons of one stage that are counted apart."""
DECIDED = [
    ("row", pa.int64()),
    ("outcome", pa.string()),
    ("stage", pa.string()),
    ("reason", pa.string()),
    ("score", pa.float64()),
    ("limit", pa.float64()),
]


@dataclass
class Count:
    """What one stage did to the rows that came to it. `rows` = kept + all of dropped + all of failed."""

    stage: str
    rows: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


@dataclass
class Decisions:
    """One outcome a row."""

    stage: np.ndarray
    """int16: number among `stages`; -1 for what is kept."""
    reason: np.ndarray
    """int32: number among `reasons`."""
    failed: np.ndarray
    score: np.ndarray
    limit: np.ndarray
    stages: list[str]
    reasons: list[str] = field(default_factory=lambda: [""])
    counts: list[Count] = field(default_factory=list)

    @property
    def kept(self) -> np.ndarray:
        return self.stage < 0

    def outcome(self, row: int) -> tuple[str, str, str]:
        """(kept, dropped or failed; stage; reason)."""
        if self.stage[row] < 0:
            return KEPT, "", ""
        kind = FAILED if self.failed[row] else DROPPED
        return kind, self.stages[self.stage[row]], self.reasons[self.reason[row]]


def decide(view: RunView, stages: Sequence[Stage] | None = None) -> Decisions:
    """What becomes of every row after these stages; all of the run's unless given. Leaves in `view` which
    rows are left, and what judgements derived."""
    count = len(view)
    stages = view.plan.stages if stages is None else stages
    view.alive, view.derived = np.ones(count, dtype=bool), {}
    made = Decisions(
        np.full(count, -1, np.int16),
        np.zeros(count, np.int32),
        np.zeros(count, bool),
        np.full(count, np.nan),
        np.full(count, np.nan),
        [READ, *(stage.name for stage in stages)],
    )
    numbers = {"": 0}

    def out(stage: int, rows: np.ndarray, reason: str, failed: bool, score: Any, limit: float | None) -> None:
        if rows.dtype == bool:
            rows = np.flatnonzero(rows & view.alive)
        if not len(rows):
            return
        view.alive[rows] = False
        if reason not in numbers:
            numbers[reason] = len(made.reasons)
            made.reasons.append(reason)
        made.stage[rows], made.reason[rows], made.failed[rows] = stage, numbers[reason], failed
        if score is not None:
            made.score[rows] = score[rows]
        if limit is not None:
            made.limit[rows] = limit
        into = made.counts[-1].failed if failed else made.counts[-1].dropped
        told = reason if reason in into or len(into) < TOLD else "other reasons"
        into[told] = into.get(told, 0) + len(rows)

    def by_reason(stage: int, texts: np.ndarray) -> None:
        said = np.flatnonzero((texts != "") & view.alive)
        if not len(said):
            return
        words, which = np.unique(texts[said], return_inverse=True)
        # sorted once: where every row has words of its own, to look each up in all rows would never end
        order = np.argsort(which, kind="stable")
        for word, rows in zip(words, np.split(said[order], np.cumsum(np.bincount(which))[:-1]), strict=True):
            out(stage, rows, word, True, None, None)

    made.counts.append(Count(READ, count, 0))
    by_reason(0, view.strings("problem"))
    made.counts[-1].kept = int(view.alive.sum())
    for number, stage in enumerate(stages, 1):
        made.counts.append(Count(stage.name, int(view.alive.sum()), 0))
        if stage.gives() and not isinstance(stage, WholeStage):
            by_reason(number, view.errors(stage))
            # a failure is no decision; what was never computed has no score to decide by
            out(number, ~view.computed(stage), "not computed", True, None, None)
        verdict = stage.judge(view)
        for drop in verdict.drops:
            out(number, drop.rows, drop.reason, False, drop.score, drop.limit)
        view.derived |= {f"{stage.name}.{name}": values for name, values in verdict.columns.items()}
        view.forget()
        made.counts[-1].kept = int(view.alive.sum())
    return made


def write_decisions(view: RunView, made: Decisions, path: Path) -> None:
    """The decision table: a row for every input, with everything that was found out about it but vectors."""
    plan = view.plan
    schema = joined_schema(plan.stages)
    for name, kind in DECIDED:
        schema = schema.append(pa.field(name, kind))
    for name, values in view.derived.items():
        schema = schema.append(pa.field(name, _arrow(values[:0]).type))
    schema = schema.with_metadata({JOINED: plan.joined.encode()})
    reasons, stages = np.array(made.reasons, dtype=object), np.array([*made.stages, ""], dtype=object)
    outcomes = np.array([DROPPED, FAILED, KEPT], dtype=object)
    costly = [stage for stage in plan.stages if plan.costly(stage) and stage.gives()]
    with whole(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for first, table in view.joined():
            part = slice(first, first + table.num_rows)
            ended = made.stage[part]
            for stage in costly:
                table = _hidden(table, stage, (ended >= 0) & (ended < made.stages.index(stage.name)))
            kinds = np.where(ended < 0, 2, made.failed[part].astype(np.int8))
            columns = [
                pa.array(np.arange(part.start, part.stop)),
                pa.array(outcomes[kinds], pa.string()),
                pa.array(stages[ended], pa.string()),
                pa.array(reasons[made.reason[part]], pa.string()),
                _number(made.score[part]),
                _number(made.limit[part]),
                *(_arrow(values[part]) for values in view.derived.values()),
            ]
            writer.write_table(pa.table([*table.columns, *columns], schema=schema))


def _hidden(table: pa.Table, stage: Stage, rows: np.ndarray) -> pa.Table:
    """Without what a costly stage once found out about rows that do not come to it any more: a run that went
    another way to the same thresholds never paid for it."""
    for number, name in enumerate(table.column_names):
        if name.rpartition(".")[0] == stage.name:
            column = table.column(number).combine_chunks()
            hidden = pc.if_else(pa.array(rows), pa.scalar(None, column.type), column)
            table = table.set_column(number, name, hidden)
    return table


def _number(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)


def _arrow(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.string()) if values.dtype == object else pa.array(values)


def totals(counts: Sequence[Count]) -> Mapping[str, int]:
    """Rows by outcome: their sum is the number of inputs."""
    return {
        KEPT: counts[-1].kept,
        DROPPED: sum(sum(count.dropped.values()) for count in counts),
        FAILED: sum(sum(count.failed.values()) for count in counts),
    }
