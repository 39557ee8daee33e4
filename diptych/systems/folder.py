"""A model on disk: config.json, tokenizer.json, model.safetensors and card.json with checksums. Nothing is
ever unpickled."""

from __future__ import annotations

import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

DEFAULT = "default"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


class ModelFolderError(ValueError):
    """A folder that is no whole model of a known kind; the message says which file and why."""


def locate(name: str | Path | None) -> Path:
    """Folder of a model: the shipped one for None or 'default', a path, or a hub id 'owner/name'
    (downloaded).

    Of a hub repository only JSON, safetensors and vocabulary files are taken, never code.
    """
    if name is None or str(name) == DEFAULT:
        return Path(str(resources.files("diptych") / "assets" / "emoji"))
    folder = Path(name)
    if folder.exists():
        if not folder.is_dir():
            hint = (
                " (a pickle: it could run code and is refused; convert it to safetensors)"
                if folder.suffix in _PICKLES
                else ""
            )
            raise ModelFolderError(f"{folder} is a file, not a model folder{hint}")
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"])
            )
        except Exception as error:
            raise ModelFolderError(
                f"{name} is no folder here and could not be fetched from the hub ({error})"
            ) from error
    raise ModelFolderError(f"{name} is neither a folder, nor 'default', nor a hub id such as owner/name")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the weights, every file checked against the card's checksums where it has some."""
    config = _config(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        pickles = [p.name for p in folder.iterdir() if p.suffix in _PICKLES]
        if pickles:
            raise ModelFolderError(
                f"{folder / pickles[0]} is a pickle and could run code: refused; model.safetensors is needed"
            )
        raise ModelFolderError(f"{folder} has no model.safetensors")
    for name, expected in card(folder).get("sha256", {}).items():
        actual = checksum(folder / name) if (folder / name).is_file() else None
        if actual != expected:
            raise ModelFolderError(f"{folder / name} is damaged: its checksum is not the one in card.json")
    return config, _load(weights)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFolderError(f"{folder} has no config.json, so it is no model folder")
    try:
        return dict(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{path} is not JSON ({error})") from error


def card(folder: Path) -> dict[str, Any]:
    """The model's card: what it was trained on, by which command, where it came from; {} where there is
    none."""
    path = folder / "card.json"
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except ValueError as error:
        raise ModelFolderError(f"{path} is not JSON ({error})") from error


def read_weights(folder: Path, stem: str) -> dict[str, Tensor]:
    """Weights `stem`.safetensors of a published folder, in one file or in shards that an index lists.

    Raises ModelFolderError for a shard that is missing, damaged, or holds less than the index says.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return _load(folder / f"{stem}.safetensors")
    places: dict[str, str] = json.loads(index.read_text())["weight_map"]
    weights: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise ModelFolderError(f"{index} names the shard {name!r}, which is no plain file name")
        weights |= _load(folder / name)
    missing = [name for name in places if name not in weights]
    if missing:
        raise ModelFolderError(
            f"{folder / places[missing[0]]} lacks {missing[0]}, which {index.name} says it holds"
        )
    return weights


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path} cannot be read ({error}): cut off, damaged or no safetensors file"
        ) from error


def family(folder: Path) -> str:
    """'u1', 'sana' or another family's name, as the folder's own files tell. Raises ModelFolderError for no
    model folder."""
    if (folder / "model_index.json").is_file():
        return "sana"
    return str(_config(folder).get("family"))


def write(
    folder: Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    about: dict[str, Any],
    dtype: torch.dtype | None,
) -> None:
    """Write a model folder, with checksums of every file in it; weights are stored in `dtype`, or in their
    own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    stored = {
        name: (tensor.detach() if dtype is None else tensor.detach().to(dtype)).contiguous()
        for name, tensor in weights.items()
    }
    save_file(stored, folder / "model.safetensors")
    # safetensors creates its file for the owner alone
    (folder / "model.safetensors").chmod(0o644)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "card.json")
    sums = {path.relative_to(folder).as_posix(): checksum(path) for path in files}
    (folder / "card.json").write_text(json.dumps({**about, "sha256": sums}, indent=1) + "\n")


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
