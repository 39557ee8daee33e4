"""Layers of the transformer over feature vectors.

Shapes: B batch, N vectors, C width, H heads, D head width, S positions of the condition, E channels of the
time embedding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.models.feature_dit.config import FeatureDiTConfig

EPS = 1e-5
"""Of all norms but that before the output."""


class KeyValue(NamedTuple):
    """Keys and values of one block's attention to the condition: (B, H, S, D) each."""

    key: Tensor
    value: Tensor


class Rotation(NamedTuple):
    """Of every vector by its row and column: (N, D / 2) each."""

    cosine: Tensor
    sine: Tensor


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), EPS)


@lru_cache(maxsize=64)
def rotation(rows: int, columns: int, head: int) -> Rotation:
    """Pairs of neighbouring channels turn: even pairs by the row, odd ones by the column, both with the
    frequencies 10000^(-4 k / head); float32 on the CPU."""
    frequency = 10000.0 ** (-4 * torch.arange(head // 4, dtype=torch.float64) / head)
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    angle = torch.stack([row, column], -1).flatten(0, 1)[:, None] * frequency[:, None]
    angle = angle.flatten(1)
    return Rotation(angle.cos().float(), angle.sin().float())


def turned(x: Tensor, turn: Rotation) -> Tensor:
    """x (B, H, N, D), its pairs of channels turned."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = turn
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


class Attention(nn.Module):
    """Softmax attention among the vectors, and from them to the condition, from the same input: both are
    added before one projection, the second through a gate of each head (Lumina-Next, arXiv 2406.18583)."""

    def __init__(self, config: FeatureDiTConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        # query, key and value among the vectors, and the query towards the condition
        self.queries = nn.Linear(width, 4 * width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.gate = nn.Parameter(torch.zeros(config.heads))
        # over all heads together, before they are split
        self.query_norm, self.key_norm = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.text_query_norm, self.text_key_norm = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.out = nn.Linear(width, width, bias=False)

    def read(self, text: Tensor) -> KeyValue:
        """Keys and values of a condition (B, S, C)."""
        key, value = self.key_value(text).chunk(2, -1)
        return KeyValue(self._split(self.text_key_norm(key)), self._split(value))

    def forward(self, x: Tensor, text: KeyValue, mask: Tensor | None, turn: Rotation) -> Tensor:
        """x (B, N, C); mask (B, 1, 1, S), True = seen, or None."""
        query, key, value, asking = self.queries(x).chunk(4, -1)
        query = turned(self._split(self.query_norm(query)), turn)
        key = turned(self._split(self.key_norm(key)), turn)
        # keys of the condition are not turned: it has no place on the grid
        asking = turned(self._split(self.text_query_norm(asking)), turn)
        found = F.scaled_dot_product_attention(query, key, self._split(value))
        told = F.scaled_dot_product_attention(asking, text.key, text.value, mask)
        mixed = found + self.gate.tanh().to(x.dtype)[:, None, None] * told
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, H, N, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: down(SiLU(gate x) * up x)."""

    def __init__(self, config: FeatureDiTConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.inner, bias=False)
        self.down = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)
