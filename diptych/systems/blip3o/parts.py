"""The parts of a model folder: denoiser, bridge, language model and image space."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.encoders.backbone import Lends, Reader
from diptych.encoders.vlm import VisionLanguage
from diptych.family import OpenSystem
from diptych.files import folder as model_folder
from diptych.files import weights as weight_files
from diptych.files.folder import ModelFolderError, check_shapes
from diptych.models.connector import Bridge, BridgeConfig, Reference, ReferenceConfig
from diptych.models.feature_dit import FeatureDiT, FeatureDiTConfig
from diptych.models.linear_dit import LinearDiT
from diptych.models.meta import without_storage
from diptych.systems.blip3o.settings import (
    SPACE,
    DenoiserConfig,
    NamedBackbone,
    blamed_on,
    check_identity,
    identity_of,
    is_published,
    located,
    read_contents,
)
from diptych.systems.blip3o.spaces import load_any
from diptych.systems.blip3o.system import BlipSystem, Denoiser


def make_denoiser(config: DenoiserConfig) -> Denoiser:
    """On torch's current device, without values of its own where that is the meta device."""
    return FeatureDiT(config) if isinstance(config, FeatureDiTConfig) else LinearDiT(config)


def open_backbone(
    folder: Path,
    open_system: OpenSystem,
    ours: bool,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    **about: Any,
) -> Reader:
    """The language model in a folder, frozen: of transformers, or of a family of ours. Raises
    ModelFolderError for one that is not whole, and for a family without a language model."""
    if not ours:
        return VisionLanguage.load(folder, device, dtype, **about)
    system = open_system(folder, device, dtype)
    if not isinstance(system, Lends):
        raise ModelFolderError(
            f"{folder} holds a model of the family {system.family}, which has no language model that a "
            "bridge could hang on"
        )
    reader = system.backbone()
    reader.model.requires_grad_(False)
    return reader


def named_backbone(name: str, seen_from: Path | None = None, **about: Any) -> NamedBackbone:
    """What a folder says of a backbone that it does not hold: its name, and what it must be. A path is kept
    as seen from `seen_from`."""
    found = model_folder.locate(name)
    kept = name
    if name != model_folder.DEFAULT and not name.startswith(model_folder.HUB) and seen_from is not None:
        import os

        kept = os.path.relpath(found, seen_from)
    return NamedBackbone(model=kept, sha256=identity_of(found), **about)


def load(
    folder: Path,
    open_system: OpenSystem,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> BlipSystem:
    """A folder that `BlipSystem.save` wrote, or a published one. Raises ModelFolderError for one that is not
    whole or of another kind, and for another backbone than the one it was trained on."""
    if is_published(folder):
        from diptych.systems.blip3o.published import load_published

        return load_published(folder, device, dtype)
    contents = read_contents(folder)
    with blamed_on(folder):
        about = contents.backbone
        found = located(folder, about)
        check_identity(folder, about, found)
        stored = weight_files.open_weights(folder)
        told = {} if about.ours else {"request": about.request, "mark": about.mark}
        # a part of this very folder is looked after by the folder's own card
        backbone = open_backbone(found, open_system, about.ours, device, dtype, **told)
        tensors = stored.all()
        system = BlipSystem(
            denoiser(contents.model, _part(tensors, "denoiser."), dtype),
            bridge(contents.bridge, _part(tensors, "bridge."), dtype),
            backbone,
            load_any(folder / SPACE),
            contents.sampler,
            contents.native,
            model_folder.card(folder),
            about if about.sha256 else None,
            _reference(contents.reference, _part(tensors, "reference."), dtype),
        )
    system.home = folder
    return system.to(device)


def denoiser(
    config: DenoiserConfig, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> Denoiser:
    """A denoiser that holds these tensors. Raises ValueError where they contradict the config."""
    # before a layer is made, of which a config can ask for any number
    stored = len({found[1] for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))})
    if stored != config.depth:
        raise ValueError(f"the config has {config.depth} blocks, the weights {stored}")
    with without_storage():
        made = make_denoiser(config)
    _fill(made, weights, dtype, "denoiser")
    return made


def bridge(config: BridgeConfig, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Bridge:
    """A bridge that holds these tensors. Raises ValueError where they are of another bridge."""
    with without_storage():
        made = Bridge(config)
    _fill(made, weights, dtype, f"a bridge of {config.kind}")
    return made


def _reference(
    config: ReferenceConfig | None, weights: Mapping[str, Tensor], dtype: torch.dtype | None
) -> Reference | None:
    if config is None:
        return None
    with without_storage():
        made = Reference(config)
    _fill(made, weights, dtype, "what brings a given picture to the denoiser")
    return made


def _fill(module: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype | None, where: str) -> None:
    expected = {name: tuple(empty.shape) for name, empty in module.state_dict().items()}
    check_shapes(expected, {name: tuple(tensor.shape) for name, tensor in weights.items()}, where)
    values = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in weights.items()}
    # assign: the tensors become the parameters, mapped files included
    module.load_state_dict(values, assign=True)


def _part(weights: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """The tensors whose names begin alike, by the rest of their names."""
    return {n.removeprefix(beginning): t for n, t in weights.items() if n.startswith(beginning)}
