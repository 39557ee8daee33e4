"""A small bidirectional transformer over caption tokens, learned together with a denoiser where no language
model is wanted.

Shapes: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class CaptionEncoderConfig:
    vocab_size: int
    channels: int = 256
    depth: int = 2
    heads: int = 4
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.channels % self.heads:
            raise ValueError(f"heads must divide the channels {self.channels}, got {self.heads}")


class _Block(nn.Module):
    def __init__(self, config: CaptionEncoderConfig) -> None:
        super().__init__()
        width = config.channels
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        # the mask is on keys alone: padding reads the words, but no word reads padding
        x = x + self.out(
            F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        )
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class CaptionEncoder(nn.Module):
    """Token ids (B, T) -> hidden states (B, T, C); every token sees every real one."""

    def __init__(self, config: CaptionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.channels)
        # as large as the words' own embedding: with small positions word order was not learned
        self.positions = nn.Parameter(torch.randn(config.max_tokens, config.channels))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.channels)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """mask (B, T), True = real."""
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None])
        return self.norm(x)

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter for training from scratch: normal embeddings, norms of one, and
        torch's own start of linear layers, uniform within 1 / sqrt(inputs)."""
        inputs = {
            name: module.in_features for name, module in self.named_modules() if isinstance(module, nn.Linear)
        }
        for name, parameter in self.named_parameters():
            owner, _, kind = name.rpartition(".")
            value = torch.zeros(parameter.shape)
            if owner in inputs:
                bound = inputs[owner] ** -0.5
                value.uniform_(-bound, bound, generator=generator)
            elif name in ("embedding.weight", "positions"):
                # deviation 1 for both: positions must be as large as words, see above
                value.normal_(generator=generator)
            elif kind == "weight":
                value.fill_(1.0)
            yield name, value
