"""Checkpoints: written aside, fsynced, checksummed, renamed; verified on load; safetensors and JSON only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.optim import CAME

_SUMS = "checksums.json"
_PREFIX = "step-"
_AVERAGES = {f"exp_avg_{what}_{axis}" for what in ("sq", "res") for axis in ("row", "col")}
_ENTRIES: dict[type, set[str]] = {
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.Muon: {"momentum_buffer"},
    CAME: {"exp_avg", "exp_avg_sq", *_AVERAGES},
}
"""What each optimiser keeps of a parameter."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message says which file and why."""


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int
) -> Path:
    """Write `step` under `folder`: one safetensors file per group of tensors, state.json and checksums.

    Nothing with the final name exists before everything is on disk. Older checkpoints beyond `keep` go
    afterwards. Raises CheckpointError, naming the last good checkpoint, when the disk is full or not
    writable; no partial result is left.
    """
    target, aside = folder / f"{_PREFIX}{step:08d}", folder / f".writing-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for name, group in tensors.items():
            save_file(
                {key: tensor.detach().cpu().contiguous() for key, tensor in group.items()},
                aside / f"{name}.safetensors",
            )
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        sums = {file.name: _checksum(file) for file in sorted(aside.iterdir())}
        (aside / _SUMS).write_text(json.dumps(sums, indent=1))
        for file in aside.iterdir():
            _sync(file)
        _sync(aside)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        _sync(folder)
    except Exception as error:
        # safetensors reports a full disk as an error of its own
        shutil.rmtree(aside, ignore_errors=True)
        good = latest_step(folder)
        kept = (
            f"the last good checkpoint is step {good}"
            if good is not None
            else "there is no earlier checkpoint"
        )
        raise CheckpointError(f"{target} could not be written ({error}); {kept}") from error
    for old in _all(folder)[: -max(1, keep)]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"{_PREFIX}*") if p.is_dir()) if folder.is_dir() else []


def latest_step(folder: Path) -> int | None:
    """Step of the newest checkpoint, verified or not."""
    found = _all(folder)
    return int(found[-1].name.removeprefix(_PREFIX)) if found else None


def verify(checkpoint: Path) -> str | None:
    """None where every file is as it was written, else what is wrong."""
    try:
        sums = json.loads((checkpoint / _SUMS).read_text())
        for name, expected in sums.items():
            if _checksum(checkpoint / name) != expected:
                return f"{checkpoint / name} is damaged (its checksum differs)"
    except (OSError, ValueError) as error:
        return f"{checkpoint} is incomplete ({error})"
    return None


def load_latest(
    folder: Path, report: Any = print
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Tensors and state of the newest good checkpoint; damaged ones are reported and the one before is used.

    None where there is no checkpoint at all; CheckpointError where all are damaged.
    """
    with contextlib.suppress(FileNotFoundError):
        for stale in folder.glob(".writing-*"):
            shutil.rmtree(stale, ignore_errors=True)
    found = _all(folder)
    for checkpoint in reversed(found):
        wrong = verify(checkpoint)
        if wrong is None:
            tensors = {file.stem: load_file(file) for file in checkpoint.glob("*.safetensors")}
            return tensors, json.loads((checkpoint / "state.json").read_text())
        report(f"{wrong}; using the checkpoint before it")
    if found:
        raise CheckpointError(f"no checkpoint under {folder} is whole")
    return None


def optimiser_tensors(
    optimisers: list[torch.optim.Optimizer], names: dict[Any, str], full: Any
) -> dict[str, Tensor]:
    """Optimiser state as flat names: 'optimiser|parameter|entry'. `full` gathers a sharded tensor."""
    out = {}
    for index, optimiser in enumerate(optimisers):
        state, parameters = optimiser.state_dict()["state"], _parameters(optimiser)
        for number, entries in state.items():
            for key, value in entries.items():
                out[f"{index}|{names[parameters[number]]}|{key}"] = (
                    full(value) if isinstance(value, Tensor) else torch.tensor(value)
                )
    return out


def restore_optimisers(
    optimisers: list[torch.optim.Optimizer], names: dict[Any, str], tensors: dict[str, Tensor], shard: Any
) -> None:
    """Inverse of `optimiser_tensors`; `shard(tensor, like)` gives a tensor the layout of the parameter
    `like`."""
    for index, optimiser in enumerate(optimisers):
        parameters = _parameters(optimiser)
        numbers = {names[parameter]: number for number, parameter in enumerate(parameters)}
        state: dict[int, dict[str, Tensor]] = {}
        for flat, tensor in tensors.items():
            owner, name, key = flat.split("|")
            if int(owner) == index:
                like = parameters[numbers[name]]
                value = shard(tensor, like) if tensor.shape == like.shape and tensor.ndim else tensor
                state.setdefault(numbers[name], {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def is_state_of(
    optimisers: list[torch.optim.Optimizer], names: dict[Any, str], tensors: Mapping[str, Tensor]
) -> bool:
    """Whether state as `optimiser_tensors` gives it belongs to optimisers of these kinds over these
    parameters."""
    known = {
        f"{index}|{names[parameter]}|{key}"
        for index, optimiser in enumerate(optimisers)
        for parameter in _parameters(optimiser)
        for key in _ENTRIES[type(optimiser)]
    }
    return known.issuperset(tensors)


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
