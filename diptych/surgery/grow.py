"""Depth growth (SANA-1.5, arXiv 2501.18427 section 3.1): a trained model goes on deeper than it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.models.linear_dit import LinearDiT, LinearDiTConfig
from diptych.models.linear_dit.model import Block
from diptych.models.mot import MoT
from diptych.surgery.blocks import Model, with_blocks

STRATEGIES = ("partial", "cyclic", "replicate")
DROPPED = 2
"""Last blocks that partial preservation leaves out by default: they have learnt to be the last."""
_STD, _DEPTHWISE_STD = 0.02, 0.2
_SILENT = {
    LinearDiT: (
        "attention.out.weight",
        "attention.out.bias",
        "cross_attention.out.weight",
        "cross_attention.out.bias",
        "feed_forward.narrow.weight",
    ),
    MoT: ("o.weight", "down.weight"),
}
"""Last projections of a block's branches: where these are zero, the block returns what it was given."""


def growth_plan(
    blocks: int, depth: int, keep: int | None = None, strategy: str = "partial"
) -> list[int | None]:
    """Source of each block of a grown model: a block of the old one, or None for a new one.

    'partial' (the paper's partial preservation): the first `keep` blocks (default: all but the last two),
    then new ones that change nothing yet. 'cyclic': all blocks over and over. 'replicate': each block several
    times in a row. Only 'partial' computes what the kept blocks computed. Raises ValueError where there is
    nothing to grow or nothing to keep.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if depth <= blocks:
        raise ValueError(
            f"the model has {blocks} blocks already; to grow it, depth must be more than that, got {depth}"
        )
    if strategy == "partial":
        keep = max(1, blocks - DROPPED) if keep is None else keep
        if not 1 <= keep <= blocks:
            raise ValueError(f"keep must be 1 to {blocks}, the blocks that the model has, got {keep}")
        return [index if index < keep else None for index in range(depth)]
    if keep is not None:
        raise ValueError(f"keep belongs to the strategy 'partial'; {strategy!r} uses all blocks")
    if strategy == "cyclic":
        return [index % blocks for index in range(depth)]
    return [index * blocks // depth for index in range(depth)]


def grow(
    model: Model, depth: int, keep: int | None = None, strategy: str = "partial", seed: int = 0
) -> Model:
    """A deeper model by `growth_plan`; see there. The old one stays whole; kept tensors are shared with
    it."""
    generator = torch.Generator().manual_seed(seed)
    return with_blocks(
        model, growth_plan(len(model.blocks), depth, keep, strategy), lambda: _identity(model, generator)
    )


def _identity(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors of a new block that returns its input to the bit and learns from the first step on."""
    like = next(model.parameters())
    if isinstance(model, LinearDiT):
        block = _linear_dit_block(model.config, generator)
    else:
        assert isinstance(model, MoT)
        one = MoT(type(model.config)(**{**vars(model.config), "depth": 1}))
        one.initialise(generator)
        block = dict(one.blocks[0].state_dict())
    for name, tensor in block.items():
        if name.endswith(_SILENT[type(model)]):
            tensor.zero_()
    return {name: tensor.to(like.device, like.dtype) for name, tensor in block.items()}


def _linear_dit_block(config: LinearDiTConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """As published: normal of 0.02, of 0.2 in the depthwise convolution; attention's biases zero, norms one;
    frame parts zero."""
    block = dict(Block(config).state_dict())
    for name, tensor in block.items():
        if name.endswith(("_norm", ".mix", ".beside")):
            continue  # ones, or zeros, as they are made
        if name in ("cross_attention.query.bias", "cross_attention.key_value.bias"):
            tensor.zero_()
        else:
            tensor.normal_(std=_DEPTHWISE_STD if "depthwise" in name else _STD, generator=generator)
    return block
