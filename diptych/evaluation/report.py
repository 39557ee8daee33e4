"""An evaluation as a table, JSON, Markdown and contact sheets with verdicts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table

from diptych.evaluation.emoji import Evaluation, EvaluationConfig
from diptych.files.typed import to_json
from diptych.files.whole import write_whole
from diptych.inference.sheet import contact_sheet


def _rows(result: Evaluation) -> list[tuple[str, str, str, str]]:
    """(group, name, share, 95 % interval and count)."""
    rows = []
    for group, entry in result.summary().items():
        # 'exactly swapped' has no mean, and so no level between
        scores = entry.get("by", entry)
        for name, s in scores.items():
            rows.append((group, name, f"{s['score']:.3f}", f"{s['low']:.2f} to {s['high']:.2f}, n {s['n']}"))
        if "mean" in entry:
            rows.append((group, "mean", f"{entry['mean']:.3f}", f"± {entry['plus_minus']:.3f}"))
    return rows


def print_table(result: Evaluation, console: Console) -> None:
    table = Table("part", "type", "right", "95 % interval")
    last = ""
    for group, name, share, interval in _rows(result):
        if last and group != last:
            table.add_section()
        table.add_row(
            group if group != last else "", name, share, interval, style="bold" if name == "mean" else ""
        )
        last = group
    console.print(table)


def write(result: Evaluation, folder: Path, model: str, config: EvaluationConfig) -> list[Path]:
    """results.json, results.md and one sheet a part under `folder`; returns what was written."""
    data = {"model": model, "config": dataclasses.asdict(config), **result.summary(), **result.notes()}
    write_whole(folder / "results.json", to_json(data))
    lines = [
        "# Emoji benchmark",
        "",
        f"Model `{model}`, {config.prompts} prompts a category, seed {config.seed}.",
        "",
        "| part | type | right | 95 % interval |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in _rows(result)]
    write_whole(folder / "results.md", "\n".join(lines) + "\n")
    sheets = [
        contact_sheet(cells, folder / f"{name}.png", columns=6, side=144)
        for name, cells in result.cells.items()
    ]
    return [folder / "results.json", folder / "results.md", *sheets]
