"""LoRA adapters (arXiv 2106.09685) on the matrices of a model's blocks.

A matrix W with an adapter of rank r computes W x + B A x, with A (r, in) and B (out, r); alpha is r, so the
scale is one. Parameters are named as peft names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from diptych.contracts import BlockModel
from diptych.surgery.blocks import Model, is_one_of, remade, tensors

_BASE = ".base_layer."
"""Stands in the name of a parameter whose layer has an adapter."""
_A, _B = ".lora_A.weight", ".lora_B.weight"


class LoRALinear(nn.Module):
    """A linear layer with an adapter that learns in its place. The adapter gets its values from outside."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = layer
        # without storage: `add_lora` gives the values, or a run does, one parameter at a time after sharding
        dtype = layer.weight.dtype
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False, device="meta", dtype=dtype)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False, device="meta", dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def add_lora(model: BlockModel, rank: int, seed: int = 0, within: str = "") -> None:
    """Put adapters of `rank` on every matrix of the blocks that the model's facts name, of those whose names
    hold `within`, in place; they alone ask for gradients.

    The model computes what it did until they are trained. On a model without storage (meta) the adapters have
    none either; `lora_values` gives their values then. Raises ValueError for a rank below 1 and for a model
    that names no matrices.
    """
    if rank < 1:
        raise ValueError(f"the rank of LoRA adapters must be at least 1, got {rank}")
    blocks = cast(nn.Module, model.blocks)
    # names of layers within the blocks begin with the number of the block
    adapted = [
        name
        for name, layer in blocks.named_modules()
        if isinstance(layer, nn.Linear)
        and within in f".{name}."
        and is_one_of(name.partition(".")[2], model.facts.adapted)
    ]
    if not adapted:
        raise ValueError("the model has no matrices that LoRA is put on")
    cast(nn.Module, model).requires_grad_(False)
    for name in adapted:
        # names were collected first: wrapping while walking would find the layer inside its own wrapper
        layer = blocks.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        wrapped = LoRALinear(layer, rank)
        if not layer.weight.is_meta:
            for side, ending in ((wrapped.lora_A, _A), (wrapped.lora_B, _B)):
                value = _start(f"blocks.{name}{ending}", side.weight.shape, seed)
                side.weight = nn.Parameter(value.to(layer.weight))
        blocks.set_submodule(name, wrapped)


def lora_values(
    model: nn.Module, values: Iterable[tuple[str, Tensor]], seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every parameter of a model with adapters, one at a time: those of the model without
    (`values`), under the names that they have now, then the adapters' own, as `add_lora` starts them.

    `model` may be a whole job's, around the one that adapters were put on.
    """
    parameters = dict(model.named_parameters())
    now = {name.replace(_BASE, "."): name for name in parameters}
    for name, value in values:
        yield now.get(name, name), value
    for name, parameter in parameters.items():
        if name.endswith((_A, _B)):
            # an adapter starts alike in a job's model and in the one that is inside it
            yield name, _start(name[max(0, name.find("blocks.")) :], parameter.shape, seed)


def _start(name: str, shape: torch.Size, seed: int) -> Tensor:
    """A: Kaiming-uniform, as peft has it, drawn from the parameter's own name, so that it does not depend on
    which others were drawn before; B: zeros, so that the adapter is silent."""
    if name.endswith(_B):
        return torch.zeros(shape)
    number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8])
    value = torch.empty(shape)
    return nn.init.kaiming_uniform_(value, a=5**0.5, generator=torch.Generator().manual_seed(number))


def lora_weights(model: BlockModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A (rank, in), B (out, rank)) of a model with adapters; {} for one without."""
    return {
        name: (layer.lora_A.weight.detach(), layer.lora_B.weight.detach())
        for name, layer in cast(nn.Module, model).named_modules()
        if isinstance(layer, LoRALinear)
    }


@torch.no_grad()
def merge_lora(model: Model) -> Model:
    """The model with its adapters, if any, added into the matrices: W + B A. The old one stays as it is, and
    shares all other tensors."""
    # no factor: alpha is the rank
    added = {f"{name}.weight": b @ a for name, (a, b) in lora_weights(model).items()}
    weights = {}
    for name, tensor in tensors(model).items():
        if not name.endswith((_A, _B)):
            plain = name.replace(_BASE, ".")
            weights[plain] = tensor + added[plain] if plain in added else tensor
    return remade(model, model.config, weights)
