"""One process or many: the same code path. FSDP2 where torchrun started several."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

STATE_BYTES = 20
"""A parameter with its gradient, two optimiser states and EMA, float32."""
SHARE = 0.4
"""Of a device's memory that these may take before the model is sharded; the rest is for activations."""
GLOO_REST = 0.3
"""Seconds that gloo's threads are given to let go of the last sum's tensors; one that still does so while the
interpreter ends aborts it."""


@dataclass(frozen=True)
class Ranks:
    rank: int
    count: int
    device: torch.device
    mesh: DeviceMesh | None
    """Of several ranks."""
    sharded: bool = False
    """Whether each rank holds a part of every block, or the whole model."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: list[float]) -> list[float]:
        """Sum over ranks."""
        if self.mesh is None:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()


def start() -> Ranks:
    """Join the group that torchrun describes in the environment, or be alone."""
    cuda = torch.cuda.is_available()
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if count == 1:
        return Ranks(0, 1, device, None)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return Ranks(rank, count, device, init_device_mesh(device.type, (count,)))


def stop(ranks: Ranks) -> None:
    if ranks.mesh is None:
        return
    waits = dist.get_backend() == "gloo"
    dist.destroy_process_group()
    if waits:
        time.sleep(GLOO_REST)


def prepare(task: nn.Module, blocks: Iterable[nn.Module], ranks: Ranks, parallel: str) -> tuple[Ranks, str]:
    """Place the task's model, and shard it where `parallel` or its size says so: every block a group, the
    rest one more.

    Returns the ranks as they now are, and what was chosen, in words.
    """
    task.to(ranks.device)
    if ranks.mesh is None:
        return ranks, ""
    needed = STATE_BYTES * sum(p.numel() for p in task.parameters())
    room = _memory(ranks)
    if parallel == "replicated" or (parallel == "auto" and needed <= room * SHARE):
        return (
            ranks,
            f"{ranks.count} ranks, the whole model on each: weights and states take {needed / 2**30:.1f} "
            f"of {room / 2**30:.1f} GiB",
        )
    for block in blocks:
        fully_shard(block, mesh=ranks.mesh)
        if hasattr(block, "read"):
            # called apart from forward: its weights are gathered for it as well
            register_fsdp_forward_method(block, "read")
    fully_shard(task, mesh=ranks.mesh)
    return replace(
        ranks, sharded=True
    ), f"{ranks.count} ranks, the model sharded over them (FSDP2): {needed / 2**30:.1f} GiB in all"


def _memory(ranks: Ranks) -> float:
    """Bytes that one rank's device has for itself."""
    if ranks.device.type == "cuda":
        return float(torch.cuda.get_device_properties(ranks.device).total_memory)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks.count)))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / local


def reduce_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Sum gradients over the ranks, where each holds the whole model; all ranks get the same bits."""
    if ranks.mesh is None or ranks.sharded:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered where it is sharded (a collective call)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor with the layout of `like`."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)
