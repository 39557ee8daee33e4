"""Folders as SenseNova-U1 is published: read as they are, and written for its own code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from diptych.files.folder import ModelFolderError, read_config
from diptych.files.typed import read, to_json
from diptych.files.weights import Planned, Weights, open_weights, write_tensors
from diptych.files.whole import write_whole
from diptych.flow import FlowConfig
from diptych.models.meta import without_storage
from diptych.models.mot import MoT, MoTConfig
from diptych.models.mot.convert import (
    config_from_published,
    config_to_published,
    flow_from_published,
    our_name,
    published_name,
    read_tensor,
    to_published,
    write_tensor,
)
from diptych.systems.u1 import is_published
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.defaults import FILE, Told, told_by

INDEX = "model.safetensors.index.json"
SHARDS = "published_shards.json"
"""In a folder of ours that was one of theirs: published name of a tensor -> the file that held it."""
SHARD_BYTES = 5 * 2**30
"""Bytes of the largest file of weights that is written, unless one tensor has more."""


def describe(folder: Path) -> tuple[MoTConfig, FlowConfig, Conversation, int]:
    """Model, flow, conversation and native side of a published folder: config.json, the headers of its
    weights, and diptych.json where it is there.

    Raises ModelFolderError for shards that are missing or hold something else than index and config say, and
    for a field that is not honoured here. Python files that the config names are neither run nor looked for.
    """
    values, stored = read_config(folder), open_weights(folder)
    try:
        config = config_from_published(values, stored.shapes().items())
        native, sampler, conversation = told_by(folder)
        flow = replace(flow_from_published(values), sampler=sampler)
    except ModelFolderError:
        raise
    except ValueError as error:
        raise ModelFolderError(f"{folder}: {error}") from error
    return config, flow, conversation, native


def published_weights(folder: Path, config: MoTConfig) -> OurNames:
    """The weights of a published folder under our names, read one by one. Raises ModelFolderError for a
    tensor that is missing, has another shape or is no weight of the model: told from the headers alone."""
    stored = open_weights(folder)
    shapes = stored.shapes()
    expected = {name: tuple(t.shape) for name, t in to_published(_empty(config), config).items()}
    for name, shape in expected.items():
        if name not in shapes:
            raise ModelFolderError(f"{folder}: the weights lack {name}, which config.json calls for")
        if shapes[name] != shape:
            raise ModelFolderError(
                f"{stored.file(name)}: {name} is {shapes[name]}, config.json's sizes make it {shape}"
            )
    if unknown := sorted(shapes.keys() - expected.keys()):
        raise ModelFolderError(
            f"{stored.file(unknown[0])}: {unknown[0]} is no weight of the model that config.json describes"
        )
    return OurNames(stored, config)


def shards_of(folder: Path) -> dict[str, str]:
    """Published name of a tensor -> name of the file that holds it, or held it before the folder became one
    of ours; {} for one that never was published."""
    if is_published(folder):
        stored = open_weights(folder)
        return {name: stored.file(name).name for name in stored}
    if not (folder / SHARDS).is_file():
        return {}
    places = read(dict[str, str], folder / SHARDS)
    for file in places.values():
        # a stranger's folder could else have any file of this machine written
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelFolderError(f"{folder / SHARDS} names {file!r}, which is no plain name of a shard")
    return places


def _empty(config: MoTConfig) -> dict[str, Tensor]:
    with without_storage():
        return dict(MoT(config).state_dict())


class OurNames(Planned):
    """Published weights under our names."""

    def __init__(self, stored: Weights, config: MoTConfig) -> None:
        self._stored, self._names = stored, {our_name(name, config.head): name for name in stored}

    def __getitem__(self, name: str) -> Tensor:
        return read_tensor(name, self._stored[self._names[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def copy(self, name: str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        return read_tensor(name, self._stored.copy(self._names[name], dtype, device))

    def layout(self) -> dict[str, Tensor]:
        stored = self._stored.layout()
        return {name: read_tensor(name, stored[theirs]) for name, theirs in self._names.items()}


def write_config(
    folder: Path,
    config: MoTConfig,
    flow: FlowConfig,
    told: Told,
    dtype: torch.dtype,
    marks: Mapping[str, int],
) -> None:
    """Write config.json, and diptych.json where something differs from the published defaults. Raises
    ValueError naming what a published config has no field for."""
    values = config_to_published(config, flow, dtype, end=marks["<|im_end|>"], pad=marks["<|endoftext|>"])
    write_whole(folder / "config.json", to_json(values))
    if told != Told():
        said = {key: value for key, value in asdict(told).items() if value}
        write_whole(folder / FILE, to_json(said))


def write_weights(folder: Path, config: MoTConfig, weights: Planned, shards: Mapping[str, str]) -> None:
    """Write weights of ours under their published names, tensor by tensor: into the files of `shards`, as
    `shards_of` gives them, or where it is empty, those of pictures and noise into a first file and the
    language model into more."""
    layout = {
        published_name(name, config.head): write_tensor(name, tensor, config)
        for name, tensor in weights.layout().items()
    }
    names = {published_name(name, config.head): name for name in weights}
    places = shards
    # of a model that has grown since, it tells nothing
    if places.keys() != names.keys():
        places = _placed(layout)
    for file in sorted(set(places.values())):
        held = {name: layout[name] for name, place in places.items() if place == file}
        write_tensors(
            folder / file, held, lambda name: write_tensor(names[name], weights[names[name]], config)
        )
    if set(places.values()) != {"model.safetensors"}:
        write_whole(folder / INDEX, to_json({"metadata": {}, "weight_map": places}))


def _placed(layout: Mapping[str, Tensor]) -> dict[str, str]:
    """Name of a tensor -> file."""
    groups: list[list[str]] = []
    for language in (False, True):
        group: list[str] = []
        held = 0
        for name in sorted(n for n in layout if n.startswith("language_model.") == language):
            size = layout[name].numel() * layout[name].element_size()
            if group and held + size > SHARD_BYTES:
                groups.append(group)
                group, held = [], 0
            group.append(name)
            held += size
        groups.append(group)
    return {
        name: f"model-{number:05}-of-{len(groups):05}.safetensors"
        for number, group in enumerate(groups, 1)
        for name in group
    }
