"""Weights of a model folder: safetensors, read and written tensor by tensor. Nothing is ever unpickled."""

from __future__ import annotations

import json
import struct
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from diptych.files.folder import (
    PICKLES,
    ModelFolderError,
    check_sums,
    json_object,
    opened,
    read_config,
    write_card,
)
from diptych.files.typed import to_json
from diptych.files.whole import whole, write_whole

ALIGNMENT = 64
"""Bytes; torch's own tensors begin at multiples of this."""
FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Types of weights, by the names that safetensors files have for them; narrow before wide."""


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the weights, every file checked against the card's checksums where it has some."""
    config = read_config(folder)
    return config, open_weights(folder).all()


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
        with opened(path) as file:
            return _aligned(finite(name, file.get_tensor(name), path))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def all(self) -> dict[str, Tensor]:
        """Every tensor, of files that are opened once each."""
        found: dict[str, Tensor] = {}
        for path in dict.fromkeys(self._places.values()):
            read = load_file(path).items()
            found |= {name: _aligned(finite(name, tensor, path)) for name, tensor in read}
        return found

    def copy(self, name: str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        # from the open file: nothing of it stays mapped, and a tensor that lies askew in it is copied once
        path = self._places[name]
        with opened(path) as file:
            tensor = finite(name, file.get_tensor(name), path)
            return cast(Tensor, tensor.to(device, dtype, copy=True))

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._places[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without its values."""
        with opened(self._places[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors, from the headers of the files."""
        return {name: tuple(entry.get_shape()) for name, entry in self._entries()}

    def dtypes(self) -> dict[str, str]:
        """Types of all tensors as safetensors calls them, from the headers of the files."""
        return {name: entry.get_dtype() for name, entry in self._entries()}

    def layout(self) -> dict[str, Tensor]:
        """All tensors without storage: shapes and types, from the headers of the files."""
        found = {}
        for name, entry in self._entries():
            dtype = FLOATS[entry.get_dtype()]
            found[name] = torch.empty(entry.get_shape(), dtype=dtype, device="meta")
        return found

    def _entries(self) -> Iterator[tuple[str, Any]]:
        names: dict[Path, list[str]] = {}
        for name, path in self._places.items():
            names.setdefault(path, []).append(name)
        for path, held in names.items():
            with opened(path) as file:
                yield from ((name, file.get_slice(name)) for name in held)


def open_weights(folder: Path, stem: str = "model") -> Weights:
    """Weights of a model as `open_tensors` has them. Raises ModelFolderError too for tensors of another type
    than FLOATS: what was quantised needs scales that nothing here reads, and would draw noise without."""
    weights = open_tensors(folder, stem)
    for name, dtype in weights.dtypes().items():
        if dtype not in FLOATS:
            raise ModelFolderError(
                f"{weights.file(name)}: {name} is of type {dtype}; weights are read as {', '.join(FLOATS)} "
                "(quantised ones must be made whole first)"
            )
    return weights


def open_tensors(folder: Path, stem: str) -> Weights:
    """Tensors of `stem`.safetensors of a folder, in one file or in shards that an index lists, to be read one
    by one; every file of the folder is checked against its card's checksums where it has some.

    Raises ModelFolderError for a file that is missing, damaged, a pickle, or holds less than the index says.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.is_file():
        check_sums(folder)
        return Weights(_indexed(index))
    if not single.is_file():
        pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
        if pickles:
            raise ModelFolderError(
                f"{folder / pickles[0]} is a pickle and could run code: refused; {single.name} is needed"
            )
        raise ModelFolderError(f"{folder} has no {single.name}")
    check_sums(folder)
    with opened(single) as file:
        return Weights(dict.fromkeys(file.keys(), single))


def _indexed(index: Path) -> dict[str, Path]:
    places = json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelFolderError(f"{index} has no weight_map from tensors to files")
    found: dict[str, Path] = {}
    for name in sorted(set(places.values())):
        # a stranger's index could else name any file of this machine
        if Path(name).name != name:
            raise ModelFolderError(f"{index} names the shard {name!r}, which is no plain file name")
        shard = index.parent / name
        with opened(shard) as file:
            held = set(file.keys())
        listed = {tensor for tensor, place in places.items() if place == name}
        if missing := sorted(listed - held):
            raise ModelFolderError(f"{shard} lacks {missing[0]}, which {index.name} says it holds")
        if unlisted := sorted(held - listed):
            raise ModelFolderError(f"{shard} holds {unlisted[0]}, which {index.name} does not place there")
        found |= dict.fromkeys(held, shard)
    return found


def finite(name: str, tensor: Tensor, where: str | Path) -> Tensor:
    """The tensor itself. Raises ModelFolderError, with its name, where it holds NaN or an infinity: what is
    made of such a model would be as broken, and look whole."""
    # least and largest are found in one look, in the tensor's own type: a sum would bring it to another
    if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        wrong = tensor.numel() - int(tensor.isfinite().sum())
        raise ModelFolderError(
            f"{where}: {name} has {wrong:,} of {tensor.numel():,} values that are no finite numbers (nan "
            "or inf): the weights are damaged, or of a run that failed"
        )
    return tensor


def all_finite(tensors: Iterable[tuple[str, Tensor]], where: str | Path) -> None:
    """Raises ModelFolderError as `finite`, for the first of several."""
    for name, tensor in tensors:
        finite(name, tensor, where)


def _aligned(tensor: Tensor) -> Tensor:
    """Where in memory a tensor begins decides how some products round: not where it happens to lie in its
    file."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


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


class Beneath(Mapping[str, Tensor]):
    """The tensors whose names begin alike, by the rest of their names."""

    def __init__(self, weights: Mapping[str, Tensor], beginning: str) -> None:
        self._weights, self._beginning = weights, beginning

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[self._beginning + name]

    def __iter__(self) -> Iterator[str]:
        length = len(self._beginning)
        return (name[length:] for name in self._weights if name.startswith(self._beginning))

    def __len__(self) -> int:
        return sum(1 for _ in self)
