"""LoRA files of the mixture of transformers: in the published key style, and as ours are named.

Published: X.lora_down.weight, X.lora_up.weight and X.alpha for a weight X.weight, `diffusion_model.` in front
or not. Ours: base_model.model.X.lora_A.weight and .lora_B.weight, whose scale is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.files.folder import ModelFolderError
from diptych.files.weights import Planned, finite
from diptych.files.whole import whole
from diptych.models.mot import MoTConfig
from diptych.models.mot.convert import our_name, published_name

_THEIRS = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}
_OURS = {"lora_A.weight": "down", "lora_B.weight": "up"}
_PREFIX, _OUR_PREFIX = "diffusion_model.", "base_model.model."


class Adapter(NamedTuple):
    down: Tensor
    """(rank, in), the published inner width of a convolution included."""
    up: Tensor
    """(out, rank)."""
    scale: float
    """alpha / rank."""

    def delta(self) -> Tensor:
        """What is added to the weight (out, in), float32."""
        return self.scale * (self.up.float() @ self.down.float())


def read_adapters(path: Path, config: MoTConfig) -> dict[str, Adapter]:
    """Our name of a weight -> its adapter. Raises ModelFolderError for a file that is no such file, and for
    one of another model."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path} cannot be read ({error}): missing, damaged or no safetensors file"
        ) from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        finite(key, tensor, path)
        module, part = _split(key, path)
        try:
            ours = (
                f"{module}.weight"
                if key.startswith(_OUR_PREFIX)
                else our_name(f"{module}.weight", config.head)
            )
        except ValueError as error:
            raise ModelFolderError(f"{path}: {key} is of another model ({error})") from error
        if part in found.setdefault(ours, {}):
            raise ModelFolderError(f"{path}: {key} is there under two names: which one is meant is not known")
        if not tensor.is_floating_point():
            raise ModelFolderError(f"{path}: {key} is of type {tensor.dtype}, and floating point is needed")
        found[ours][part] = tensor
    return {name: _adapter(name, parts, path) for name, parts in found.items()}


def _split(key: str, path: Path) -> tuple[str, str]:
    ours = key.startswith(_OUR_PREFIX)
    for ending, part in (_OURS if ours else _THEIRS).items():
        if key.endswith(f".{ending}"):
            return key.removesuffix(f".{ending}").removeprefix(_OUR_PREFIX if ours else _PREFIX), part
    known = ", ".join((*_THEIRS, *_OURS))
    raise ModelFolderError(f"{path}: {key} is no part of an adapter; they end in {known}")


def _adapter(name: str, parts: Mapping[str, Tensor], path: Path) -> Adapter:
    if missing := {"down", "up"} - parts.keys():
        raise ModelFolderError(f"{path}: the adapter of {name} has no {min(missing)} matrix")
    down, up = parts["down"], parts["up"]
    if down.ndim != 2 or up.ndim != 2 or not 0 < down.shape[0] == up.shape[1]:
        raise ModelFolderError(
            f"{path}: the adapter of {name} has matrices {tuple(down.shape)} and {tuple(up.shape)}, which "
            "make no product"
        )
    rank = down.shape[0]
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise ModelFolderError(
            f"{path}: alpha of the adapter of {name} is {tuple(parts['alpha'].shape)}, and one number is "
            "needed"
        )
    # without alpha the scale is one, as the public code has it
    return Adapter(down, up, float(parts["alpha"]) / rank if "alpha" in parts else 1.0)


class Merged(Planned):
    """Weights with adapters added to them, each when it is asked for: in float32, then in its own type."""

    def __init__(self, weights: Planned, adapters: Mapping[str, Adapter], path: Path) -> None:
        """`path` names the adapters' file in errors. Raises ModelFolderError for those of another model."""
        self._weights, self._adapters = weights, adapters
        layout = weights.layout()
        for name, adapter in adapters.items():
            made = (adapter.up.shape[0], adapter.down.shape[1])
            if name not in layout:
                raise ModelFolderError(f"{path} is of another model: this one has no {name}")
            if layout[name].shape != made:
                raise ModelFolderError(
                    f"{path} is of another model: its adapter of {name} makes {made}, the weight is "
                    f"{tuple(layout[name].shape)}"
                )

    def __getitem__(self, name: str) -> Tensor:
        weight = self._weights[name]
        if name not in self._adapters:
            return weight
        return (weight.float() + self._adapters[name].delta()).to(weight.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def layout(self) -> Mapping[str, Tensor]:
        return self._weights.layout()


def write_adapters(
    path: Path, adapters: Mapping[str, tuple[Tensor, Tensor]], config: MoTConfig, style: str = "ours"
) -> None:
    """Write adapters, A (rank, in) and B (out, rank) by our name of a layer, with alpha equal to the rank:
    under our names as peft has them, or in the published style."""
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in adapters.items():
        if style == "published":
            layer = published_name(f"{name}.weight", config.head).removesuffix(".weight")
            tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
            tensors[f"{layer}.alpha"] = torch.tensor(float(len(down)))
        else:
            tensors |= {f"{_OUR_PREFIX}{name}.lora_A.weight": down, f"{_OUR_PREFIX}{name}.lora_B.weight": up}
    with whole(path) as aside:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside)
        aside.chmod(0o644)
