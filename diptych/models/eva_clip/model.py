"""The vision tower of EVA-CLIP-E, whose features BLIP3-o draws. transformers has no class for it.

Shapes: P pictures, N patches of each, C width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.models import MAX_DEPTH

EPS = 1e-6
HEAD = 112
"""Width of a head of the published tower."""


@dataclass(frozen=True, kw_only=True)
class EvaTowerConfig:
    """Published (E/14+): 64 blocks of 1792 channels, 16 heads, patches of 14 px, 448 px a side."""

    depth: int = 64
    width: int = 1792
    heads: int = 16
    mlp: int = 15360
    """Inner width of the feed-forward."""
    patch: int = 14
    """px a side."""
    grid: int = 32
    """Patches a side."""

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "mlp", "patch", "grid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"depth must be at most {MAX_DEPTH:,}, got {self.depth}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width {self.width}, got {self.heads}")


def tower_config(shapes: Mapping[str, tuple[int, ...]], heads: int | None = None) -> EvaTowerConfig:
    """Sizes of weights by their names. `heads` is no shape: heads of 112 channels unless it is given. Raises
    ValueError for what is no such tower."""
    try:
        width, _, patch, _ = shapes["patch_embed.proj.weight"]
        _, places, _ = shapes["pos_embed"]
        mlp, _ = shapes["blocks.0.mlp.fc1.weight"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"the weights are no EVA-CLIP vision tower: {error}") from error
    grid = round((places - 1) ** 0.5)
    if grid**2 != places - 1:
        raise ValueError(f"pos_embed has {places} places, and a square of patches and one more is needed")
    depth = len({found[1] for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name))})
    return EvaTowerConfig(
        depth=depth, width=width, heads=heads or max(1, width // HEAD), mlp=mlp, patch=patch, grid=grid
    )


# attribute names are those of the published weights
class Attention(nn.Module):
    def __init__(self, config: EvaTowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: EvaTowerConfig) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(config.width, config.mlp), nn.Linear(config.mlp, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: EvaTowerConfig) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(config), FeedForward(config)
        self.norm1, self.norm2 = nn.LayerNorm(config.width, EPS), nn.LayerNorm(config.width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        # the norms stand behind the branches, unlike in the smaller towers of the family
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


class PatchEmbed(nn.Module):
    def __init__(self, config: EvaTowerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch)


class EvaTower(nn.Module):
    """Pictures (P, 3, side, side), normalised as CLIP does -> features of their patches (P, N, C), row by
    row, of the last block, without a norm behind it and without the class token."""

    def __init__(self, config: EvaTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid**2 + 1, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.patch_embed.proj(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]
