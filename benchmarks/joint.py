"""Understanding, instruction and generation in one mix against captions alone, in the small emoji world.

Four mixtures: drawing alone; with edits; with questions; with both. Each is compared twice: at equal steps,
where what is added takes samples from drawing, and at equal drawing samples, where it comes on top. Several
seeds. Runs the public commands (train, export, evaluate) in a folder; what was stopped goes on. Prints and
writes joint.json and joint.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MIXTURES = {
    "drawing": {"generate": 1.0},
    "and edits": {"generate": 0.75, "edit": 0.25},
    "and questions": {"generate": 0.75, "understand": 0.25},
    "all": {"generate": 0.5, "edit": 0.25, "understand": 0.25},
}
SIDES = ("drawing, seen", "drawing, held-out", "questions", "edits")
SMALL_WORLD = {
    "world.objects": "few",
    "world.size": "48",
    "world.glyph": "14",
    "world.lattice": "16",
    "model.patch": "4",
    # a glyph of a quarter of the pixels is lost in half the noise
    "flow.law.mean": "1.0",
}
"""The world at half its size, with half of its kinds, in as many tokens: what a small model learns in
minutes."""


@dataclass(frozen=True)
class Run:
    mixture: str
    equal: str
    """'steps' or 'drawing samples'."""
    seed: int
    steps: int

    def folder(self, root: Path) -> Path:
        # drawing alone is the same run in both comparisons
        return root / f"{self.mixture.replace(' ', '-')}-{self.steps}-{self.seed}"


def runs(steps: int, seeds: int) -> list[Run]:
    """Every run of the study, seed by seed, so that a study that was stopped has whole seeds."""
    made = []
    for seed, equal, (name, shares) in product(range(seeds), ("steps", "drawing samples"), MIXTURES.items()):
        longer = round(steps / shares["generate"]) if equal == "drawing samples" else steps
        made.append(Run(name, equal, seed, longer))
    return made


def diptych(*arguments: str) -> None:
    print("$ diptych", *arguments, flush=True)
    command = [sys.executable, "-m", "diptych.cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)


def scored(run: Run, root: Path, prompts: int) -> dict[str, Any]:
    """What `diptych evaluate` says of a run, which is trained and judged now if it has not been."""
    folder = run.folder(root)
    results, model = folder / "evaluation" / "results.json", folder / "model"
    if not results.is_file():
        if not (model / "config.json").is_file():
            shares = [word for name, share in MIXTURES[run.mixture].items() for word in (name, str(share))]
            settings = {
                **SMALL_WORLD,
                "size": "3",
                "seed": str(run.seed),
                "stages.0.steps": str(run.steps),
                "stages.0.optim.decay": "1.0",
                "ema": "0.99",
                "sample-every": "1000000",
            }
            flags = [word for key, value in settings.items() for word in (f"--{key}", value)]
            diptych("train", "emoji-small", "-o", str(folder / "run"), "--mixture", *shares, *flags)
            diptych("export", str(folder / "run"), "-o", str(model))
        diptych("evaluate", str(model), "--prompts", str(prompts), "-o", str(folder / "evaluation"))
    return json.loads(results.read_text())


def pooled(values: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean over seeds, and the half-width of its 95 % interval: Student's t over the seeds, which is the
    spread that counts, as a run's own prompts are the same for every mixture."""
    means = [value["mean"] for value in values]
    mean, count = sum(means) / len(means), len(means)
    if count < 2:
        return mean, float("nan")
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(count, 2.571)
    variance = sum((value - mean) ** 2 for value in means) / (count - 1)
    return mean, quantile * math.sqrt(variance / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000, help="of drawing alone; 32 samples each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=50)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs(options.steps, options.seeds):
        result = scored(run, options.folder, options.prompts)
        found.setdefault((run.equal, run.mixture), []).append(result)
        said = {side: result[side]["mean"] for side in SIDES}
        print(json.dumps({"mixture": run.mixture, "equal": run.equal, "seed": run.seed, **said}), flush=True)
    table = {
        equal: {
            name: {side: pooled([result[side] for result in found[equal, name]]) for side in SIDES}
            for name in MIXTURES
        }
        for equal in ("steps", "drawing samples")
    }
    (options.folder / "joint.json").write_text(json.dumps(table, indent=1) + "\n")
    _draw(table, options.folder / "joint.png")


def _draw(table: dict[str, Any], path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    width = 0.8 / len(MIXTURES)
    for panel, (equal, rows) in zip(panels, table.items(), strict=True):
        for place, (name, sides) in enumerate(rows.items()):
            means, halves = zip(*(sides[side] for side in SIDES), strict=True)
            at = [side + (place - 1.5) * width for side in range(len(SIDES))]
            panel.bar(at, means, width, yerr=halves, capsize=2, label=name)
        panel.set_xticks(range(len(SIDES)), [side.replace(", ", ",\n") for side in SIDES])
        panel.set_title(f"equal {equal}")
    panels[0].set_ylabel("share right")
    panels[0].set_ylim(0, 1)
    panels[1].legend(title="trained on")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
