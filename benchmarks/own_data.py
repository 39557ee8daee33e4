"""Do pictures that a model was trained on come back when it is asked for them?

    python benchmarks/own_data.py MODEL data/clipart/draw.jsonl sheet.png

Each caption is drawn at its picture's size; what was drawn is compared with every picture of the same size of
the file, and counts as come back where its own is the nearest (mean squared difference). Writes a sheet.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

import diptych
from diptych.data.pictures import open_picture
from diptych.inference import draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.systems.u1.conversation import Bounds, fit_between

SHOWN = 30


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("model")
    arguments.add_argument("lines", type=Path)
    arguments.add_argument("sheet", type=Path)
    arguments.add_argument("--pixels", type=int, nargs=2, default=(4096, 9216), help="as the run had them")
    arguments.add_argument("--count", type=int, default=96, help="captions, from all over the file")
    arguments.add_argument("--steps", type=int, default=30)
    given = arguments.parse_args()
    pipeline = diptych.load(given.model)
    bounds = Bounds(least=given.pixels[0], most=given.pixels[1])
    rows = [json.loads(line) for line in given.lines.read_text().splitlines()]
    token = pipeline.system.token
    pictures = [
        fit_between(open_picture(given.lines.parent / row["image"][0]), token, bounds) for row in rows
    ]
    same: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, pixels in enumerate(pictures):
        same[pixels.shape].append(number)
    asked = [int(n) for n in np.linspace(0, len(rows) - 1, given.count)]
    captions = [rows[n]["conversations"][0]["value"] for n in asked]
    plans = [
        pipeline.plan(
            caption,
            task="text-to-image",
            width=pictures[n].shape[1],
            height=pictures[n].shape[0],
            seed=1,
            steps=given.steps,
        )
        for n, caption in zip(asked, captions, strict=True)
    ]
    drawn = [frames[0] for frames in draw(pipeline.system, plans)]
    back, chance, cells = 0, 0.0, []
    for number, caption, pixels in zip(asked, captions, drawn, strict=True):
        others = same[pixels.shape]
        far = [float(np.square(pictures[o].astype(np.float32) - pixels).mean()) for o in others]
        own = others[int(np.argmin(far))] == number
        back, chance = back + own, chance + 1 / len(others)
        cells += [Cell(pictures[number], caption), Cell(pixels, "drawn", own)]
    contact_sheet(cells[: 2 * SHOWN], given.sheet, columns=10, side=96)
    print(f"{back} of {len(asked)} came back; by chance {chance:.1f}")


if __name__ == "__main__":
    main()
