"""What loading a published folder takes: anonymous memory above the start, and seconds, against the weights.

    python benchmarks/loading.py FOLDER [--depth 18 --width 1536]

Makes FOLDER, a model of random bfloat16 weights in the published layout, where it is not there yet, and
loads it in a process of its own for each type. Beside it, what `diptych info` says before anything is loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from diptych.files.weights import Planned
from diptych.flow import FlowConfig, NoiseLaw, Objective
from diptych.models.meta import without_storage
from diptych.models.mot import MoT, MoTConfig
from diptych.systems.u1.defaults import CONVERSATION, NATIVE
from diptych.systems.u1.files import Contents, read_folder, write_published
from diptych.systems.u1.words import read_tokenizer

WORDS = Path(__file__).resolve().parents[1] / "tests" / "golden" / "u1_folder" / "model"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Random(Planned):
    """Weights that are drawn when they are asked for."""

    def __init__(self, config: MoTConfig) -> None:
        with without_storage():
            self._layout = {name: t.to(torch.bfloat16) for name, t in MoT(config).state_dict().items()}

    def layout(self) -> dict[str, Tensor]:
        return self._layout

    def __getitem__(self, name: str) -> Tensor:
        return torch.randn(self._layout[name].shape).mul_(0.02).bfloat16()

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)


def make(folder: Path, depth: int, width: int) -> None:
    config = MoTConfig(
        vocab_size=151_936,
        width=width,
        depth=depth,
        heads=width // 128,
        kv_heads=max(1, width // 384),
        head_dim=128,
        ffn_width=3 * width,
    )
    contents = Contents(
        family="u1",
        native=NATIVE,
        model=config,
        flow=FlowConfig(law=NoiseLaw(mean=0.8, std=0.8, shift=1.0), objective=Objective(sigma_min=0.05)),
        conversation=CONVERSATION,
    )
    write_published(folder, contents, read_tokenizer(WORDS, ()), Random(config))


def anonymous() -> int:
    told = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in told if line.startswith("Anonymous:"))


def load(folder: Path, dtype: str) -> None:
    """Print anonymous bytes above the start, bytes of the weights, and seconds."""
    # what torch and the tokenizer take once is no part of it
    _ = read_tokenizer(WORDS, ()), torch.ones(8).to(DTYPES[dtype])
    before, began = anonymous(), time.perf_counter()
    model = read_folder(folder, "cpu", DTYPES[dtype])["model"]
    seconds = time.perf_counter() - began
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    print(anonymous() - before, weights, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--only", choices=DTYPES, help="load once, in this process")
    options = parser.parse_args()
    if options.only:
        return load(options.folder, options.only)
    if not (options.folder / "config.json").is_file():
        make(options.folder, options.depth, options.width)
    info = [sys.executable, "-m", "diptych.cli", "info", str(options.folder), "--json"]
    told = json.loads(subprocess.run(info, check=True, capture_output=True, text=True).stdout)
    print(f"{told['parameters']:,} parameters")
    print("| type | told before | anonymous memory above the start | of the weights | seconds |")
    print("|---|---|---|---|---|")
    for dtype in DTYPES:
        command = [sys.executable, __file__, str(options.folder), "--only", dtype]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        taken, weights, seconds = (float(number) for number in done.stdout.split())
        sizes = f"{told['bytes'][dtype] / 2**20:,.0f} MiB | {taken / 2**20:,.0f} MiB"
        print(f"| {dtype} | {sizes} | {taken / weights:.3f} | {seconds:.1f} |")
    return None


if __name__ == "__main__":
    main()
