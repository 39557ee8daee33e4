"""Validation curves of several kinds of run, one colour a kind, one line a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw_curves(curves: dict[str, list[list[dict[str, Any]]]], path: Path) -> None:
    """`curves`: kind -> runs -> rows of a run's log with step and validation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, runs) in enumerate(curves.items()):
        for seed, rows in enumerate(runs):
            axes.plot(
                [r["step"] for r in rows],
                [r["validation"] for r in rows],
                color=f"C{number}",
                alpha=0.8,
                label=name if seed == 0 else None,
            )
    axes.set_xlabel("steps")
    axes.set_ylabel("validation loss (flow)")
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=110)
