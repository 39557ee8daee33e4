"""Depth against score: a model pruned to several depths, as it is and after a short recovery.

Runs the public commands (prune, evaluate, train, export) in a folder; what was stopped goes on. Writes
pruning.json and pruning.png. Calibration prompts are captions of the emoji world from a seed of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from diptych.worlds.emoji import CATEGORIES, EmojiWorld
from diptych.worlds.emoji.captions import caption, sample_wanted

CALIBRATION_SEED = 3


def run(*arguments: object) -> None:
    print("$ diptych", *arguments, flush=True)
    subprocess.run(
        [sys.executable, "-m", "diptych.cli", *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ,
    )


def scores(model: str | Path, folder: Path, prompts: int) -> dict[str, float]:
    """Mean drawing scores of a model, measured now if they have not been."""
    if not (folder / "results.json").is_file():
        run("evaluate", model, "--split", "drawing", "--prompts", prompts, "-o", folder)
    results = json.loads((folder / "results.json").read_text())
    return {split: results[f"drawing, {split}"]["mean"] for split in ("seen", "held-out")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--depths", type=int, nargs="+", default=[5, 4, 3, 2])
    parser.add_argument(
        "--steps", type=int, default=390, help="of recovery: 3 %% of the default model's training"
    )
    parser.add_argument("--prompts", type=int, default=50)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "prompts.txt"
    if not data.is_file():
        world, rng = EmojiWorld(), np.random.default_rng(CALIBRATION_SEED)
        data.write_text(
            "".join(caption(world, sample_wanted(world, CATEGORIES[n % 6], rng)) + "\n" for n in range(100))
        )
    rows: list[dict[str, Any]] = [
        {"depth": "whole", **scores(options.model, folder / "whole-scores", options.prompts)}
    ]
    for depth in options.depths:
        pruned, recovery, model = (folder / f"{depth}-{what}" for what in ("pruned", "run", "recovered"))
        if not (pruned / "config.json").is_file():
            run("prune", options.model, "--depth", depth, "--calibrate", data, "-o", pruned)
        card = json.loads((pruned / "card.json").read_text())
        row = {"depth": depth, "made": card["made"], "importance": card["importance"]}
        row["pruned"] = scores(pruned, folder / f"{depth}-pruned-scores", options.prompts)
        if not (model / "config.json").is_file():
            run(
                "train", "emoji-recover", "--start", pruned, "-o", recovery, "--stages.0.steps", options.steps
            )
            run("export", recovery, "-o", model)
        row["recovered"] = scores(model, folder / f"{depth}-recovered-scores", options.prompts)
        rows.append(row)
        print(json.dumps(row), flush=True)
        (folder / "pruning.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, folder / "pruning.png")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    whole, pruned = rows[0], sorted(rows[1:], key=lambda row: row["depth"])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for what, colour in (("pruned", "#c8443c"), ("recovered", "#2e8b57")):
        for split, style in (("seen", "-o"), ("held-out", "--s")):
            axes.plot(
                [row["depth"] for row in pruned],
                [row[what][split] for row in pruned],
                style,
                color=colour,
                label=f"{what}, {split}",
            )
    axes.axhline(whole["seen"], color="gray", lw=1, label="whole model, seen")
    axes.set_xlabel("blocks")
    axes.set_xticks([row["depth"] for row in pruned])
    axes.set_ylabel("share of right drawings")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
