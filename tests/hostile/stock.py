"""What cases begin from, each made once: small whole models, a run, pictures with an index, adapters."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from golden_files import write
from PIL import Image
from published import pipeline
from safetensors.torch import save_file

from diptych.cli import main
from diptych.data.conversations.tokens import TextTokenizer
from diptych.files.folder import locate
from diptych.flow import FlowConfig
from diptych.models.mot import MoT, by_size
from diptych.systems.u1.files import write_folder
from diptych.systems.u1.settings import Contents

TRAIN = (
    *("--data.workers", "0", "--save-every", "1", "--log-every", "1", "--sample-every", "1000000"),
    *("--no-bf16", "--stages.0.steps", "2"),
)
JOINT = ("--mixture", "lines", "1.0", *TRAIN, "--data.documents-per-step", "4")
DRAWN = (
    *("--model.depth", "2", "--model.width", "64", "--model.cross-heads", "2"),
    *("--model.caption-channels", "32", "--text.heads", "2"),
    *("--data.pictures-per-step", "4", "--data.resolutions", "32", *TRAIN),
)
LINE = {"conversations": [{"from": "human", "value": "what is this?"}, {"from": "gpt", "value": "a cat"}]}


class Stock:
    """Things by name, each made when it is first asked for; processes share one stock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def __getitem__(self, name: str) -> Path:
        """Where it lies. Nobody may change it there: see `put`."""
        path = self.folder / name
        with (self.folder / f".{name}.lock").open("w") as lock:
            # another process may be making it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                aside = self.folder / "making" / name
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(exist_ok=True)
                MAKERS[name](self, aside)
                aside.rename(path)
        return path

    def put(self, name: str, target: Path) -> Path:
        """A copy at `target`, with the times of its files: an index holds its pictures to theirs."""
        source = self[name]
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
        return target


def pixels(width: int = 32, height: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def called(*arguments: object) -> None:
    if status := main([str(argument) for argument in arguments]):
        raise RuntimeError(f"{arguments} ended with {status}")


def _pictures(_: Stock, folder: Path) -> None:
    folder.mkdir()
    for number in range(8):
        Image.fromarray(pixels(seed=number)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture number {number}")
    called("data", "index", folder)


def _space(_: Stock, folder: Path) -> None:
    folder.mkdir()
    for part in ("encoder", "decoder"):
        write(f"tiny_autoencoders/taef2_{part}", folder / f"{part}.safetensors")


def _cache(stock: Stock, folder: Path) -> None:
    size = ("--resolutions", "32", "--multiple", "16", "--batch", "4")
    called("data", "cache", stock["pictures"], "-o", folder, "--space", stock["space"], *size)


def _joint(_: Stock, folder: Path) -> None:
    """A small model of the default one's family and vocabulary."""
    tokenizer = TextTokenizer.load(locate(None) / "tokenizer.json")
    model = MoT(by_size(1, vocab_size=tokenizer.vocab_size, patch=8))
    model.initialise(torch.Generator().manual_seed(0))
    contents = Contents(family="u1", native=32, model=model.config, flow=FlowConfig())
    write_folder(folder, contents, tokenizer, model.state_dict(), {"name": "small"}, torch.float32)


def _joint_run(stock: Stock, folder: Path) -> None:
    lines = stock.folder / "lines.jsonl"
    lines.write_text(json.dumps(LINE) + "\n")
    called("train", "emoji-small", "--start", stock["joint"], "-o", folder, "--jsonl", lines, *JOINT)


def _published(_: Stock, folder: Path) -> None:
    pipeline(folder)


def _drawn_run(stock: Stock, folder: Path) -> None:
    data = ("--pictures", stock["pictures"], "--space", stock["space"])
    called("train", "sana-small", "-o", folder, *data, *DRAWN)


def _drawn(stock: Stock, folder: Path) -> None:
    called("export", stock["drawn_run"], "-o", folder)


def _native(stock: Stock, path: Path) -> None:
    """A released denoiser, as safetensors."""
    pickled = path.with_suffix(".pth")
    called("convert", stock["published"], pickled, "--to", "sana")
    found = torch.load(pickled, weights_only=True)
    save_file({name: t.clone() for name, t in found.get("state_dict", found).items()}, path)
    pickled.unlink()


def _lora(_: Stock, path: Path) -> None:
    names = ("lora_A.weight", "lora_B.weight")
    shapes = ((2, 64), (64, 2))
    base = "transformer.transformer_blocks.0.attn1.to_q"
    save_file({f"{base}.{name}": torch.ones(shape) for name, shape in zip(names, shapes, strict=True)}, path)


MAKERS: dict[str, Callable[[Stock, Path], None]] = {
    "pictures": _pictures,
    "space": _space,
    "cache": _cache,
    "joint": _joint,
    "joint_run": _joint_run,
    "published": _published,
    "drawn_run": _drawn_run,
    "drawn": _drawn,
    "native": _native,
    "lora": _lora,
}
