"""A small transformer over patches of pixels, told its prompt as one vector.

Shapes: B rows, F frames, N patches of all frames, C width, P values of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import BlockFacts

BYTES = 257
"""Every byte, and the mark that every text begins with."""
FREQUENCIES = 8


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    depth: int = 2
    width: int = 32
    head_dim: int = 16
    patch: int = 8

    def __post_init__(self) -> None:
        if self.width % self.head_dim:
            raise ValueError(
                f"width must be a multiple of {self.head_dim} (the head width), got {self.width}"
            )

    def widened(self, factor: int) -> ToyConfig:
        return replace(self, width=self.width * factor)


class Block(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.norm1 = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 2 * config.width)
        self.down = nn.Linear(2 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> the same."""
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ToyModel(nn.Module):
    facts: ClassVar = BlockFacts(
        silent=("out", "down"),
        fused={"qkv": 3},
        adapted=("qkv", "out", "up", "down"),
        apart=("words",),
    )

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(BYTES, config.width)
        self.enter = nn.Linear(3 * config.patch**2, config.width)
        self.level = nn.Linear(2 * FREQUENCIES, config.width)
        self.place = nn.Linear(4 * FREQUENCIES, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, 3 * config.patch**2)

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Bytes (B, T), mask True = real -> the texts' vectors (B, C)."""
        held = mask.unsqueeze(-1).to(self.words.weight.dtype)
        return (self.words(ids) * held).sum(1) / held.sum(1)

    def forward(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Velocity of noisy x (B, F, 3, H, W) at levels (B, F), told texts (B, C)."""
        patch, frames = self.config.patch, x.shape[1]
        rows, columns = x.shape[3] // patch, x.shape[4] // patch
        tokens = self.enter(F.pixel_unshuffle(x.flatten(0, 1), patch).flatten(2).transpose(1, 2))
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(x)
        tokens = (
            tokens + self.place(waves(grid / 8).flatten(-2)) + self.level(waves(sigma.flatten()))[:, None]
        )
        tokens = tokens.unflatten(0, (-1, frames)).flatten(1, 2) + text[:, None]
        for block in self.blocks:
            tokens = block(tokens)
        out = self.leave(self.norm(tokens)).unflatten(1, (frames, -1)).flatten(0, 1)
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, (rows, columns)), patch).unflatten(
            0, (-1, frames)
        )

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.named_parameters():
            yield name, _start(name, parameter.shape, generator)

    def new_block(self, generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {name: parameter.shape for name, parameter in self.blocks[0].named_parameters()}
        return {name: _start(name, shape, generator) for name, shape in shapes.items()}


def _start(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if len(shape) == 2:
        return torch.randn(shape, generator=generator) / math.sqrt(shape[1])
    return torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.zeros(shape)


def waves(value: Tensor) -> Tensor:
    """(...) -> (..., 2 * FREQUENCIES)."""
    angles = value.unsqueeze(-1) * 2.0 ** torch.arange(FREQUENCIES, device=value.device)
    return torch.cat([angles.sin(), angles.cos()], -1).to(value)
