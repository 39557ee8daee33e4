"""A run of `diptych curate` killed again and again at random moments, and what it leaves in the end.

python benchmarks/curation_kills.py FOLDER                      30 kills, on the pool
python benchmarks/curation_kills.py FOLDER --ray local          on Ray
ray start --head --num-cpus 2 && python benchmarks/curation_kills.py FOLDER --ray 127.0.0.1:6379

The process of the command is killed without a word, and its workers go with it, after a random number of
files more and a random part of a second. A run that ended is held
against an undisturbed one, and another is begun in a folder of its own, until so many kills have happened.
Fails where a byte differs, and where a file of a stage that was there before a kill was made again after it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SHARDS, ROWS = 24, 20
RECIPE = "broad"
STEP, PAUSE = 12, 0.5
"""A kill comes within so many further files, and at most so many seconds after them."""


def heap(folder: Path) -> Path:
    """Tars of coloured boxes with captions; a tenth of them copies, so that duplicates have work."""
    for number in range(SHARDS):
        path = folder / f"{number:03d}.tar"
        if path.is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with tarfile.open(part, "w") as tar:
            for row in range(ROWS):
                seed = number * ROWS + row - (3 if row % 10 == 9 else 0)
                rng = np.random.default_rng(seed)
                pixels = np.full((96, 96, 3), rng.integers(0, 256, 3), np.uint8)
                for _ in range(9):
                    left, top = rng.integers(0, 84, 2)
                    wide, high = rng.integers(8, 48, 2)
                    pixels[top : top + high, left : left + wide] = rng.integers(0, 256, 3)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                for ending, data in (
                    ("png", file.getvalue()),
                    ("txt", f"boxes number {seed} on a ground".encode()),
                ):
                    member = tarfile.TarInfo(f"{number:03d}{row:03d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        part.replace(path)
    return folder


def command(source: Path, out: Path, ray: str | None, workers: int) -> list[str]:
    given = [sys.executable, "-m", "diptych.cli", "curate", RECIPE, str(source), "-o", str(out)]
    return [*given, "--workers", str(workers), *(["--ray", ray] if ray else [])]


def left(out: Path) -> dict[str, str]:
    """Decisions, counts, data and the page, by their hashes: all but seconds and places."""
    found = [out / "decisions.parquet", out / "counts.json", *sorted((out / "data").rglob("*"))]
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file()
    }


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Files of stages and of rows that are whole, and which writing of them it is."""
    paths = [*out.glob("stages/*/*.parquet"), *out.glob("rows/*.parquet")]
    return {str(p.relative_to(out)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in paths}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--ray")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    source = heap(given.folder / "heap")
    whole = given.folder / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    began = time.monotonic()
    # the one that nothing disturbs is carried out by the pool, also where Ray is asked for
    subprocess.run(command(source, whole, None, given.workers), check=True, capture_output=True)
    takes = time.monotonic() - began
    wanted = left(whole)
    rng, kills, rounds, kept, moments = random.Random(given.seed), 0, 0, 0, []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    while kills < given.kills:
        out = given.folder / f"killed-{rounds}"
        shutil.rmtree(out, ignore_errors=True)
        before: dict[str, tuple[int, int]] = {}
        while True:
            run = subprocess.Popen(command(source, out, given.ray, given.workers), **quiet)
            # by what is done and not by the clock: how long a run takes depends on what else there is to do
            until = len(before) + rng.randrange(STEP) if kills < given.kills else 10**9
            while (status := run.poll()) is None and len(finished(out)) < until:
                time.sleep(0.01)
            if status is None:
                try:
                    status = run.wait(rng.uniform(0, PAUSE))
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.wait()
                    kills += 1
            now = finished(out)
            if status is None:
                moments.append(len(now))
            again = sorted(name for name, file in before.items() if now.get(name) != file)
            if again:
                raise SystemExit(f"made again after a kill: {', '.join(again[:5])}")
            kept += len(before)
            before = now
            if status == 0:
                break
            if status is not None:
                raise SystemExit(f"the run ended with status {status}")
        if left(out) != wanted:
            raise SystemExit(f"{out} is not what {whole} is, after {kills} kills")
        rounds += 1
        print(f"round {rounds}: {kills} kills, {len(wanted)} files equal", flush=True)
    told = {
        "executor": f"ray {given.ray}" if given.ray else "pool",
        "kills": kills,
        "rounds": rounds,
        "rows": SHARDS * ROWS,
        "files of stages at each kill": moments,
        "files found whole and not made again": kept,
        "seconds of the undisturbed run": round(takes, 1),
        "processors": os.cpu_count(),
    }
    (given.folder / f"kills-{'ray' if given.ray else 'pool'}.json").write_text(json.dumps(told, indent=1))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
