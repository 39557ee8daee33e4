"""The projector on disk, ours or as published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.foreign import regular
from diptych.files.folder import ModelFolderError
from diptych.files.weights import open_weights
from diptych.files.whole import whole
from diptych.models.meta import without_storage
from diptych.models.projector import Projector, ProjectorConfig

_WRAPPED = "module."
"""Stands in names that a parallel trainer has saved."""
MAX_BYTES = 2**31


def load(path: Path) -> Projector:
    """From safetensors, or from the published file (.pth), of which tensors alone are read. Raises
    ModelFolderError for what is no projector."""
    try:
        regular(path, MAX_BYTES)
        weights = _published(path) if path.suffix == ".pth" else open_weights(path.parent, path.stem).all()
        weights = {name.replace(_WRAPPED, ""): tensor.float() for name, tensor in weights.items()}
        with without_storage():
            shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
            model = Projector(ProjectorConfig.of(shapes))
        model.load_state_dict(weights, assign=True)
    except ModelFolderError:
        raise
    except (RuntimeError, ValueError) as error:
        raise ModelFolderError(f"{path} is no projector: {error}") from error
    # never in training mode: the published script draws with dropout on
    return model.eval()


def _published(path: Path) -> Mapping[str, Tensor]:
    try:
        # tensors and plain values: nothing in the file is run
        found = torch.load(path, map_location="cpu", weights_only=True)
    # a pickle that wants more than that, or is damaged, ends in errors of many classes
    except Exception as error:
        raise ModelFolderError(f"{path} holds more than tensors, or is damaged: refused") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        raise ModelFolderError(f"{path} holds more than tensors by name: refused")
    return found


def save(projector: Projector, path: Path) -> None:
    weights = {name: tensor.detach().contiguous() for name, tensor in projector.state_dict().items()}
    with whole(path) as aside:
        save_file(weights, aside)
