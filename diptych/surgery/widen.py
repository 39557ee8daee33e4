"""Width growth: every channel, head and inner unit several times over, and the same function.

Whatever reads a channel reads all its copies, with weights that add up to the old one (Net2WiderNet, arXiv
1511.05641, section 3.2). Norms see the same mean and the same mean square, attention the same heads more
often. The shares of the copies are drawn at random for every weight, so that copies get different gradients
and grow apart from the first step on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from diptych.models.linear_dit import LinearDiTConfig
from diptych.models.mot import MoTConfig
from diptych.surgery.blocks import Model, check_plain

_FUSED = {"qkv": 3, "key_value": 2, "widen": 2, "depthwise": 2, "modulation": 6}
"""Layers whose output is several things one after the other, each of which is repeated by itself."""
_SHARES = (0.25, 0.75)
"""Range of a copy's share before they are made to add up."""


def widen(model: Model, width: int, seed: int = 0) -> Model:
    """A model of `width` channels, a multiple of the old one's, that computes the same up to rounding.

    Heads, inner units of feed-forwards and experts grow by the same factor. The old one stays whole. Raises
    ValueError for a width that is no multiple, for a table of positions (which depends on the width) and for
    models that are not plain weights.
    """
    check_plain(model)
    config = model.config
    factor, rest = divmod(width, config.width)
    if rest or factor < 2:
        raise ValueError(
            f"width must be a multiple of {config.width}, the model's own ({2 * config.width}, "
            f"{3 * config.width}, ...), got {width}"
        )
    with torch.device("meta"):
        made = type(model)(_wider(config, factor))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in made.state_dict().items()}
    modules = dict(model.named_modules())
    weights = {}
    for name, tensor in model.state_dict().items():
        owner, _, kind = name.rpartition(".")
        reads = kind == "weight" and isinstance(modules[owner], nn.Linear | nn.Conv2d)
        weights[name] = _repeated(
            tensor, shapes[name], _FUSED.get(owner.rpartition(".")[2], 1), generator if reads else None
        )
    made.load_state_dict(weights, assign=True)
    return cast(Model, made.train(model.training))


def _wider(config: MoTConfig | LinearDiTConfig, factor: int) -> MoTConfig | LinearDiTConfig:
    if isinstance(config, LinearDiTConfig):
        if config.position_scale is not None:
            raise ValueError(
                "the model adds a table of positions that depends on its width, so a wider one cannot "
                "compute the same"
            )
        return replace(config, width=config.width * factor, cross_heads=config.cross_heads * factor)
    und, gen = (
        experts and replace(experts, width=experts.width * factor)
        for experts in (config.und_experts, config.gen_experts)
    )
    return replace(
        config,
        width=config.width * factor,
        heads=config.heads * factor,
        kv_heads=config.kv_heads * factor,
        und_experts=und,
        gen_experts=gen,
        ffn_width=config.ffn_width * factor,
        head_width=config.head_width * factor,
    )


def _repeated(tensor: Tensor, shape: torch.Size, fused: int, shares: torch.Generator | None) -> Tensor:
    """A tensor repeated along each axis that grows; with `shares`, axis 1 is what a layer reads, and its
    copies add up to the old."""
    for axis, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
        factor = new // old
        if factor == 1:
            continue
        if axis == 1 and shares is not None:
            tensor = torch.cat(_split(tensor, factor, shares), 1)
        else:
            tensor = torch.cat(
                [part for part in tensor.chunk(fused if axis == 0 else 1, axis) for _ in range(factor)], axis
            )
    return tensor.clone()


def _split(weight: Tensor, factor: int, generator: torch.Generator) -> list[Tensor]:
    """`factor` tensors whose sum is the weight to the last digit."""
    drawn = torch.rand((factor, *weight.shape), generator=generator) * (_SHARES[1] - _SHARES[0]) + _SHARES[0]
    parts = list(weight * (drawn[:-1] / drawn.sum(0)).to(weight))
    return [*parts, weight - sum(parts)]
