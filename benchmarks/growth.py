"""Growing a trained model against training the deeper one from scratch: steps and seconds to equal validation
loss, several seeds.

Runs the public commands (train, export, grow) in a folder; what was stopped goes on. With the same seed, the
grown model and the one from scratch see the same samples in the same order. Prints and writes growth.json and
growth.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from validation_curves import draw_curves

SOURCE_DEPTH, DEPTH = 4, 8


def run(*arguments: str) -> None:
    print("$ diptych", *arguments, flush=True)
    subprocess.run(
        [sys.executable, "-m", "diptych.cli", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ,
    )


def train(folder: Path, steps: int, seed: int, *more: str) -> list[dict[str, Any]]:
    """Validation rows of a run, trained now if it has not been."""
    done = folder / "checkpoints" / f"step-{steps:08d}"
    if not done.is_dir():
        run(
            "train",
            "emoji-small",
            "-o",
            str(folder),
            "--seed",
            str(seed),
            "--stages.0.steps",
            str(steps),
            *more,
        )
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "validation" in row]


def reached(rows: list[dict[str, Any]], loss: float) -> tuple[float, float] | None:
    """(step, second) at which a validation curve first falls to `loss`, between its points."""
    before = None
    for row in rows:
        if row["validation"] <= loss:
            if before is None:
                return row["step"], row["seconds"]
            share = (before["validation"] - loss) / (before["validation"] - row["validation"])
            step, seconds = (before[key] + share * (row[key] - before[key]) for key in ("step", "seconds"))
            return step, seconds
        before = row
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source-steps", type=int, default=800, help="of the shallow model that is grown")
    parser.add_argument("--steps", type=int, default=500, help="of the deep model from scratch")
    parser.add_argument(
        "--grown-steps", type=int, default=200, help="of each grown model, which needs far fewer"
    )
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    curves: dict[str, list[list[dict[str, Any]]]] = {
        "source": [],
        "scratch": [],
        "grown": [],
        "grown, all blocks kept": [],
    }
    found = []
    for seed in range(options.seeds):
        folder = options.folder / str(seed)
        source = train(folder / "source", options.source_steps, seed)
        model = folder / "source-model"
        if not (model / "config.json").is_file():
            run("export", str(folder / "source"), "-o", str(model))
        kept = {"grown": (), "grown, all blocks kept": ("--keep", str(SOURCE_DEPTH))}
        curves["source"].append(source)
        curves["scratch"].append(train(folder / "scratch", options.steps, 100 + seed, "--depth", str(DEPTH)))
        for name, more in kept.items():
            grown = folder / name.split(",")[0] if not more else folder / "grown-all"
            start = grown.with_name(grown.name + "-start")
            if not (start / "config.json").is_file():
                run("grow", str(model), "--depth", str(DEPTH), "-o", str(start), *more)
            curves[name].append(train(grown, options.grown_steps, 100 + seed, "--start", str(start)))
            last = curves["scratch"][-1][-1]
            at = reached(curves[name][-1], last["validation"])
            found.append(
                {
                    "seed": seed,
                    "what": name,
                    "loss": last["validation"],
                    "scratch_steps": last["step"],
                    "scratch_seconds": last["seconds"],
                    "steps": at and at[0],
                    "seconds": at and at[1],
                    "share_of_steps": at and at[0] / last["step"],
                    "share_of_seconds": at and at[1] / last["seconds"],
                    "source_seconds": source[-1]["seconds"],
                    "final": curves[name][-1][-1]["validation"],
                }
            )
            print(json.dumps(found[-1]), flush=True)
    (options.folder / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    draw_curves(curves, options.folder / "growth.png")


if __name__ == "__main__":
    main()
