"""A run's losses as a picture, from its log.jsonl."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

NOT_LOSSES = ("step", "stage", "seconds", "norm", "lr")
"""What a logged step tells besides its losses."""
BELOW = ("sigma/", "validation/")
"""Losses by noise level; other names with a slash are shares of a loss that is drawn already."""
SMOOTHED = 25
"""Logged steps that a smoothed point averages over."""


def draw_curves(run: Path) -> Path | None:
    """Write curves.png into a run's folder: each loss, and below it the loss by noise level. None where
    nothing is logged yet."""
    log = run / "log.jsonl"
    if not log.is_file():
        return None
    values: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a run that was killed can leave half a line
        for key, value in row.items():
            if key.startswith(BELOW) or ("/" not in key and key not in NOT_LOSSES):
                values[key].append((row["step"], value))
    if not values:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name, points in sorted(values.items()):
        steps, losses = np.array(points).T
        axis = below if name.startswith(BELOW) else above
        if name.startswith("validation"):
            axis.plot(steps, losses, "o-", markersize=3, label=name)
        elif len(losses) > SMOOTHED:
            kernel = np.ones(SMOOTHED) / SMOOTHED
            axis.plot(steps[SMOOTHED - 1 :], np.convolve(losses, kernel, "valid"), label=name, linewidth=1)
        else:
            axis.plot(steps, losses, label=name, linewidth=1)
    for axis, title in (
        (above, f"losses (training: mean of {SMOOTHED} logged steps)"),
        (below, "by noise level"),
    ):
        axis.set(title=title, yscale="log")
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize=7)
    below.set_xlabel("step")
    path = run / "curves.png"
    figure.savefig(path, dpi=100)
    return path
