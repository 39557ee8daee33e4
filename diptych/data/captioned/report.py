"""What an index holds, as text and as pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych.data.captioned.buckets import Bucket, BucketPlan, fit
from diptych.data.captioned.index import Index
from diptych.data.pictures import save_picture
from diptych.files.visible import one_line
from diptych.files.whole import whole

SHOWN = 48
CELL = 128


def inspect(
    index: Index, out: Path, resolutions: tuple[int, ...], multiple: int, console: Console
) -> list[Path]:
    """Print counts, buckets, caption lengths and problems; write report.png and sheet.png into `out`.

    Raises ValueError for an index without a usable picture.
    """
    if not len(index):
        raise ValueError(f"{index.path} holds no usable picture; its problems: {_problem_counts(index)}")
    plan = BucketPlan(index.sizes(), resolutions, multiple, 1, 0)
    words = [len(caption.split()) for row in index.rows for caption in row.captions]
    table = Table("what", "count", title=escape(one_line(str(index.folder))))
    table.add_row("pictures", f"{len(index):,}")
    if index.clips:
        table.add_row("clips", f"{len(index.clips):,}")
    table.add_row("captions", f"{len(words):,} (words: median {int(np.median(words))}, longest {max(words)})")
    table.add_row("with scores", f"{sum(bool(row.scores) for row in index.rows):,}")
    for reason, count in _problem_counts(index).items():
        table.add_row(escape(one_line(f"left out: {reason}")), f"{count:,}")
    counts = Counter(plan.bucket_of)
    for bucket, count in counts.most_common(8):
        table.add_row(f"bucket {bucket.width}x{bucket.height}", f"{count:,}")
    if len(counts) > 8:
        table.add_row(
            f"{len(counts) - 8} further buckets", f"{sum(c for _, c in counts.most_common()[8:]):,}"
        )
    console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    return [_draw(index, counts, words, out / "report.png"), _sheet(index, out / "sheet.png")]


def _problem_counts(index: Index) -> dict[str, int]:
    """Problems by kind: what stands before the first detail."""
    # what follows a bracket or a colon is the single case: a path, a size, a library's words
    kinds = (row.problem.split(" (")[0].split(": ")[0] for row in index.problems)
    return dict(
        Counter(
            "the same bytes as another" if kind.startswith("the same bytes") else kind for kind in kinds
        ).most_common()
    )


def _draw(index: Index, counts: Counter[Bucket], words: list[int], path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    sizes = index.sizes()
    axes[0, 0].scatter(sizes[:, 0], sizes[:, 1], s=4, alpha=0.4)
    axes[0, 0].set(title="sizes", xlabel="width, px", ylabel="height, px")
    ordered = sorted(counts, key=lambda b: b.width / b.height)
    axes[0, 1].bar([f"{b.width}x{b.height}" for b in ordered], [counts[b] for b in ordered])
    axes[0, 1].set(title="buckets", ylabel="pictures")
    axes[0, 1].tick_params(axis="x", rotation=90, labelsize=6)
    axes[1, 0].hist(words, bins=min(40, max(words)))
    axes[1, 0].set(title="caption length", xlabel="words", ylabel="captions")
    problems = dict(list(_problem_counts(index).items())[:12]) or {"none": 0}
    # a dollar sign would begin a formula, and a stranger's is no formula
    axes[1, 1].barh([reason[:60].replace("$", r"\$") for reason in problems], list(problems.values()))
    axes[1, 1].set(title="left out", xlabel="pictures")
    with whole(path) as aside:
        figure.savefig(aside, dpi=110, format="png")
    return path


def _sheet(index: Index, path: Path) -> Path:
    """Pictures from all over the index, uncaptioned."""
    chosen = np.unique(np.linspace(0, len(index) - 1, SHOWN).astype(int))
    cells = [fit(index.picture(int(n)), Bucket(CELL, CELL)) for n in chosen]
    columns = 12
    rows = -(-len(cells) // columns)
    canvas = np.full((rows * CELL, columns * CELL, 3), 255, dtype=np.uint8)
    for place, cell in enumerate(cells):
        top, left = place // columns * CELL, place % columns * CELL
        canvas[top : top + CELL, left : left + CELL] = cell
    save_picture(canvas, path)
    return path
