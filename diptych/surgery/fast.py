"""Making a loaded model faster without changing what it computes."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from diptych.models.processors import packing_pays
from diptych.surgery.blocks import Model

_LARGE = 2**18
"""Weights of a layer from which on packing it alone pays: below, its product takes as long as its call."""


class PackedLinear(nn.Module):
    """A float32 linear layer whose weight lies in oneDNN's own blocked layout: on CPUs where the default
    matrix library has no fast path (AMD), products take half the time."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight.detach().to_mkldnn()
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        # as the plain layer: a packed model is saved as what it was
        destination[prefix + "weight"] = self.weight.to_dense()
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias


def prepare(model: Model, compile_blocks: bool = False) -> Model:
    """A copy of a model for drawing: its blocks compiled if asked, else their weights packed, in float32 on a
    CPU where that is faster. Weights are shared with the original where they stay as they are.
    """
    fast: Any = copy.copy(model)
    # a copy of a module shares its table of parts, and only the blocks are to be others
    fast._modules = dict(cast(nn.Module, model)._modules)
    parameters = list(cast(nn.Module, model).parameters())
    fast.blocks = copy.deepcopy(model.blocks, {id(parameter): parameter for parameter in parameters})
    if compile_blocks:
        # the compiler refuses weights in oneDNN's layout as inputs, and lays products out by itself
        for block in fast.blocks:
            block.compile()
    elif packing_pays():
        for block in fast.blocks:
            _pack(block)
    return cast(Model, fast)


def pack(model: nn.Module) -> None:
    """Pack a model's large layers in place, in float32 on a CPU where that is faster. Each gives up its plain
    weight for the packed one, so that memory does not double; the model can be saved and no longer be
    trained."""
    if packing_pays():
        _pack(model, _LARGE)


def _pack(module: nn.Module, least: int = 0) -> None:
    """Layers of at least so many weights."""
    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            _pack(child, least)
        elif _packable(child) and child.weight.numel() >= least:
            setattr(module, name, PackedLinear(child))


def _packable(linear: nn.Linear) -> bool:
    return linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32
