"""Depth growth (SANA-1.5, arXiv 2501.18427 section 3.1): a trained model goes on deeper than it was."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.contracts import BlockModel
from diptych.models import MAX_DEPTH
from diptych.surgery.blocks import Model, is_one_of, tensors, with_blocks

STRATEGIES = ("partial", "cyclic", "replicate")
DROPPED = 2
"""Last blocks that partial preservation leaves out by default: they have learnt to be the last."""


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
    if depth > MAX_DEPTH:
        raise ValueError(f"depth must be at most {MAX_DEPTH:,} blocks, got {depth}")
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
    # copies are spread evenly: 4 blocks grown to 6 are 0 0 1 2 2 3
    return [index * blocks // depth for index in range(depth)]


def grow(
    model: Model, depth: int, keep: int | None = None, strategy: str = "partial", seed: int = 0
) -> Model:
    """A deeper model by `growth_plan`; see there. The old one stays whole; kept tensors are shared with
    it."""
    generator = torch.Generator().manual_seed(seed)
    return with_blocks(
        model, growth_plan(len(model.blocks), depth, keep, strategy), lambda: _silent_block(model, generator)
    )


@torch.no_grad()
def _silent_block(model: BlockModel, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors of a new block that returns its input to the bit and learns from the first step on."""
    like = next(iter(tensors(model).values()))
    block = {}
    for name, tensor in model.new_block(generator).items():
        # zeros in a branch's last projection alone: its gradient is that of the branch, which is not zero
        if is_one_of(name.rpartition(".")[0], model.facts.silent):
            tensor = torch.zeros_like(tensor)
        block[name] = tensor.detach().to(like.device, like.dtype)
    return block
