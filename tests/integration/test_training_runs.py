"""Whole runs through the public command: kills, several ranks, one's own data."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from diptych import cli
from diptych.training import checkpoint

SHIPPED = Path(cli.__file__).parent / "assets" / "emoji"
SMALL = [
    "--size",
    "2",
    "--data.documents-per-step",
    "4",
    "--data.workers",
    "0",
    "--save-every",
    "2",
    "--log-every",
    "1",
    "--sample-every",
    "1000000",
    "--stages.0.steps",
    "2",
    "--stages.1.steps",
    "2",
    "--stages.3.steps",
    "2",
    "--no-bf16",
]
KILLS = int(os.environ.get("DIPTYCH_KILLS", "3"))


def command(folder: Path, steps: int, *more: str) -> list[str]:
    """A small run; flags in `more` are instead of its own."""
    # of a run from scratch: learning the words takes longer than these few steps
    words = [] if "--start" in more else ["--tokenizer", str(SHIPPED)]
    pairs = zip(SMALL[:-1:2], SMALL[1::2], strict=True)
    small = [part for flag, value in pairs if flag not in more for part in (flag, value)]
    return [
        sys.executable,
        "-m",
        "diptych.cli",
        "train",
        "emoji",
        "-o",
        str(folder),
        *small,
        SMALL[-1],
        *words,
        "--stages.2.steps",
        str(steps),
        *more,
    ]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_killed_at_random_moments_a_run_always_resumes_and_loses_nothing_saved(world, tmp_path):
    chance = random.Random(0)
    saved = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(tmp_path, 100_000), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_step(tmp_path, saved, process)
        time.sleep(chance.random() * 1.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        step = checkpoint.latest(tmp_path / "checkpoints").state["step"]
        assert step >= saved
        saved = step
    finished = subprocess.run(
        command(tmp_path, saved), env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert f"resumed at step {saved}" in " ".join(finished.stdout.split())


def wait_for_step(folder: Path, after: int, process: subprocess.Popen) -> None:
    """Until a checkpoint newer than `after` is there."""
    limit = time.monotonic() + 300
    while (checkpoint.latest_step(folder / "checkpoints") or -1) <= after:
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < limit, "no new checkpoint within 300 s"
        time.sleep(0.05)


def test_ctrl_c_saves(world, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, 100_000, "--save-every", "1000000"), env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    limit = time.monotonic() + 300
    while not (tmp_path / "log.jsonl").exists():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < limit
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert checkpoint.latest(tmp_path / "checkpoints").state["step"] >= 1


def test_ranks_hear_ctrl_c_apart_and_stop_together(world, tmp_path):
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "diptych.cli",
    ]
    settings = [
        "--parallel",
        "sharded",
        *(part for stage in range(4) for part in (f"--stages.{stage}.optim.name", "adamw")),
    ]
    run = torchrun + command(tmp_path, 40, "--save-every", "1000000", *settings)[3:]
    process = subprocess.Popen(run, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 300
    while not (tmp_path / "log.jsonl").exists():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < limit
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    stopped = checkpoint.latest_step(tmp_path / "checkpoints")
    assert 1 <= stopped < 46
    done = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert f"resumed at step {stopped} of 46" in " ".join(done.stdout.split())


def losses(folder: Path) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["text"], row["flow"]) for row in rows]


@pytest.mark.parametrize(("optimiser", "lr"), [("adamw", "2e-3"), ("came", "2e-4")])
def test_two_ranks_under_fsdp2_equal_one_process(world, tmp_path, optimiser, lr):
    chosen = [
        (f"--stages.{stage}.optim.name", optimiser, f"--stages.{stage}.optim.lr", lr) for stage in range(4)
    ]
    settings = ["--parallel", "sharded", *(part for parts in chosen for part in parts)]
    one = command(tmp_path / "one", 14, *settings)
    subprocess.run(one, env=ENVIRONMENT, check=True, capture_output=True)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "diptych.cli",
    ]
    two = torchrun + command(tmp_path / "two", 14, *settings)[3:]
    subprocess.run(two, env=ENVIRONMENT, check=True, capture_output=True)
    assert len(losses(tmp_path / "one")) == 20
    for a, b in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_ones_own_jsonl_trains_and_broken_lines_are_told(world, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    good = {
        "conversations": [{"from": "human", "value": "red"}, {"from": "gpt", "value": "<image>"}],
        "image": "red.png",
    }
    rows = [json.dumps(good), "{broken", json.dumps({**good, "image": "rad.png"})]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    run = command(tmp_path / "run", 2, "--jsonl", str(tmp_path / "mine.jsonl"), "--mixture", "mine", "1.0")
    done = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").state["step"] == 8
    reasons = {
        json.loads(line)["reason"]
        for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    }
    assert any("mine.jsonl:2: not JSON" in reason for reason in reasons)
    assert any(
        "mine.jsonl:3: image 'rad.png' is not in" in reason and "nearest: 'red.png'" in reason
        for reason in reasons
    )


def test_a_run_can_start_from_the_shipped_model(world, tmp_path):
    import diptych

    shipped = diptych.load("default").system.model.state_dict()
    steps = [part for stage in range(4) for part in (f"--stages.{stage}.optim.lr", "1e-9")]
    run = command(tmp_path, 2, "--start", "default", *steps)
    subprocess.run(run, env=ENVIRONMENT, check=True, capture_output=True)
    trained = checkpoint.latest(tmp_path / "checkpoints").whole("model")
    name = "blocks.0.gen.q.weight"
    assert (trained[name] - shipped[name]).abs().max() < 1e-6
