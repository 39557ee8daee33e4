"""Small pictures with captions, and runs over them, for tests of curation."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from diptych.curation.engine import TABLE, Run, curate
from diptych.curation.pool import Executor, Here
from diptych.curation.recipes import Recipe


def pixels(seed: int, side: int = 72) -> np.ndarray:
    """Coloured boxes, sharp and unlike those of another seed, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    made = np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(9):
        left, top = rng.integers(0, side - 12, 2)
        wide, high = rng.integers(8, side // 2, 2)
        made[top : top + high, left : left + wide] = rng.integers(0, 256, 3)
    return made


def encoded(array: np.ndarray, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **how)
    return file.getvalue()


def folder(path: Path, count: int, first: int = 0) -> Path:
    """`count` pictures, each with a text file."""
    path.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        (path / f"{seed:04d}.png").write_bytes(encoded(pixels(seed)))
        (path / f"{seed:04d}.txt").write_text(f"boxes number {seed} on a ground")
    return path


def shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def run(
    source: Path,
    out: Path,
    recipe: str = "pairs",
    settings: Mapping[str, Any] | None = None,
    executor: Executor | None = None,
) -> Run:
    executor = executor or Here()
    try:
        return curate(Recipe.load(recipe, settings), source, out, executor)
    finally:
        executor.close()


def outcomes(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / TABLE).to_pylist()


def result(out: Path) -> dict[str, bytes]:
    """All that a run leaves but what it took: seconds, and where rows lie."""
    kept = [out / TABLE, out / "counts.json", *sorted((out / "data").rglob("*"))]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept if path.is_file()}
