"""Checkpoints: each rank writes what it holds, and any number of ranks may go on from them.

Written aside, brought to disk, checksummed, renamed; verified before they are used. Safetensors through
torch's distributed checkpoints, and JSON; nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from diptych.files.typed import read_json
from diptych.files.whole import checksum, sync
from diptych.training.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"), None)
_SUMS = "checksums.json"
_STATE = "state.json"
_PREFIX = "step-"
_NAME = re.compile(_PREFIX + "[0-9]{8,}")
_ASIDE = ".writing"
_FILE_BYTES = 2**25
"""Size of a rank's files, or of one tensor where that is larger: a file is copied in memory to be written."""
Say = Callable[[str], None]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message says which file and why."""


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: dict[str, Any],
    keep: int,
    ranks: Ranks = ALONE,
) -> Path:
    """Write `step` under `folder`: tensors by name, sharded or the same on all ranks, and a small state.

    All ranks call it together. Nothing with the final name exists before everything is on disk. Older
    checkpoints beyond `keep` go afterwards. Raises CheckpointError on all ranks, naming the last good
    checkpoint, when the disk is full or not writable; no partial result is left.
    """
    target, aside = folder / f"{_PREFIX}{step:08d}", folder / f"{_ASIDE}-{step:08d}"
    sums: dict[str, str] = {}
    with _together(ranks, target, aside):
        if ranks.first:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
    with _together(ranks, target, aside), warnings.catch_warnings():
        # that no process group was started is how one rank works
        warnings.filterwarnings("ignore", message=".*assuming the intent is to save")
        files = _files(tensors, ranks.count if ranks.sharded else 1)
        writer = HuggingFaceStorageWriter(str(aside), fqn_to_index_mapping=files, save_distributed=True)
        shaped = {name: tensor.view(1) if tensor.ndim == 0 else tensor for name, tensor in tensors.items()}
        dcp.save(shaped, storage_writer=writer, no_dist=ranks.mesh is None)
        # a rank's own files, which it has in its cache
        for file in aside.glob(f"shard-{ranks.rank + 1:05d}-*"):
            file.chmod(0o644)
            sums[file.name] = checksum(file)
    parts = ranks.gathered(sums)
    with _together(ranks, target, aside):
        if ranks.first:
            (aside / _STATE).write_text(json.dumps(state, indent=1))
            sums = {name: part[name] for part in parts for name in part}
            sums[_STATE] = checksum(aside / _STATE)
            (aside / _SUMS).write_text(json.dumps(sums, indent=1, sort_keys=True))
            for path in (aside / _STATE, aside / _SUMS, aside):
                sync(path)
            if target.exists():
                shutil.rmtree(target)
            aside.rename(target)
            sync(folder)
            for old in _all(folder)[: -max(1, keep)]:
                shutil.rmtree(old, ignore_errors=True)
    return target


@contextlib.contextmanager
def _together(ranks: Ranks, target: Path, aside: Path) -> Iterator[None]:
    """A part of the writing of `target`; where it fails on one rank, it fails on all."""
    failure, cause = "", cast(BaseException | None, None)
    try:
        yield
    except CheckpointException as error:
        # of the ranks that failed, each knows why; the whole of it is a page of tracebacks
        failure, cause = "; ".join(str(what) for what, _ in error.failures.values()), error
    except Exception as error:
        failure, cause = str(error) or type(error).__name__, error
    failures = dict.fromkeys(filter(None, ranks.gathered(failure)))
    if not failures:
        return
    if ranks.first:
        shutil.rmtree(aside, ignore_errors=True)
    good = latest_step(target.parent)
    kept = (
        f"the last good checkpoint is step {good}" if good is not None else "there is no earlier checkpoint"
    )
    raise CheckpointError(f"{target} could not be written ({'; '.join(failures)}); {kept}") from cause


def _files(tensors: Mapping[str, Tensor], shares: int) -> dict[str, int]:
    """Number, from 1, of the file that each tensor goes to, in the order of the tensors."""
    files: dict[str, int] = {}
    number, filled = 1, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size() // shares
        if filled and filled + size > _FILE_BYTES:
            number, filled = number + 1, 0
        files[name] = number
        filled += size
    return files


def _all(folder: Path) -> list[Path]:
    """Checkpoints, oldest first. A folder of any other name is none."""
    named = [p for p in folder.glob(f"{_PREFIX}*") if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(named, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def latest_step(folder: Path) -> int | None:
    """Step of the newest checkpoint, verified or not."""
    found = _all(folder)
    return _step(found[-1]) if found else None


def clean(folder: Path) -> None:
    """Remove what a killed process had half written. For the one process that writes there."""
    for stale in folder.glob(f"{_ASIDE}-*"):
        shutil.rmtree(stale, ignore_errors=True)


def verify(checkpoint: Path, ranks: Ranks = ALONE) -> str | None:
    """None where every file is as it was written, else what is wrong. Ranks share the work."""
    wrong = None
    try:
        sums = read_json(checkpoint / _SUMS)
        for name, expected in sorted(sums.items())[ranks.rank :: ranks.count]:
            if checksum(checkpoint / name) != expected:
                wrong = f"{checkpoint / name} is damaged (its checksum differs)"
                break
        # the reader takes every such file that it finds, and of two with one tensor either
        for path in checkpoint.glob("*.safetensors"):
            if path.name not in sums:
                wrong = f"{path} was not written with its checkpoint"
    except (OSError, ValueError, AttributeError) as error:
        wrong = f"{checkpoint} is incomplete ({error})"
    return next(filter(None, ranks.gathered(wrong)), None)


def latest(folder: Path, say: Say = print, ranks: Ranks = ALONE) -> Checkpoint | None:
    """The newest good checkpoint, the same on all ranks; damaged ones are told and the one before is used.

    None where there is no checkpoint at all; CheckpointError where all are damaged.
    """
    # not every rank may see a new name at once
    (found, *_) = ranks.gathered([path.name for path in _all(folder)])
    for name in reversed(found):
        wrong = verify(folder / name, ranks)
        if wrong is None:
            return Checkpoint(folder / name)
        say(f"{wrong}; using the checkpoint before it")
    if found:
        raise CheckpointError(f"no checkpoint under {folder} is whole")
    return None


class Checkpoint:
    """One that was verified: what it holds is looked at first, then read into tensors of any layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = read_json(path / _STATE)
        metadata = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(entry.size)  # type: ignore[union-attr]
            for name, entry in metadata.items()
        }

    def names(self, group: str) -> set[str]:
        """Names of the tensors of a group, 'group|name', without it."""
        return {name.partition("|")[2] for name in self.shapes if name.partition("|")[0] == group}

    def read(self, group: str, targets: Mapping[str, Tensor], ranks: Ranks = ALONE) -> None:
        """Read a group of tensors in place: each rank what it holds, from whatever ranks wrote it.

        Raises CheckpointError where names or shapes are not those of the targets.
        """
        odd = sorted(self.names(group) ^ set(targets)) or [
            name
            for name, target in targets.items()
            if self.shapes[f"{group}|{name}"] != (tuple(target.shape) or (1,))
        ]
        if odd:
            raise CheckpointError(
                f"the {group} weights in {self.path} are of another architecture (first difference: {odd[0]})"
            )
        values = {
            f"{group}|{name}": t.detach().view(1) if t.ndim == 0 else t.detach()
            for name, t in targets.items()
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load")
            dcp.load(
                values, storage_reader=HuggingFaceStorageReader(str(self.path)), no_dist=ranks.mesh is None
            )

    def whole(self, group: str) -> dict[str, Tensor]:
        """A group of tensors as they are, whole, on the CPU of one process."""
        names = sorted(self.names(group))
        found = {name: torch.empty(self.shapes[f"{group}|{name}"]) for name in names}
        self.read(group, found)
        return found
