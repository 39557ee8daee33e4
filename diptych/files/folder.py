"""A model on disk: config.json, weights in safetensors, card.json with checksums, and what else its system
keeps there. Nothing is ever unpickled."""

from __future__ import annotations

import json
import re
import struct
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from diptych.files.typed import read_json, to_json
from diptych.files.whole import checksum, whole, write_whole

DEFAULT = "default"
ALIGNMENT = 64
"""Bytes; torch's own tensors begin at multiples of this."""
FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Types of weights, by the names that safetensors files have for them; narrow before wide."""
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
    try:
        there = folder.exists()
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{str(name)[:80]!r} is no name of a model ({error})") from error
    if there:
        if not folder.is_dir():
            hint = (
                " (a pickle: it could run code and is refused; convert it to safetensors)"
                if folder.suffix in _PICKLES
                else ""
            )
            raise ModelFolderError(f"{folder} is a file, not a model folder{hint}")
        return folder
    # a mistyped path is not sent to the hub: what is fetched from there may be anybody's
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) and not _is_path(folder):
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"])
            )
        # no network, no such repository, no permission: the hub's client has an error class for each
        except Exception as error:
            raise ModelFolderError(
                f"{name} is no folder here and could not be fetched from the hub ({error})"
            ) from error
    raise ModelFolderError(f"{name} is neither a folder, nor 'default', nor a hub id such as owner/name")


def _is_path(name: Path) -> bool:
    """Whether 'owner/name' can only be meant as a path here."""
    return name.parent.exists() or name.parts[0] == "~" or name.suffix in (*_PICKLES, ".safetensors", ".json")


def refuse_code(folder: Path) -> None:
    """Raises ModelFolderError for a folder whose configs name Python code that a loader would run or ask to
    run."""
    for path in sorted(folder.glob("*.json")):
        # weights' indices and vocabularies are large, and name no code
        if not path.name.endswith("config.json"):
            continue
        if "auto_map" in _object(path):
            raise ModelFolderError(
                f"{path} names code of its own (auto_map): refused, as no code of a model is ever run"
            )


def check_depth(config: Mapping[str, Any], names: Collection[str], where: str) -> None:
    """Raises ModelFolderError where a config asks for more layers than there are tensors: told from the
    header of the weights, before any layer is made."""
    stored = len(names)
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_depth(value, names, f"{where}.{key}")
        elif "layers" in key or key in ("depth", "count") or key.endswith("num_experts"):
            counts = value if isinstance(value, list) else [value]
            asked = sum(count for count in counts if isinstance(count, int))
            if asked > stored:
                raise ModelFolderError(f"{where}: {key} is {value}, but the weights hold {stored} tensors")


def family_name(folder: Path) -> str | None:
    """What the config of a folder of ours calls its family; None where there is no such config. Never raises:
    families look at every folder with it."""
    try:
        values = read_json(folder / "config.json")
    except ValueError:
        return None
    name = values.get("family") if isinstance(values, dict) else None
    return name if isinstance(name, str) else None


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the weights, every file checked against the card's checksums where it has some."""
    config = read_config(folder)
    return config, open_weights(folder).all()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ModelFolderError where it is missing or no JSON object."""
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder} has no config.json, so it is no model folder")
    return _object(folder / "config.json")


def card(folder: Path) -> dict[str, Any]:
    """The model's card: what it was trained on, by which command, where it came from; {} where there is
    none."""
    path = folder / "card.json"
    return _object(path) if path.is_file() else {}


def _object(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path}: a JSON object is needed, got {type(values).__name__}")
    return values


class Planned(Mapping[str, Tensor]):
    """Tensors that are read or made when they are asked for, and whose shapes and types are known before."""

    @abstractmethod
    def layout(self) -> Mapping[str, Tensor]:
        """All of them on the meta device."""

    def copy(self, name: str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        """One of them in memory of its own, in `dtype` or its own type."""
        return self[name].to(device, dtype, copy=True)


class Weights(Planned):
    """Tensors of safetensors files by name, each read from disk when it is asked for and kept by nobody
    here."""

    def __init__(self, places: Mapping[str, Path]) -> None:
        """`places`: name of a tensor -> file that holds it."""
        self._places = dict(places)

    def __getitem__(self, name: str) -> Tensor:
        path = self._places[name]
        # opened anew for each tensor: pages of an open file stay in memory once they were read
        with _opened(path) as file:
            return _aligned(file.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def all(self) -> dict[str, Tensor]:
        """Every tensor, of files that are opened once each."""
        found: dict[str, Tensor] = {}
        for path in dict.fromkeys(self._places.values()):
            found |= {name: _aligned(tensor) for name, tensor in load_file(path).items()}
        return found

    def copy(self, name: str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        # from the open file: nothing of it stays mapped, and a tensor that lies askew in it is copied once
        with _opened(self._places[name]) as file:
            return cast(Tensor, file.get_tensor(name).to(device, dtype, copy=True))

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._places[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without its values."""
        with _opened(self._places[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors, from the headers of the files."""
        return {name: tuple(entry.get_shape()) for name, entry in self._entries()}

    def layout(self) -> dict[str, Tensor]:
        """All tensors without storage: shapes and types, from the headers of the files. Raises
        ModelFolderError for a type that no weights have here."""
        found = {}
        for name, entry in self._entries():
            kind = entry.get_dtype()
            if kind not in FLOATS:
                raise ModelFolderError(
                    f"{self._places[name]}: {name} is stored as {kind}; weights are {', '.join(FLOATS)}"
                )
            found[name] = torch.empty(entry.get_shape(), dtype=FLOATS[kind], device="meta")
        return found

    def _entries(self) -> Iterator[tuple[str, Any]]:
        names: dict[Path, list[str]] = {}
        for name, path in self._places.items():
            names.setdefault(path, []).append(name)
        for path, held in names.items():
            with _opened(path) as file:
                yield from ((name, file.get_slice(name)) for name in held)


def open_weights(folder: Path, stem: str = "model") -> Weights:
    """Weights `stem`.safetensors of a folder, in one file or in shards that an index lists, to be read tensor
    by tensor; every file of the folder is checked against its card's checksums where it has some.

    Raises ModelFolderError for a file that is missing, damaged, a pickle, or holds less than the index says.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.is_file():
        _check(folder)
        return Weights(_indexed(index))
    if not single.is_file():
        pickles = [path.name for path in folder.iterdir() if path.suffix in _PICKLES]
        if pickles:
            raise ModelFolderError(
                f"{folder / pickles[0]} is a pickle and could run code: refused; {single.name} is needed"
            )
        raise ModelFolderError(f"{folder} has no {single.name}")
    _check(folder)
    with _opened(single) as file:
        return Weights(dict.fromkeys(file.keys(), single))


def _check(folder: Path) -> None:
    sums = card(folder).get("sha256", {})
    if not isinstance(sums, dict):
        raise ModelFolderError(f"{folder / 'card.json'}: sha256 must be an object of checksums by file name")
    for name, expected in sums.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelFolderError(
                f"{folder / 'card.json'}: sha256 names {name!r}, which is outside the folder"
            )
        if not (folder / name).is_file() or checksum(folder / name) != expected:
            raise ModelFolderError(f"{folder / name} is damaged: its checksum is not the one in card.json")


def _indexed(index: Path) -> dict[str, Path]:
    places = _object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelFolderError(f"{index} has no weight_map from tensors to files")
    found: dict[str, Path] = {}
    for name in sorted(set(places.values())):
        # a stranger's index could else name any file of this machine
        if Path(name).name != name:
            raise ModelFolderError(f"{index} names the shard {name!r}, which is no plain file name")
        shard = index.parent / name
        with _opened(shard) as file:
            held = set(file.keys())
        listed = {tensor for tensor, place in places.items() if place == name}
        if missing := sorted(listed - held):
            raise ModelFolderError(f"{shard} lacks {missing[0]}, which {index.name} says it holds")
        if unlisted := sorted(held - listed):
            raise ModelFolderError(f"{shard} holds {unlisted[0]}, which {index.name} does not place there")
        found |= dict.fromkeys(held, shard)
    return found


def _aligned(tensor: Tensor) -> Tensor:
    """Where in memory a tensor begins decides how some products round: not where it happens to lie in its
    file."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path} cannot be read ({error}): cut off, damaged or no safetensors file"
        ) from error


def write(
    folder: Path,
    config: dict[str, Any],
    weights: Mapping[str, Tensor],
    about: dict[str, Any],
    dtype: torch.dtype | None,
) -> None:
    """Write a model folder, with checksums of every file in it; weights are stored in `dtype`, or in their
    own."""
    layout = weights.layout() if isinstance(weights, Planned) else weights
    stored = {name: tensor.to("meta", dtype or tensor.dtype) for name, tensor in layout.items()}
    write_whole(folder / "config.json", to_json(config))
    write_tensors(folder / "model.safetensors", stored, weights.__getitem__)
    write_card(folder, about)


def write_card(folder: Path, about: Mapping[str, Any]) -> None:
    """Write card.json with checksums of every file of the folder."""
    # the card last: it vouches for files that are whole by then, those of other parts of the system included
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "card.json")
    sums = {path.relative_to(folder).as_posix(): checksum(path) for path in files}
    write_whole(folder / "card.json", to_json({**about, "sha256": sums}))


def write_tensors(path: Path, layout: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
    """Write a safetensors file tensor by tensor, so that no more than one is ever held for it: those of
    `layout`, which has their types and shapes (on the meta device, say), each with the values that `read`
    gives."""
    kinds = {dtype: kind for kind, dtype in FLOATS.items()}
    # in the order of the library's own writer: the widest first, then by name, so that none is misaligned
    wide = list(FLOATS)
    names = sorted(layout, key=lambda name: (-wide.index(kinds[layout[name].dtype]), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        end = at + layout[name].numel() * layout[name].element_size()
        shape = list(layout[name].shape)
        header[name] = {"dtype": kinds[layout[name].dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with whole(path) as aside, aside.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = read(name).detach().to("cpu", layout[name].dtype).contiguous()
            assert tensor.shape == layout[name].shape
            file.write(tensor.flatten().view(torch.uint8).numpy().data)
