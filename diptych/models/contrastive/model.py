"""A vision transformer and a text encoder trained by contrast (CLIP, arXiv 2103.00020; pooling as in SigLIP's
towers without a class token).

Shapes: P pictures, N patches, C width of the vision tower, E channels of the common space, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import BlockFacts
from diptych.models.caption_encoder import CaptionEncoder, CaptionEncoderConfig

LARGEST = math.log(100.0)
"""Of the logarithm that similarities are multiplied by, as published."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    size: int = 48
    """px a side of the pictures that it reads."""
    patch: int = 8
    """px a side of a patch."""
    width: int = 96
    depth: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size < self.patch or self.size % self.patch:
            raise ValueError(f"patch must divide the size {self.size}, got {self.patch}")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"heads must divide the width {self.width}, got {self.heads}")

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.size // self.patch


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    vision: VisionConfig
    text: CaptionEncoderConfig
    common: int = 96
    """E."""


class _Block(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class VisionTower(nn.Module):
    """Pictures (P, 3, size, size) of -1..1 -> features of their patches (P, C, grid, grid)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Linear(3 * config.patch**2, config.width)
        self.positions = nn.Parameter(torch.zeros(config.grid**2, config.width))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, pixels: Tensor) -> Tensor:
        patch, grid = self.config.patch, self.config.grid
        # patches as rows, not a strided convolution: the same product, and a matrix for the optimiser
        cut = pixels.unflatten(2, (grid, patch)).unflatten(4, (grid, patch))
        x = self.patches(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x).transpose(1, 2).unflatten(2, (grid, grid))


class Contrastive(nn.Module):
    """Both towers, and their common space."""

    facts: ClassVar = BlockFacts(silent=())

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.vision, self.text = VisionTower(config.vision), CaptionEncoder(config.text)
        self.from_vision = nn.Linear(config.vision.width, config.common, bias=False)
        self.from_text = nn.Linear(config.text.channels, config.common, bias=False)
        self.sharpness = nn.Parameter(torch.zeros(1))

    @property
    def blocks(self) -> nn.ModuleList:
        """Those that are recomputed and sharded one by one."""
        return self.vision.blocks

    def of_pictures(self, pixels: Tensor) -> Tensor:
        """(P, 3, size, size) of -1..1 -> unit vectors (P, E): the mean of all patches, which so must say by
        themselves what the picture shows."""
        return F.normalize(self.from_vision(self.vision(pixels).flatten(2).mean(2)).float(), dim=-1)

    def of_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids (P, T) and mask (P, T), True = real -> unit vectors (P, E)."""
        states, weight = self.text(ids, mask), mask[..., None]
        mean = (states * weight).sum(1) / weight.sum(1)
        return F.normalize(self.from_text(mean).float(), dim=-1)

    def similarities(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (P, P) of picture i against text j."""
        sharpness = self.sharpness.float().clamp(max=LARGEST).exp()
        return sharpness * self.of_pictures(pixels) @ self.of_texts(ids, mask).T

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter: the text encoder's own start, torch's of linear layers,
        positions as large as patches, and similarities sharpened by 1 / 0.07 as published."""
        for name, value in self.text.starting_values(generator):
            yield f"text.{name}", value
        inputs = {
            name: module.in_features for name, module in self.named_modules() if isinstance(module, nn.Linear)
        }
        for name, parameter in self.named_parameters():
            if name.startswith("text."):
                continue
            owner, _, kind = name.rpartition(".")
            value = torch.zeros(parameter.shape)
            if owner in inputs:
                bound = inputs[owner] ** -0.5
                value.uniform_(-bound, bound, generator=generator)
            elif name == "sharpness":
                value.fill_(math.log(1 / 0.07))
            elif name == "vision.positions":
                # about as large as patches: the loss hardly asks where a thing is, and what draws from the
                # features must know
                value.normal_(0.0, 0.5, generator=generator)
            elif kind == "weight":
                value.fill_(1.0)
            yield name, value


def contrast(similarities: Tensor, same: Tensor) -> Tensor:
    """Loss (P,) of each pair in both directions, the mean of the two. `same` (P, P): texts that are equal,
    so that the picture of one is no wrong answer to the other."""
    own = torch.eye(len(similarities), dtype=torch.bool, device=similarities.device)
    logits = similarities.masked_fill(same & ~own, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    losses = [F.cross_entropy(side, target, reduction="none") for side in (logits, logits.T)]
    return (losses[0] + losses[1]) / 2
