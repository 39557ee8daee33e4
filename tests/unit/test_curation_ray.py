"""The same work by Ray's actors: the same bytes, whatever goes meanwhile."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.curation.engine import curate
from diptych.curation.pool import Here
from diptych.curation.probe import Probe
from diptych.curation.recipes import Recipe
from diptych.curation.text import Text

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'diptych[ray]'")

from diptych.curation.ray import RayExecutor  # noqa: E402 only where Ray is installed


@pytest.fixture
def heap(tmp_path) -> Path:
    folder = tmp_path / "heap"
    folder.mkdir()
    for n in range(40):
        pixels = np.random.default_rng(n).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:02d}.png")
        (folder / f"{n:02d}.txt").write_text(f"noise number {n}")
    return folder


def recipe() -> Recipe:
    return Recipe("test", {}, [Probe(min_side=1, min_sharpness=None), Text(min_words=None)])


def table(out: Path) -> str:
    return hashlib.sha256((out / "decisions.parquet").read_bytes()).hexdigest()


def test_ray_makes_the_same_bytes_also_where_a_worker_is_killed(heap, tmp_path):
    curate(recipe(), heap, tmp_path / "one", Here())
    executor = RayExecutor("local", 1, tmp_path / "many")
    killed = []

    def progress(what, done, of, rows):
        if not killed and executor._members and executor._members[0].begun is None:
            # as a machine that goes does: without a word
            pid = ray.get(executor._members[0].actor.pid.remote())
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    try:
        curate(recipe(), heap, tmp_path / "many", executor, progress)
    finally:
        executor.close()
    assert table(tmp_path / "one") == table(tmp_path / "many")
    assert not ray.is_initialized()
    assert not (tmp_path / "many" / "at").exists()


def test_an_address_where_no_cluster_is_gets_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"--ray 127.0.0.1:1: no cluster answers .*give 'local'"):
        RayExecutor("127.0.0.1:1", 1, tmp_path / "out")
