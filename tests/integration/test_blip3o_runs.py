"""Whole runs of what draws behind a language model, through the public command: kills, two ranks, every
recipe one after the other."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import squares

from diptych.cli import main
from diptych.spaces import load_space
from diptych.systems.blip3o import caches
from diptych.systems.blip3o.pictures import Squares
from diptych.training import checkpoint

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KILLS = int(os.environ.get("DIPTYCH_KILLS", "2"))
EVERY = ["--no-bf16", "--save-every", "2", "--log-every", "1", "--sample-every", "1000000", "--ema", "0.5"]
DATA = ["--data.pictures-per-step", "4", "--data.resolutions", "32", "--data.validation", "0"]
SMALL = ["--stages.0.optim.name", "adamw", "--stages.0.optim.lr", "0.01", "--stages.0.optim.warmup", "1"]
TOWER = ["--vision.size", "32", "--vision.width", "32", "--vision.depth", "1", "--vision.heads", "2"]
WORDS = ["--text.vocab-size", "300", "--text.channels", "32", "--text.depth", "1", "--text.heads", "2"]
LATENTS = ["--latents.channels", "4", "--latents.width", "8"]
LINEAR = ["--linear.depth", "1", "--linear.width", "64", "--linear.cross-heads", "1", "--side-vectors", "4"]
DENOISER = ["--model.depth", "1", "--model.width", "32", "--model.heads", "2", "--model.ffn-width", "32"]


def command(recipe: str, out: Path, steps: int, *more: str) -> list[str]:
    return ["train", recipe, "-o", str(out), *EVERY, *DATA, *SMALL, "--stages.0.steps", str(steps), *more]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Pictures, an encoder, an autoencoder and a space of features, each trained and exported by the
    command."""
    folder = tmp_path_factory.mktemp("material")
    pictures = folder / "pictures"
    pictures.mkdir()
    squares.pictures(pictures)
    data = ["--pictures", str(pictures)]
    parts = {
        "contrastive": [*TOWER, *WORDS],
        "autoencoder": LATENTS,
        "blip3o-detokenizer": [
            *LINEAR,
            *("--encoder", str(folder / "contrastive"), "--space", str(folder / "autoencoder")),
        ],
    }
    for recipe, more in parts.items():
        assert main(command(recipe, folder / "runs" / recipe, 2, *data, *more)) == 0
        assert main(["export", str(folder / "runs" / recipe), "-o", str(folder / recipe)]) == 0
    return folder


def drawing(material: Path, out: Path, steps: int, *more: str) -> list[str]:
    places = ["--pictures", str(material / "pictures"), "--space", str(material / "blip3o-detokenizer")]
    return command("blip3o", out, steps, *places, *DENOISER, *more)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["flow"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_model_is_trained_tuned_and_draws_by_command(material, tmp_path):
    run, model = tmp_path / "run", tmp_path / "model"
    assert main(drawing(material, run, 3, "--cache", str(tmp_path / "cache"))) == 0
    assert main(["export", str(run), "-o", str(model)]) == 0
    tuned = command("blip3o-tuning", tmp_path / "tuned", 2, "--start", str(model))
    assert main([*tuned, "--pictures", str(material / "pictures")]) == 0
    assert main(["export", str(tmp_path / "tuned"), "-o", str(tmp_path / "again")]) == 0
    asked = ["do", "draw a red square", "--model", str(tmp_path / "again"), "-o", str(tmp_path / "drawn.png")]
    assert main(asked) == 0
    assert (tmp_path / "drawn.png").is_file()


def test_killed_at_random_moments_a_cached_run_always_resumes(material, tmp_path):
    chance, saved, run = random.Random(0), 0, tmp_path / "run"
    words = drawing(material, run, 100_000, "--cache", str(tmp_path / "cache"))
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "diptych.cli", *words],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 300
        while (checkpoint.latest_step(run / "checkpoints") or 0) <= saved and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(chance.random() / 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = checkpoint.latest(run / "checkpoints")
        assert found is not None
        assert found.state["step"] > saved
        saved = found.state["step"]


@pytest.mark.parametrize("bridge", ["states", "connector"])
def test_two_sharded_ranks_equal_one_process(bridge, material, tmp_path):
    more = ["--bridge.kind", bridge, "--bridge.queries", "4"]
    one = drawing(material, tmp_path / "one", 4, *more)
    subprocess.run(
        [sys.executable, "-m", "diptych.cli", *one], env=ENVIRONMENT, check=True, capture_output=True
    )
    many = drawing(material, tmp_path / "many", 4, "--parallel", "sharded", *more)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "diptych.cli", *many], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert len(losses(tmp_path / "one")) == 4


def test_several_processes_do_not_make_one_cache(material, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    space, index = load_space(material / "autoencoder"), Squares(material / "pictures")
    with pytest.raises(ValueError, match="no finished cache"):
        caches.opened(tmp_path / "cache", space, None, index, 32, 0.0)
