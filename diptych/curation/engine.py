"""A run: source -> rows -> scores -> decisions -> data. Only what is missing is computed."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.curation.decide import Decisions, decide, totals, write_decisions
from diptych.curation.plan import Plan
from diptych.curation.pool import Executor, Here
from diptych.curation.read import Source, open_source
from diptych.curation.recipes import Recipe
from diptych.curation.stage import Shared, Stage, WholeStage
from diptych.curation.table import DONE, Shard, as_arrow, read_shards, stage_schema, write_shards, write_table
from diptych.curation.view import RunView
from diptych.curation.work import Done, Part, PassTask, ReadTask, Task
from diptych.files.typed import read, to_json
from diptych.files.whole import write_whole

RUN, TABLE, COUNTS, COSTS, LOCK = (
    "curation.json",
    "decisions.parquet",
    "counts.json",
    "costs.json",
    "run.lock",
)
Progress = Callable[[str, int, int, int], Any]
"""progress(what, done, of, rows): `done` of `of` parts of the work, `rows` of them counted."""


class NothingKept(ValueError):
    """Thresholds that leave no row: decided and told, and nothing is written."""


@dataclass(frozen=True, kw_only=True)
class StageTold:
    """A stage as a run's file names it."""

    name: str
    kind: str
    settings: str
    """Hash of what it is but for its model."""
    identity: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a run's folder says of itself."""

    recipe: str
    source: str
    settings: dict[str, Any]
    stages: list[StageTold]


