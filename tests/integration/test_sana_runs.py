"""Whole SANA runs through the public command: kills, several ranks with adversarial aspects, cached and
not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from golden_files import write
from PIL import Image

from diptych.cli import main
from diptych.training import checkpoint

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KILLS = int(os.environ.get("DIPTYCH_KILLS", "2"))
SMALL = [
    "--model.depth",
    "2",
    "--model.width",
    "64",
    "--model.cross-heads",
    "2",
    "--model.caption-channels",
    "32",
    "--text.heads",
    "2",
    "--data.pictures-per-step",
    "8",
    "--data.resolutions",
    "32",
    "--data.workers",
    "0",
    "--save-every",
    "2",
    "--log-every",
    "1",
    "--sample-every",
    "1000000",
    "--no-bf16",
]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Pictures of many aspects, most of them alone in their bucket, and an autoencoder."""
    folder = tmp_path_factory.mktemp("material")
    pictures, space = folder / "pictures", folder / "space"
    pictures.mkdir()
    space.mkdir()
    rng = np.random.default_rng(0)
    for n in range(50):
        width, height = ((32, 32), (96, 24), (20, 80), (64, 33 + n), (40 + n, 30))[n % 5]
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(pictures / f"{n}.png")
        (pictures / f"{n}.txt").write_text(f"picture number {n}")
    for part in ("encoder", "decoder"):
        write(f"tiny_autoencoders/taef2_{part}", space / f"{part}.safetensors")
    assert main(["data", "index", str(pictures)]) == 0
    return pictures, space


def command(material, folder: Path, steps: int, *more: str) -> list[str]:
    pictures, space = material
    data = ["--pictures", str(pictures), "--space", str(space)]
    return [
        sys.executable,
        "-m",
        "diptych.cli",
        "train",
        "sana-small",
        "-o",
        str(folder),
        *SMALL,
        *data,
        "--stages.0.steps",
        str(steps),
        *more,
    ]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["flow"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("ranks", "parallel"), [(2, "sharded"), (4, "auto")])
def test_ranks_equal_one_process_whatever_the_aspects(material, tmp_path, ranks, parallel):
    # muon needs whole matrices, so it runs where the model is replicated
    adamw = ("--stages.0.optim.name", "adamw" if parallel == "sharded" else "muon", "--parallel", parallel)
    subprocess.run(
        command(material, tmp_path / "one", 10, *adamw), env=ENVIRONMENT, check=True, capture_output=True
    )
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        "-m",
        "diptych.cli",
    ]
    many = torchrun + command(material, tmp_path / "many", 10, *adamw)[3:]
    done = subprocess.run(many, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert ("model sharded over them" if parallel == "sharded" else "the whole model on each") in said
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert len(losses(tmp_path / "one")) == 10


def test_killed_at_random_moments_a_cached_run_always_resumes(material, tmp_path):
    pictures, space = material
    cache = tmp_path / "cache"
    arguments = [
        "data",
        "cache",
        str(pictures),
        "-o",
        str(cache),
        "--space",
        str(space),
        "--resolutions",
        "32",
        "--multiple",
        "16",
        "--batch",
        "8",
    ]
    assert main(arguments) == 0
    chance, saved, run = random.Random(0), 0, tmp_path / "run"
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(material, run, 100_000, "--cache", str(cache)),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        limit = time.monotonic() + 300
        while (checkpoint.latest_step(run / "checkpoints") or -1) <= saved:
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < limit, "no new checkpoint within 300 s"
            time.sleep(0.05)
        time.sleep(chance.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = checkpoint.latest(run / "checkpoints")
        assert found is not None
        assert found.state["step"] >= saved
        saved = found.state["step"]
    last = command(material, run, saved + 2, "--cache", str(cache))
    finished = subprocess.run(last, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert f"resumed at step {saved}" in " ".join(finished.stdout.split())
