"""diptych curate: from a heap of pictures with captions to a data set, and what became of every row."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych.commands.arguments import Output, Positional
from diptych.commands.outputs import check_new
from diptych.commands.terminal import EVERY, aside
from diptych.files.visible import one_line, visible
from diptych.request import RequestError

if TYPE_CHECKING:
    from diptych.curation.engine import Progress, Run

Settings = Annotated[tuple[str, ...], tyro.conf.arg(name="set"), tyro.conf.UseAppendAction]
REPORT = "report.html"
SHOWN = 20
"""Rows of one name that `why` tells of."""


@dataclass(frozen=True, kw_only=True)
class Curate:
    """Score, filter, deduplicate, split and write pictures with captions: diptych curate RECIPE SOURCE -o
    OUT; and afterwards {status,why,replay,diff}."""

    recipe: Positional[str]
    """pairs, broad, judged, look, or FILE.py:FUNCTION for your own."""
    source: Positional[Path]
    """A folder, .jsonl, .csv, .tar, .json (a list of data sets) or .parquet (addresses)."""
    output: Output
    workers: int = 0
    """Processes; 0: one a processor."""
    settings: Settings = ()
    """DIAL=VALUE of the recipe, or STAGE.FIELD=VALUE; repeatable."""
    ray: str | None = None
    """Address of a Ray cluster, or local: for more than one machine."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a run is, and what it kept."""

    folder: Positional[Path]


@dataclass(frozen=True, kw_only=True)
class Why:
    """What became of a row, and why: by its name, its number, or how its bytes' SHA-256 begins."""

    folder: Positional[Path]
    row: Positional[str]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What other thresholds would keep: from the scores that are there, without opening a picture."""

    folder: Positional[Path]
    settings: Settings = ()
    """STAGE.FIELD=VALUE; repeatable."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write that decision table and its data into this folder as well."""


@dataclass(frozen=True, kw_only=True)
class Diff:
    """A page of what two runs decided otherwise."""

    before: Positional[Path]
    after: Positional[Path]
    output: Output


def main(arguments: list[str], console: Console) -> int:
    """diptych curate RECIPE SOURCE -o OUT, or a word of COMMANDS"""
    commands: dict[str, tuple[type, Callable[[Any, Console], int]]] = {
        "status": (Status, status),
        "why": (Why, why),
        "replay": (Replay, replay),
        "diff": (Diff, diff),
    }
    if arguments[:1] and arguments[0] in commands:
        kind, carry_out = commands[arguments[0]]
        command: Any = tyro.cli(kind, args=arguments[1:], prog=f"diptych curate {arguments[0]}")
        return carry_out(command, console)
    return run(tyro.cli(Curate, args=[visible(word) for word in arguments], prog="diptych curate"), console)


def run(command: Curate, console: Console) -> int:
    from diptych.curation.engine import curate
    from diptych.curation.recipes import Recipe
    from diptych.curation.report import write_report

    recipe = Recipe.load(command.recipe, given(command.settings))
    workers = command.workers or os.cpu_count() or 1
    if command.workers < 0:
        raise RequestError(f"--workers must be 1 or more, got {command.workers}")
    opener = f"{__name__}:opened"
    if command.ray is not None:
        from diptych.curation.ray import RayExecutor

        executor: Any = RayExecutor(command.ray, workers, command.output, recipe.modules, opener)
    else:
        from diptych.curation.pool import ProcessPool

        executor = ProcessPool(workers, recipe.modules, command.output, opener)
    try:
        with shown() as progress:
            made = curate(recipe, command.source, command.output, executor, progress)
            progress("report", 0, 1, 0)
            write_report(made, command.output / REPORT)
    finally:
        executor.close()
    _tell(made, console)
    console.print(f"{command.output / REPORT}", highlight=False, soft_wrap=True)
    return 0


def opened(name: str, device: str) -> Any:
    """A model of ours, for stages that ask one; None for a folder that holds no such model."""
    from diptych.systems.registry import open_ours

    return open_ours(name, device)


def status(command: Status, console: Console) -> int:
    from diptych.curation.engine import TABLE, Run

    folder = command.folder
    made = Run.open(folder)
    table = Table("stage", "shards", "left", title=escape(one_line(str(folder))))
    for stage, done, left in made.finished():
        table.add_row(stage, f"{done:,}", f"{left:,}" if left else "")
    console.print(table)
    if (folder / TABLE).is_file() and not made.missing():
        _tell(made, console)
    else:
        console.print("not through yet: the same command goes on", highlight=False)
    return 0


