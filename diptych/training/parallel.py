"""How every model gets onto its ranks: recompute -> compile -> shard -> materialise -> load or begin.

Surgery comes before: a job makes its model on the meta device, so all of it is free until the shards of this
rank are given memory. No rank holds the whole model that it does not need, and none gathers it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from diptych.contracts import BlockModel, Job
from diptych.files.memory import give_memory_back
from diptych.training.ranks import Ranks, local, share

STATE_BYTES = 20
"""A parameter that learns with its gradient, two optimiser states and EMA, float32; a frozen one has none."""
SHARE = 0.4
"""Of a device's memory that these may take before the model is sharded; the rest is for activations."""


def prepare(
    job: Job, ranks: Ranks, load: Callable[[Ranks], bool], say: Callable[[str], None]
) -> tuple[Ranks, bool]:
    """Place a job's model, from meta to what a step can be taken with.

    `load(ranks)` fills it from a checkpoint and returns whether there was one; where there was none it begins
    from the job's starting values. Returns the ranks as they now are, and what `load` returned; says what was
    chosen.

    Raises ValueError for starting values that are not those of the model.
    """
    config = job.config
    if config.weights == "bfloat16":
        job.model.to(torch.bfloat16)
    _freeze(job)
    if config.checkpoint_blocks:
        _recompute(job.body.blocks)
    if config.compile_blocks:
        for block in job.body.blocks:
            block.compile()
    ranks, chosen = _chosen(job.task, ranks, config.parallel)
    if chosen:
        say(chosen)
    if ranks.sharded:
        _shard(job.task, job.body, ranks)
    _materialise(job.task, ranks.device)
    loaded = load(ranks)
    if not loaded:
        fill(job.model, job.starting_values())
    return ranks, loaded


def _freeze(job: Job) -> None:
    """What learns in no stage gets no gradient: sharding takes this over, and cannot be told later."""
    for name, parameter in job.model.named_parameters():
        parameter.requires_grad_(any(job.learns(name, stage) for stage in job.config.stages))


def _recompute(blocks: Iterable[nn.Module]) -> None:
    """Keep a block's input alone, and run the block again in the backward pass."""
    for block in blocks:
        kept = functools.partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = kept  # type: ignore[method-assign]


def _chosen(task: nn.Module, ranks: Ranks, parallel: str) -> tuple[Ranks, str]:
    """Whether the model is sharded, by what was asked for or by its size."""
    if ranks.mesh is None:
        return ranks, ""
    needed = sum(p.numel() * (STATE_BYTES if p.requires_grad else 4) for p in task.parameters())
    room = _memory(ranks)
    if parallel == "replicated" or (parallel == "auto" and needed <= room * SHARE):
        return ranks, (
            f"{ranks.count} ranks, the whole model on each: weights and states take {needed / 2**30:.1f} "
            f"of {room / 2**30:.1f} GiB"
        )
    return replace(ranks, sharded=True), (
        f"{ranks.count} ranks, the model sharded over them (FSDP2): {needed / 2**30:.1f} GiB in all"
    )


def _memory(ranks: Ranks) -> float:
    """Bytes that one rank's device has for itself."""
    if ranks.device.type == "cuda":
        return float(torch.cuda.get_device_properties(ranks.device).total_memory)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks.count)))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / here


def _shard(task: nn.Module, body: BlockModel, ranks: Ranks) -> None:
    """FSDP2: every block a group, every large module outside them one, the rest another."""
    for block in body.blocks:
        fully_shard(block, mesh=ranks.mesh)
        for name in body.facts.calls:
            register_fsdp_forward_method(block, name)
    for name in body.facts.apart:
        fully_shard(cast(nn.Module, body).get_submodule(name), mesh=ranks.mesh)
    fully_shard(task, mesh=ranks.mesh)
    if ranks.device.type == "cpu":
        # by itself glibc keeps, piece by piece, room for the whole gathered model
        give_memory_back()
    # drawing calls no forward of the task: this stands in for it, and has the rest gathered meanwhile
    task._call = _call  # type: ignore[assignment]
    register_fsdp_forward_method(task, "_call")


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def within(task: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), which may use any part of the task's model, also where that is sharded.

    All ranks call it together. Nothing that was gathered is kept afterwards.
    """
    if not isinstance(task, FSDPModule):
        return function(*arguments)
    try:
        return task._call(function, *arguments)  # type: ignore[operator]
    finally:
        # the root's forward leaves its own weights gathered, for a backward pass that does not come
        for module in task.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _materialise(task: nn.Module, device: torch.device) -> None:
    """Give the shards of this rank memory, not filled."""
    if odd := [name for name, _ in task.named_buffers()]:
        raise ValueError(f"{odd[0]} is a buffer: models have none, as nothing would fill it on several ranks")
    task.to_empty(device=device)


@torch.no_grad()
def fill(model: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Take values for every parameter, of which no more than one is held at a time.

    Raises ValueError for a name or shape that the model does not have, and for parameters that get no value.
    """
    named = dict(model.named_parameters())
    left = set(named)
    for name, value in values:
        if name not in named or named[name].shape != value.shape:
            has = f"{tuple(named[name].shape)} in the model" if name in named else "not in the model"
            raise ValueError(f"starting value {name} {tuple(value.shape)} is {has}")
        local(named[name]).copy_(share(value, named[name]))
        left.discard(name)
    if left:
        raise ValueError(f"there is no starting value for {min(left)} ({len(left)} such parameters)")
