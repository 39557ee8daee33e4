"""One process or many: the same code path. Tensors as this rank holds them, and sums over all ranks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

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

    def gathered(self, value: Any) -> list[Any]:
        """What each rank says, small plain values, on all ranks."""
        if self.mesh is None:
            return [value]
        said: list[Any] = [None] * self.count
        dist.all_gather_object(said, value)
        return said


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
    """Leave the group."""
    if ranks.mesh is None:
        return
    waits = dist.get_backend() == "gloo"
    dist.destroy_process_group()
    if waits:
        time.sleep(GLOO_REST)


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


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds: the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor that every rank has, laid out as `like` is. Nothing is sent."""
    if not isinstance(like, DTensor):
        return whole
    shape, offset = compute_local_shape_and_global_offset(like.shape, like.device_mesh, like.placements)
    return whole[tuple(slice(at, at + size) for at, size in zip(offset, shape, strict=True))]
