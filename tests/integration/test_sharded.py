"""Runs over several ranks that share one model: going on with any number of them, and what each holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diptych.training import checkpoint

UNIT = Path(__file__).parents[1] / "unit"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(UNIT))
from toy_job import toy_run  # noqa: E402

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(UNIT), str(UNIT.parents[1]), os.environ.get("PYTHONPATH", "")]),
}
OPTIMISERS = ("adamw", "came", "came8bit")
STEPS = 5


def on_ranks(count: int, *runs: tuple[Path, dict[str, object]]) -> None:
    """Runs of the toy, one after the other, on ranks that share its model."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    told = [f"{folder}={json.dumps(settings)}" for folder, settings in runs]
    done = subprocess.run(
        [*launcher, str(UNIT / "toy_job.py"), *told], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def settings(optimiser: str, **changes: object) -> dict[str, object]:
    return {"steps": STEPS, "optimiser": optimiser, "accumulate": 2, "parallel": "sharded", **changes}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """All runs of this file: each start of several processes takes seconds."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("adamw", "came"):
        toy_run(folder / f"{name}-1", **settings(name))
        toy_run(folder / f"{name}-1-2-1", **settings(name, stop=1))
    on_ranks(
        2,
        *((folder / f"{name}-1-2-1", settings(name, stop=3)) for name in ("adamw", "came")),
        *((folder / f"{name}-2", settings(name)) for name in OPTIMISERS),
        *((folder / f"{name}-2-2", settings(name, stop=2, sample_every=2)) for name in OPTIMISERS),
        *((folder / f"{name}-2-2", settings(name)) for name in OPTIMISERS),
        (folder / "adamw-2-4", settings("adamw", stop=1)),
        (folder / "spoilt", settings("adamw", spoilt=True)),
        (folder / "too-spoilt", settings("adamw", spoilt=True, save_every=1, max_bad_samples=7)),
    )
    assert checkpoint.latest_step(folder / "adamw-1-2-1" / "checkpoints") == 4
    assert checkpoint.latest_step(folder / "adamw-2-4" / "checkpoints") == 2
    on_ranks(4, (folder / "adamw-2-4", settings("adamw")))
    for name in ("adamw", "came"):
        toy_run(folder / f"{name}-1-2-1", **settings(name))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(folder / "checkpoints")
    assert found.state["step"] == STEPS
    return {f"{group}|{n}": t for group in ("model", "ema") for n, t in found.whole(group).items()}


@pytest.mark.parametrize("names", ["adamw-1 adamw-1-2-1", "came-1 came-1-2-1", "adamw-2 adamw-2-4"])
def test_any_number_of_ranks_goes_on_from_any_other(runs, names):
    straight, moved = (weights(runs / name) for name in names.split())
    assert straight.keys() == moved.keys()
    for name, expected in straight.items():
        assert (moved[name] - expected).norm() <= 1e-4 * expected.norm(), name


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_an_interrupted_run_on_two_ranks_equals_the_straight_one_to_the_bit(runs, optimiser):
    # the interrupted one was drawn and validated on the way, by both ranks together
    assert (runs / f"{optimiser}-2-2" / "samples" / "step-00000002.png").is_file()
    straight, broken = weights(runs / f"{optimiser}-2"), weights(runs / f"{optimiser}-2-2")
    assert all(torch.equal(straight[name], broken[name]) for name in straight)


def test_samples_that_no_rank_can_use_are_counted_over_all_and_stop_all(runs):
    found = checkpoint.latest(runs / "spoilt" / "checkpoints").state
    assert (found["step"], found["bad_samples"]) == (STEPS, 3 * STEPS)
    rows = [json.loads(line) for line in (runs / "spoilt" / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted((row["step"], row["reason"]) for row in rows) == [
        (step, reason) for step in range(STEPS) for reason in ("rank 0, 0", "rank 1, 0", "rank 1, 1")
    ]
    # neither rank alone has more than seven in three steps
    stopped = checkpoint.latest(runs / "too-spoilt" / "checkpoints").state
    assert (stopped["step"], stopped["bad_samples"]) == (2, 6)


def test_ranks_write_what_they_hold_and_nothing_that_runs_code(runs):
    (saved,) = [p for p in (runs / "adamw-2-4" / "checkpoints").iterdir() if p.name.endswith("5")]
    names = {path.name for path in saved.iterdir()}
    assert {name.split("-model")[0] for name in names if name.endswith(".safetensors")} == {
        f"shard-{rank:05d}" for rank in range(1, 5)
    }
    assert {name for name in names if not name.endswith(".safetensors")} == {"state.json", "checksums.json"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are told by Linux alone")
def test_a_rank_never_holds_the_whole(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sharded_memory

    model = {"width": 768, "depth": 8, "vocabulary": 4000}
    found = sharded_memory.measure(2, {**sharded_memory.SETTINGS, "model": model})
    assert 40e6 < found["parameters"] < 50e6
    # a small model leaves most of the room for what is the same for any model unused
    bar = found["bar"] - sharded_memory.ROOM + 120 * 2**20
    assert {phase for phase, peak in found["peaks"].items() if peak > bar} == set(), found
