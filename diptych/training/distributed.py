"""One process or many: the same code path. FSDP2 where torchrun started several."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class Ranks:
    rank: int
    count: int
    device: torch.device
    mesh: DeviceMesh | None

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
    if ranks.mesh is not None:
        dist.destroy_process_group()


def prepare(task: nn.Module, blocks: Iterable[nn.Module], ranks: Ranks) -> None:
    """Place the task's model and shard it: every block a group, the rest one more."""
    task.to(ranks.device)
    if ranks.mesh is None:
        return
    for block in blocks:
        fully_shard(block, mesh=ranks.mesh)
        if hasattr(block, "read"):
            # called apart from forward: its weights are gathered for it as well
            register_fsdp_forward_method(block, "read")
    fully_shard(task, mesh=ranks.mesh)


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered where it is sharded (a collective call)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor with the layout of `like`."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)
