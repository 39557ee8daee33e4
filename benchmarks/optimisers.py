"""Optimisers side by side: what they keep, how long a step takes, what they learn on equal budgets.

- python benchmarks/optimisers.py step [--pairs 9]: bytes of state and seconds a step on a linear DiT of 30M
  parameters
- python benchmarks/optimisers.py train FOLDER [--steps 400]: validation curves of emoji-small, three seeds;
  goes on where it was stopped

`step` runs alternate in one process; AdamW is torch's fused one. `train` first runs each optimiser at three
learning rates on a seed of its own (`--trial-steps`), and takes the best. torchao's AdamW8bit is compared
where torchao is installed (pip install torchao).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from validation_curves import draw_curves

from diptych.models.linear_dit import LinearDiT, LinearDiTConfig
from diptych.optim import CAME
from diptych.optim.build import NAMES, OptimConfig, build_optimisers
from diptych.systems.registry import open_system, recipes
from diptych.training import run as training
from diptych.training import state, trainer

TORCHAO = importlib.util.find_spec("torchao") is not None
RATES = {
    "muon": (1.5e-3, 3e-3, 6e-3),
    "adamw": (7e-4, 1.5e-3, 3e-3),
    "adamw8bit (torchao)": (7e-4, 1.5e-3, 3e-3),
    "came": (1e-4, 3e-4, 1e-3),
    "came8bit": (1e-4, 3e-4, 1e-3),
}


def torchao_adamw(parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit

    class Scheduled(AdamW8bit):
        """Takes a rate that was set as a number."""

        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
            return super().step(closure)

    return Scheduled(list(parameters), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def kinds() -> dict[str, Callable[[list[nn.Parameter]], list[torch.optim.Optimizer]]]:
    made: dict[str, Callable[[list[nn.Parameter]], list[torch.optim.Optimizer]]] = {
        "adamw (fused)": lambda p: [torch.optim.AdamW(p, lr=1e-4, fused=True)],
        "came": lambda p: [CAME(p)],
        "came8bit": lambda p: [CAME(p, bits=8)],
        "muon": lambda p: build_optimisers(
            [(f"blocks.{n}", x) for n, x in enumerate(p)], OptimConfig(name="muon")
        ),
    }
    if TORCHAO:
        made["adamw8bit (torchao)"] = lambda p: [torchao_adamw(p, 1e-4)]
    else:
        print("torchao is not installed: its AdamW8bit is left out")
    return made


def state_bytes(optimisers: list[torch.optim.Optimizer]) -> int:
    """Bytes of all state tensors; of torchao's, of what they are made of."""
    total = 0
    for optimiser in optimisers:
        for entries in optimiser.state.values():
            for value in entries.values():
                inner = (
                    [getattr(value, name) for name in value.__tensor_flatten__()[0]]
                    if hasattr(value, "__tensor_flatten__")
                    else [value]
                )
                total += sum(t.numel() * t.element_size() for t in inner if isinstance(t, torch.Tensor))
    return total


def step(pairs: int) -> None:
    config = LinearDiTConfig(depth=14, width=384, cross_heads=6, caption_channels=256)
    runs = {}
    for name, build in kinds().items():
        torch.manual_seed(0)
        parameters = list(LinearDiT(config).parameters())
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimisers = build(parameters)
        runs[name] = (optimisers, parameters)
    count = sum(p.numel() for p in runs["came"][1])
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(pairs + 2):
        for name, (optimisers, _) in runs.items():
            began = time.perf_counter()
            for optimiser in optimisers:
                optimiser.step()
            if round_ > 1:
                seconds[name].append(time.perf_counter() - began)
    print(
        json.dumps(
            {
                "parameters": count,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "pairs": pairs,
            }
        )
    )
    base, base_bytes = seconds["adamw (fused)"], state_bytes(runs["adamw (fused)"][0])
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, base, strict=True)]
        kept = state_bytes(runs[name][0])
        print(
            f"{name:>20}: {statistics.median(taken) * 1e3:7.1f} ms, {statistics.median(ratios):5.2f} of "
            "fused AdamW "
            f"({min(ratios):.2f} to {max(ratios):.2f}); state {kept / count:.3f} bytes a weight, "
            f"{kept / base_bytes:.3f} of AdamW's"
        )


def run(folder: Path, name: str, lr: float, steps: int, seed: int) -> list[dict[str, Any]]:
    """Validation rows of emoji-small with one optimiser."""
    family, recipe = recipes()["emoji-small"]
    base = recipe()
    chosen = name if name in NAMES else "adamw"
    stage = replace(base.stages[0], steps=steps, optim=replace(base.stages[0].optim, name=chosen, lr=lr))
    config = replace(base, seed=seed, stages=(stage,), sample_every=100, save_every=100)
    if not (folder / "checkpoints" / f"step-{steps:08d}").is_dir():
        with peer() if "torchao" in name else contextlib.nullcontext():
            training.train(family, config, folder, open_system)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "validation" in row]


@contextlib.contextmanager
def peer() -> Iterator[None]:
    """torchao's optimiser in the place of what the config names: it is none of the house's, so its state is
    not saved."""
    build = mock.patch.object(
        trainer, "build_optimisers", lambda named, optim: [torchao_adamw([p for _, p in named], optim.lr)]
    )
    with build, mock.patch.object(state, "exported", return_value={}):
        yield


def train(folder: Path, steps: int, trial_steps: int, seeds: int, names: list[str]) -> None:
    found: dict[str, Any] = {}
    curves: dict[str, list[list[dict[str, Any]]]] = {}
    for name in names:
        plain = name.split(" ")[0] if "torchao" not in name else "torchao"
        trials = {
            lr: run(folder / f"{plain}-trial-{lr:g}", name, lr, trial_steps, 10)[-1]["validation"]
            for lr in RATES[name]
        }
        best = min(trials, key=lambda lr: trials[lr])
        curves[name] = [run(folder / f"{plain}-{seed}", name, best, steps, seed) for seed in range(seeds)]
        last = [rows[-1]["validation"] for rows in curves[name]]
        spread = statistics.stdev(last) if len(last) > 1 else 0.0
        found[name] = {
            "lr": best,
            "trials": trials,
            "validation": last,
            "mean": statistics.mean(last),
            "spread": spread,
            "seconds": [rows[-1]["seconds"] for rows in curves[name]],
        }
        print(name, json.dumps(found[name]), flush=True)
    (folder / "optimisers.json").write_text(json.dumps(found, indent=1) + "\n")
    draw_curves(curves, folder / "optimisers.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("step")
    timing.add_argument("--pairs", type=int, default=9)
    learning = commands.add_parser("train")
    learning.add_argument("folder", type=Path)
    learning.add_argument("--steps", type=int, default=400)
    learning.add_argument("--trial-steps", type=int, default=100)
    learning.add_argument("--seeds", type=int, default=3)
    learning.add_argument(
        "--only",
        nargs="*",
        choices=list(RATES),
        default=[name for name in RATES if TORCHAO or "torchao" not in name],
    )
    options = parser.parse_args()
    if options.command == "step":
        step(options.pairs)
    else:
        train(options.folder, options.steps, options.trial_steps, options.seeds, options.only)


if __name__ == "__main__":
    main()
