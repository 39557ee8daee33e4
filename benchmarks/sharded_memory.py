"""Peak memory of each rank of a sharded run, above the memory after imports, at its start, in steps, while it
saves and while it goes on, against what the ranks' shares, activations and two blocks take.

    python benchmarks/sharded_memory.py --ranks 2 --ranks 4
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOM = 400 * 2**20
"""For what is the same for any model: libraries' own buffers, what the allocator keeps."""
PHASES = ("start", "step", "save", "resume")
STEPS = 2
SETTINGS = {"rows": 4, "tokens": 32, "parallel": "sharded"}


def memory(field: str) -> int:
    """VmRSS, what the process holds, or VmHWM, the most that it held: bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


class Peaks:
    """The most memory of each part of a run."""

    def __init__(self) -> None:
        self.before = memory("VmRSS")
        self.found: dict[str, int] = {}
        self.forget()

    def forget(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")

    def note(self, phase: str) -> None:
        self.found[phase] = max(self.found.get(phase, 0), memory("VmHWM") - self.before)
        self.forget()


def measured_rank(folder: Path, settings: dict[str, Any], phase: str) -> None:
    """One rank: start, steps and a save, or a run that goes on."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))
    import torch
    from toy_job import ToyJob, ToyModelConfig, toy_config

    from diptych.training.trainer import Trainer

    torch.set_num_threads(1)
    model = ToyModelConfig(**settings.pop("model"))
    config = toy_config(steps=STEPS if phase == "start" else STEPS + 1, model=model, keep=1, **settings)
    peaks = Peaks()
    step, save = Trainer._train_step, Trainer._save

    class Measured(Trainer):
        def begin(self) -> None:
            super().begin()
            peaks.note(phase)

        def _train_step(self, *arguments: Any) -> Any:
            report = step(self, *arguments)
            peaks.note("step")
            return report

        def _save(self) -> None:
            peaks.note("step")
            save(self)
            peaks.note("save")

    trainer = Measured(ToyJob(config), folder, quiet=True)
    trainer.train()
    total = sum(p.numel() for p in trainer.model.parameters())
    modules = [*trainer.model.blocks, *(trainer.model.get_submodule(n) for n in trainer.model.facts.apart)]
    block = max(sum(p.numel() for p in module.parameters()) for module in modules)
    told = {"rank": trainer.ranks.rank, "parameters": total, "block": block, "peaks": peaks.found}
    (folder / f"peaks-{phase}-{trainer.ranks.rank}.json").write_text(json.dumps(told))


def measure(ranks: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The peaks of all ranks, and the bar, bytes."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR", "/tmp")))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    peaks: dict[str, int] = {}
    told: dict[str, Any] = {}
    try:
        for phase in ("start", "resume"):
            command = [*launcher, __file__, "--rank", phase, str(folder), json.dumps(settings)]
            subprocess.run(command, env=environment, check=True)
            for file in folder.glob(f"peaks-{phase}-*.json"):
                told = json.loads(file.read_text())
                for name, peak in told["peaks"].items():
                    peaks[name] = max(peak, peaks.get(name, 0))
    finally:
        shutil.rmtree(folder)
    # weights, gradients, two moments, average
    shares = 4 * 5 * told["parameters"] // ranks
    bar = shares + activations(settings) + 2 * 4 * told["block"] + ROOM
    return {"ranks": ranks, "parameters": told["parameters"], "shares": shares, "bar": bar, "peaks": peaks}


def activations(settings: dict[str, Any]) -> int:
    """Bytes that the backward pass of the toy keeps: in a block, five tensors of the width and two of four
    times that; the logits and their softmax."""
    model = settings["model"]
    tokens = settings["rows"] * settings["tokens"]
    return 4 * tokens * (model["depth"] * 13 * model["width"] + 3 * model["vocabulary"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, action="append")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=16000)
    parser.add_argument("--optimiser", default="adamw")
    parser.add_argument("--rank", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rank:
        phase, folder, settings = chosen.rank
        return measured_rank(Path(folder), json.loads(settings), phase)
    model = {"width": chosen.width, "depth": chosen.depth, "vocabulary": chosen.vocabulary}
    settings = {**SETTINGS, "model": model, "optimiser": chosen.optimiser}
    for ranks in chosen.ranks or [2, 4]:
        found = measure(ranks, settings)
        mib = {phase: round(found["peaks"][phase] / 2**20) for phase in PHASES}
        print(
            f"{found['parameters'] / 1e6:.0f}M parameters, {ranks} ranks: "
            + ", ".join(f"{phase} {mib[phase]}" for phase in PHASES)
            + f" MiB; bar {found['bar'] / 2**20:.0f} ({found['shares'] / 2**20:.0f} are shares)"
        )


if __name__ == "__main__":
    main()
