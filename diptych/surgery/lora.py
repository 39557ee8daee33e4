"""LoRA adapters on the matrices of a model's blocks, through peft."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

TARGETS = (
    "attention.qkv",
    "attention.out",
    "cross_attention.query",
    "cross_attention.key_value",
    "cross_attention.out",
    "feed_forward.widen",
    "feed_forward.narrow",
)


def add_lora(model: nn.Module, rank: int, seed: int = 0) -> None:
    """Put adapters of `rank` on every matrix of the blocks, in place; the model computes what it did until
    they are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(TARGETS)
    ]
    if not names:
        raise ValueError("the model has no matrices that LoRA is put on")
    torch.manual_seed(seed)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), model)


def lora_weights(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A (rank, in), B (out, rank)) of a model with adapters."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight  # type: ignore[index, union-attr]
            found[name] = (a.detach(), b.detach())
    return found


M = TypeVar("M", bound=nn.Module)


def merge_lora(model: M) -> M:
    """A copy of the model with its adapters, if any, added into the matrices."""
    merged = copy.deepcopy(model)
    for name, module in list(merged.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            module.merge()  # type: ignore[operator]
            parent, _, last = name.rpartition(".")
            setattr(merged.get_submodule(parent), last, module.base_layer)
    return merged
