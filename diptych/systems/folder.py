"""A model on disk: config.json, tokenizer.json, model.safetensors and card.json with checksums. Nothing is ever unpickled."""

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
    """Folder of a model: the shipped one for None or 'default', a path, or a hub id 'owner/name' (downloaded).

    Of a hub repository only JSON and safetensors files are taken, never code.
    """
    if name is None or str(name) == DEFAULT:
        return Path(str(resources.files("diptych") / "assets" / "emoji"))
    folder = Path(name)
    if folder.exists():
        if not folder.is_dir():
            hint = " (a pickle: it could run code and is refused; convert it to safetensors)" if folder.suffix in _PICKLES else ""
            raise ModelFolderError(f"{folder} is a file, not a model folder{hint}")
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
        except Exception as error:
            raise ModelFolderError(f"{name} is no folder here and could not be fetched from the hub ({error})") from error
    raise ModelFolderError(f"{name} is neither a folder, nor 'default', nor a hub id such as owner/name")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the weights, every file checked against the card's checksums where it has some."""
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder} has no config.json, so it is no model folder")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        pickles = [p.name for p in folder.iterdir() if p.suffix in _PICKLES]
        if pickles:
            raise ModelFolderError(f"{folder / pickles[0]} is a pickle and could run code: refused; model.safetensors is needed")
        raise ModelFolderError(f"{folder} has no model.safetensors")
    for name, expected in card(folder).get("sha256", {}).items():
        actual = hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).is_file() else None
        if actual != expected:
            raise ModelFolderError(f"{folder / name} is damaged: its checksum is not the one in card.json")
    try:
        config = json.loads((folder / "config.json").read_text())
        return config, load_file(weights)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{folder / 'config.json'} is not JSON ({error})") from error
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{weights} cannot be read ({error}): cut off, damaged or no safetensors file") from error


def card(folder: Path) -> dict[str, Any]:
    """The model's card: what it was trained on, by which command, where it came from; {} where there is none."""
    path = folder / "card.json"
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except ValueError as error:
        raise ModelFolderError(f"{path} is not JSON ({error})") from error


def write(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], about: dict[str, Any], dtype: torch.dtype) -> None:
    """Write a model folder; weights are stored in `dtype`. The tokenizer must already be there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({name: tensor.detach().to(dtype).contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    # safetensors creates its file for the owner alone
    (folder / "model.safetensors").chmod(0o644)
    files = ("config.json", "model.safetensors", "tokenizer.json")
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    (folder / "card.json").write_text(json.dumps({**about, "sha256": sums}, indent=1) + "\n")