def why(command: Why, console: Console) -> int:
    from diptych.curation.engine import Run

    made = Run.open(command.folder)
    found = made.rows_named(command.row)
    if not found:
        raise RequestError(f"{command.folder} has no row {command.row!r}: give a name, a number or a SHA-256")
    for row in found[:SHOWN]:
        console.print(escape(one_line(f"row {row['row']}: {row['id']} ({row['file'] or row['source']})")))
        for name, value in row.items():
            if value not in (None, "") and name not in ("row", "id", "file"):
                shown_value = value.hex() if isinstance(value, bytes) else value
                console.print(escape(one_line(f"  {name}: {shown_value}")), highlight=False, soft_wrap=True)
    if len(found) > SHOWN:
        console.print(f"and {len(found) - SHOWN:,} more rows of that name", highlight=False)
    return 0


def replay(command: Replay, console: Console) -> int:
    from diptych.curation.decide import write_decisions
    from diptych.curation.engine import TABLE, Run

    made = Run.open(command.folder, given(command.settings))
    if command.output is not None:
        check_new(command.output)
    view, decisions = made.decisions()
    _counts(decisions.counts, console)
    console.print(f"{int(decisions.kept.sum()):,} of {len(view):,} rows kept", highlight=False)
    if command.output is not None:
        write_decisions(view, decisions, command.output / TABLE)
        with shown() as progress:
            made.write(view, command.output, progress)
    return 0


def diff(command: Diff, console: Console) -> int:
    from diptych.curation.engine import Run
    from diptych.curation.report import write_diff

    moved = write_diff(Run.open(command.before), Run.open(command.after), command.output)
    for what, count in moved.items():
        console.print(f"{what}: {count:,}", highlight=False)
    return 0


def given(words: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE by name. Raises RequestError for a word without an equals sign, and for a name twice."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise RequestError(f"--set {word}: STAGE.FIELD=VALUE or DIAL=VALUE is needed")
        if name in found:
            raise RequestError(f"--set {name} is given twice")
        found[name] = value
    return found


def _tell(made: Run, console: Console) -> None:
    from diptych.curation.decide import Count
    from diptych.files.typed import convert, read_json

    told = read_json(made.out / "counts.json")
    _counts([convert(Count, stage) for stage in told["stages"]], console)
    console.print(f"{told['kept']:,} of {told['rows']:,} rows kept", highlight=False)


def _counts(counts: Any, console: Console) -> None:
    table = Table("stage", "rows", "kept", "why others went")
    for count in counts:
        reasons = sorted({**count.failed, **count.dropped}.items(), key=lambda found: -found[1])
        said = ", ".join(f"{reason} {number:,}" for reason, number in reasons[:5])
        more = f", and {len(reasons) - 5} more reasons" if len(reasons) > 5 else ""
        table.add_row(count.stage, f"{count.rows:,}", f"{count.kept:,}", escape(one_line(said + more)))
    console.print(table)


@contextmanager
def shown() -> Iterator[Progress]:
    """A bar for each part of the work with its rate and when it will be through; off a terminal a line every
    few seconds."""
    if not aside.is_terminal:
        yield _lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=aside, transient=True) as bars:
        tasks: dict[str, tuple[Any, float]] = {}

        def advance(what: str, done: int, of: int, rows: int) -> None:
            if what not in tasks:
                tasks[what] = (bars.add_task(what, total=of, rate=""), time.monotonic())
            task, began = tasks[what]
            seconds = time.monotonic() - began
            rate = f"{rows / seconds:,.0f} rows/s" if rows and seconds > 1 else ""
            bars.update(task, completed=done, total=of, rate=rate)

        yield advance


def _lines() -> Progress:
    began: dict[str, float] = {}
    last = time.monotonic()

    def advance(what: str, done: int, of: int, rows: int) -> None:
        nonlocal last
        now = time.monotonic()
        began.setdefault(what, now)
        seconds = now - began[what]
        if now - last >= EVERY and done and seconds:
            last = now
            left = seconds / done * (of - done)
            said = f"{what}: {done:,} of {of:,}, {rows / seconds:,.0f} rows/s, {left:,.0f} s left"
            aside.print(said, highlight=False, markup=False)

    return advance
