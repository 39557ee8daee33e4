"""Width growth: every channel, head and inner unit several times over, and the same function.

Whatever reads a channel reads all its copies, with weights that add up to the old one (Net2WiderNet, arXiv
1511.05641, section 3.2). Norms see the same mean and the same mean square, attention the same heads more
often. The shares of the copies are drawn at random for every weight, so that copies get different gradients
and grow apart from the first step on.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from diptych.surgery.blocks import Model, check_plain, empty, remade, tensors

_SHARES = (0.25, 0.75)
"""Range of a copy's share before they are made to add up: from zero on, a copy might be as good as deaf."""


def widen(model: Model, width: int, seed: int = 0) -> Model:
    """A model of `width` channels, a multiple of the old one's, that computes the same up to rounding.

    Heads, inner units of feed-forwards and experts grow by the same factor (`config.widened`). The old one
    stays whole. Raises ValueError for a width that is no multiple, for a config that cannot be widened, and
    for models that are not plain weights.
    """
    check_plain(model)
    old = model.config.width
    factor, rest = divmod(width, old)
    if rest or factor < 2:
        raise ValueError(
            f"width must be a multiple of {old}, the model's own ({2 * old}, {3 * old}, ...), got {width}"
        )
    config = model.config.widened(factor)
    shapes = {name: tensor.shape for name, tensor in empty(model, config).state_dict().items()}
    modules = dict(cast(nn.Module, model).named_modules())
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in tensors(model).items():
        owner, _, kind = name.rpartition(".")
        # axis 1 of an embedding or of a table is written, not read: only layers divide it among copies
        reads = kind == "weight" and isinstance(modules[owner], nn.Linear | nn.Conv2d)
        fused = model.facts.fused.get(owner.rpartition(".")[2], 1)
        weights[name] = _repeated(tensor, shapes[name], fused, generator if reads else None)
    return remade(model, config, weights)


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
            # query, key and value of one matrix are each repeated by itself: all queries first, as before
            tensor = torch.cat(
                [part for part in tensor.chunk(fused if axis == 0 else 1, axis) for _ in range(factor)], axis
            )
    return tensor.clone()


def _split(weight: Tensor, factor: int, generator: torch.Generator) -> list[Tensor]:
    """`factor` tensors whose sum is the weight to the last digit."""
    drawn = torch.rand((factor, *weight.shape), generator=generator) * (_SHARES[1] - _SHARES[0]) + _SHARES[0]
    # the last copy takes what rounding left of the others
    parts = list(weight * (drawn[:-1] / drawn.sum(0)).to(weight))
    return [*parts, weight - sum(parts)]