class Run:
    """A folder in which a source was curated, opened to be asked."""

    def __init__(self, out: Path, recipe: Recipe, told: Told) -> None:
        self.out, self.recipe, self.told = out, recipe, told
        known = {one.name: one for one in told.stages}
        # hashing a model's weights takes longer than a replay may
        identities = {
            stage.name: known[stage.name].identity
            for stage in recipe.stages
            if stage.name in known and known[stage.name].settings == stage.settings()
        }
        self.plan = Plan(out, recipe.stages, read_shards(out), identities)

    @classmethod
    def open(cls, out: Path, settings: Mapping[str, Any] | None = None) -> Run:
        """A run as it was, or with other settings. Raises ValueError for a folder that holds none."""
        if not (out / RUN).is_file():
            raise ValueError(f"{out} holds no run of diptych curate ({RUN} is missing)")
        told = read(Told, out / RUN)
        recipe = Recipe.load(told.recipe, {**told.settings, **(settings or {})})
        return cls(out, recipe, told)

    @property
    def stages(self) -> list[Stage]:
        return self.recipe.stages

    def view(self) -> RunView:
        """All rows; from the decision table, where that has them together already."""
        costly = any(self.plan.costly(stage) for stage in self.stages)
        return RunView(self.plan, None if costly else self.out / TABLE)

    def missing(self) -> list[Stage]:
        """Stages that have not computed all that they were asked for."""
        return [stage for stage in self.stages if stage.gives() and _left(self.plan, stage)[0]]

    def finished(self) -> list[tuple[str, int, int]]:
        """(stage, shards that are through, shards that are left) of every stage that computes."""
        told = []
        for stage in self.stages:
            if stage.gives():
                left, of = _left(self.plan, stage)
                told.append((stage.name, of - left, left))
        return told

    def rows_named(self, name: str) -> list[dict[str, Any]]:
        """Rows of the decision table by name, number, or the beginning of the hash of their bytes."""
        path = self.out / TABLE
        if not path.is_file():
            raise ValueError(f"{self.out}: nothing is decided yet; go on with diptych curate")
        digest = bytes.fromhex(name[: len(name) // 2 * 2]) if re.fullmatch("[0-9a-f]{6,64}", name) else None
        found: list[dict[str, Any]] = []
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                short = file.read_row_group(group, columns=["row", "id", "sha256"])
                rows, ids, sums = (column.to_pylist() for column in short.columns)
                places = [
                    at
                    for at in range(len(rows))
                    if ids[at] == name
                    or str(rows[at]) == name
                    or (digest is not None and (sums[at] or b"").startswith(digest))
                ]
                if places:
                    found += file.read_row_group(group).take(places).to_pylist()
        return found

    def write(self, view: RunView, folder: Path, progress: Progress) -> None:
        """The data of decisions that are in `view`, into another folder."""
        here = Here()
        for stage in self.stages:
            stage.write(view, folder / "data", lambda tasks, then: drain(here, tasks, then), progress)

    def decisions(self) -> tuple[RunView, Decisions]:
        """Raises ValueError where something would have to be computed first."""
        if missing := self.missing():
            changed = {one.name: one.identity for one in self.told.stages}
            other = [stage for stage in missing if self.plan.identity(stage) != changed.get(stage.name)]
            if other:
                raise ValueError(
                    f"this changes what the stage {other[0].name} computes, not only what it decides: run "
                    f"diptych curate again with it"
                )
            raise ValueError(
                f"{self.out}: the stage {missing[0].name} is not through yet; go on with diptych curate"
            )
        view = self.view()
        made = decide(view)
        for number, stage in enumerate(self.stages, 1):
            row = np.flatnonzero((made.stage == number) & made.failed) if self.plan.costly(stage) else ()
            if any(made.reasons[made.reason[n]] == "not computed" for n in row):
                raise ValueError(
                    f"these settings bring rows to the stage {stage.name} that it never saw: run "
                    f"diptych curate again with them"
                )
        return view, made


def curate(
    recipe: Recipe,
    source: Path,
    out: Path,
    executor: Executor,
    progress: Progress = lambda *told: None,
    opened: Source | None = None,
) -> Run:
    """Carry out a recipe over a source; goes on where a run of the same folder stopped.

    Raises ValueError for a source with nothing in it, a folder that another run works in or that belongs to
    another source, and for thresholds that keep nothing.
    """
    for stage in recipe.stages:
        stage.check()
    Plan(out, recipe.stages)
    _check_places(source, out)
    opened = opened or open_source(source)
    with _locked(out):
        _check_same(source, out)
        return _Curating(recipe, source, out, executor, progress).run(opened)


class _Curating:
    def __init__(
        self, recipe: Recipe, source: Path, out: Path, executor: Executor, progress: Progress
    ) -> None:
        self.recipe, self.source, self.out = recipe, source, out
        self.executor, self.progress = executor, progress
        self.costs: dict[str, list[float]] = {}
        """Seconds and rows by stage."""

    def run(self, opened: Source) -> Run:
        for left in self.out.rglob(".*.part"):
            # of a run that was killed while it wrote; the data's folder is gone on with
            if left.is_file():
                left.unlink()
        try:
            plan = Plan(self.out, self.recipe.stages)
            passes = plan.passes()
            first = (
                passes.pop(0) if passes and _per_shard(passes[0]) and not plan.costly(passes[0][0]) else []
            )
            shards = self._read(opened, plan, first)
            write_shards(self.out, shards)
            told = Told(
                recipe=self.recipe.reference,
                source=str(self.source.absolute()),
                settings=dict(self.recipe.settings),
                stages=[
                    StageTold(
                        name=stage.name,
                        kind=stage.kind,
                        settings=stage.settings(),
                        identity=plan.identity(stage),
                    )
                    for stage in self.recipe.stages
                ],
            )
            write_whole(self.out / RUN, to_json(told))
            run = Run(self.out, self.recipe, told)
            for stages in passes:
                self._pass(run.plan, stages)
            view = run.view()
            made = decide(view)
            self._conclude(view, made)
            for stage in self.recipe.stages:
                stage.write(view, self.out / "data", self._drain, self.progress)
            return run
        finally:
            self._write_costs()

    def _read(self, opened: Source, plan: Plan, first: list[Stage]) -> list[Shard]:
        """Rows of all units, and what the first stages make of them while their bytes are still at hand."""
        units = opened.units()
        self.progress("reading", 0, len(units), 0)
        left, rows, done_units = {}, 0, 0
        by_unit: dict[str, tuple[Shard, ...]] = {}
        listings = {stage.name: plan.listing(stage) for stage in first}
        scheduled: set[Path] = set()
        keys = [unit.key for unit in units]

        def then(task: Task, done: Done) -> Iterable[Task]:
            nonlocal rows, done_units
            more: list[Task] = []
            if isinstance(task, ReadTask):
                by_unit[task.key] = done.shards
                rows += done.rows
                more = [
                    made
                    for shard in done.shards
                    if (made := self._task(plan, first, shard, listings, scheduled)) is not None
                ]
                left[task.key] = len(more)
                key = task.key
            else:
                assert isinstance(task, PassTask)
                key = task.shard.unit
                left[key] -= 1
            done_units += not left[key]
            self.progress("reading", done_units, len(units), rows)
            return more

        wanted = dict(zip(keys, units, strict=True))
        self._drain((ReadTask(self.out, unit, key) for key, unit in wanted.items()), then)
        shards = [shard for key in keys for shard in by_unit[key]]
        if not shards:
            raise ValueError(f"{self.source} holds no rows")
        return shards

    def _task(
        self,
        plan: Plan,
        stages: list[Stage],
        shard: Shard,
        listings: Mapping[str, set[str]],
        scheduled: set[Path],
    ) -> PassTask | None:
        """What is still to be computed of a shard; None where nothing is. Shards of one content are one."""
        parts = []
        for stage in stages:
            path = plan.path(stage, shard)
            if not plan.finished(stage, listings[stage.name], path) and path not in scheduled:
                scheduled.add(path)
                parts.append(Part(stage, path))
        if not parts:
            return None
        fresh = {part.stage.name for part in parts}
        # what an earlier run left of this pass already
        given = {k: v for part in parts for k, v in plan.have(part.stage, shard, fresh).items()}
        return PassTask(self.out, shard, tuple(parts), given)

    def _pass(self, plan: Plan, stages: list[Stage]) -> None:
        if isinstance(stages[0], WholeStage):
            self._whole(plan, stages[0])
        elif plan.costly(stages[0]):
            self._costly(plan, stages[0])
        else:
            listings = {stage.name: plan.listing(stage) for stage in stages}
            scheduled: set[Path] = set()
            tasks = (
                task
                for shard in plan.shards
                if (task := self._task(plan, stages, shard, listings, scheduled)) is not None
            )
            self._drain(tasks, self._counted(" + ".join(s.name for s in stages), len(plan)))

    def _counted(self, what: str, total: int) -> Callable[[Task, Done], Iterable[Task]]:
        rows = 0

        def then(task: Task, done: Done) -> Iterable[Task]:
            nonlocal rows
            rows += done.rows
            self.progress(what, rows, total, rows)
            return ()

        return then

    def _costly(self, plan: Plan, stage: Stage) -> None:
        """A stage that costs: for rows that everything before it keeps, and that it has not seen yet."""
        view = RunView(plan)
        decide(view, plan.stages[: list(plan.stages).index(stage)])
        wanted: dict[Path, tuple[Shard, np.ndarray]] = {}
        for shard, start in zip(plan.shards, plan.starts, strict=True):
            rows = view.alive[start : start + shard.count]
            path = plan.path(stage, shard)
            # shards of one content share a file: it needs what any of them asks for
            wanted[path] = (shard, rows | wanted[path][1]) if path in wanted else (shard, rows.copy())
        tasks = (
            PassTask(self.out, shard, (Part(stage, path, rows),), plan.have(stage, shard, ()))
            for path, (shard, rows) in wanted.items()
            if not path.is_file() or not _covers(path, rows)
        )
        self._drain(tasks, self._counted(stage.name, len(plan)))

    def _whole(self, plan: Plan, stage: WholeStage) -> None:
        path = plan.path(stage, None)
        if path.is_file():
            return
        aside = self.out / "aside"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            made = stage.compute_whole(
                RunView(plan),
                Shared(),
                aside,
                lambda done, of: self.progress(stage.name, done, of, done),
            )
            schema = stage_schema(stage.gives())
            columns = [
                made[name] if isinstance(made[name], pa.Array) else as_arrow(made[name], kind)
                for name, kind in stage.gives().items()
            ]
            count = len(plan)
            columns += [pa.array([""] * count, pa.string()), pa.array(np.ones(count, bool))]
            write_table(pa.table(columns, schema=schema), path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _drain(self, tasks: Iterator[Task], then: Callable[[Task, Done], Iterable[Task]]) -> None:
        def counted(task: Task, done: Done) -> Iterable[Task]:
            for name, seconds in done.seconds.items():
                cost = self.costs.setdefault(name, [0.0, 0])
                cost[0] += seconds
                cost[1] += done.rows
            return then(task, done)

        drain(self.executor, tasks, counted)

    def _conclude(self, view: RunView, made: Decisions) -> None:
        write_decisions(view, made, self.out / TABLE)
        found = totals(made.counts)
        assert sum(found.values()) == len(view)
        write_whole(
            self.out / COUNTS,
            to_json({"rows": len(view), **found, "stages": [asdict(count) for count in made.counts]}),
        )
        if not found["kept"]:
            raise NothingKept(f"nothing is kept of {len(view):,} rows: {_most(made)}; lower what decides it")

    def _write_costs(self) -> None:
        """Seconds and rows by stage, of all runs in this folder: what a larger source will take."""
        path = self.out / COSTS
        before = json.loads(path.read_text()) if path.is_file() else {}
        for name, cost in self.costs.items():
            told = before.setdefault(name, {"seconds": 0.0, "rows": 0})
            told["seconds"] = round(told["seconds"] + cost[0], 3)
            told["rows"] += cost[1]
        if self.costs:
            write_whole(path, to_json(before))


def drain(executor: Executor, tasks: Iterator[Task], then: Callable[[Task, Done], Iterable[Task]]) -> None:
    """Carry out tasks and what follows from them, as many at a time as there is room for."""
    waiting: deque[Task] = deque()
    out = 0
    while True:
        while out < executor.room:
            # what follows first: its pictures were just read
            task = waiting.popleft() if waiting else next(tasks, None)
            if task is None:
                break
            executor.submit(task)
            out += 1
        if not out:
            return
        task, done = executor.next()
        out -= 1
        waiting.extend(then(task, done))


def _per_shard(stages: list[Stage]) -> bool:
    return not isinstance(stages[0], WholeStage)


def _left(plan: Plan, stage: Stage) -> tuple[int, int]:
    """How many of a stage's files are missing, of how many."""
    if isinstance(stage, WholeStage):
        return int(not plan.path(stage, None).is_file()), 1
    names = plan.listing(stage)
    return sum(plan.path(stage, shard).name not in names for shard in plan.shards), len(plan.shards)


def _covers(path: Path, rows: np.ndarray) -> bool:
    done = pq.read_table(path, columns=[DONE], use_threads=False).column(0)
    return not (rows & ~np.array(done.to_pylist(), dtype=bool)).any()


def _most(made: Decisions) -> str:
    """The reason by which most rows went."""
    found = [
        (number, count.stage, reason)
        for count in made.counts
        for reason, number in (*count.dropped.items(), *count.failed.items())
    ]
    number, stage, reason = max(found)
    return f"{number:,} go at {stage} ({reason})"


def _check_places(source: Path, out: Path) -> None:
    """Raises ValueError where what is written would be read again, or the other way round."""
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    real, made = source.resolve(), out.resolve()
    if made.is_relative_to(real) or (real.is_relative_to(made) and source.is_dir()):
        raise ValueError(f"{out} and the source {source} lie in one another: choose an output elsewhere")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose a folder")
    if out.is_dir() and not (out / RUN).exists() and not (out / LOCK).exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds other files; choose an empty or a new folder")


def _check_same(source: Path, out: Path) -> None:
    if (out / RUN).is_file():
        told = read(Told, out / RUN)
        if told.source != str(source.absolute()):
            raise ValueError(f"{out} was made from {told.source}: choose another folder for {source}")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Held while a run works in a folder; the system lets go of it when its process ends, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run works in {out}: wait for it, or choose another folder") from error
        yield
