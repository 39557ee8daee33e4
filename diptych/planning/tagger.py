"""The model of the learned planner: words and media in, labels of the request, of each word and medium out.

A small bidirectional transformer over hashed words. Convolutions know what is near, attention is told how far
words are apart and nothing else of their places, so that longer requests than those of training are read too.

Shapes: B requests, L places (the first one stands for the whole), C width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.planning.labels import OUTPUTS, TaggerConfig
from diptych.planning.tokens import CONTEXT_FEATURES, FEATURES, MEDIUM_FEATURES, PIECES, WORDS


@dataclass(frozen=True, eq=False)
class Batch:
    """Requests as tensors."""

    words: Tensor
    """Rows of words (B, L); 0 where there is nothing."""
    pieces: Tensor
    """Rows of pieces of all words, one after the other."""
    offsets: Tensor
    """Where the pieces of each of the B * L places begin."""
    features: Tensor
    """(B, L, FEATURES + MEDIUM_FEATURES), 0 or 1."""
    context: Tensor
    """(B, CONTEXT_FEATURES), 0 or 1."""
    mask: Tensor
    """(B, L), True = there is something; the whole's place included."""


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Block(nn.Module):
    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.near_norm, self.norm, self.wide_norm = RMSNorm(width), RMSNorm(width), RMSNorm(width)
        self.near = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.wide = nn.Linear(width, config.hidden)
        self.narrow = nn.Linear(config.hidden, width)

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        near = self.near_norm(x) * mask[..., None]
        x = x + F.relu(self.near(near.transpose(1, 2)).transpose(1, 2))
        batch, length, width = x.shape
        split = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.narrow(F.relu(self.wide(self.wide_norm(x))))


class Tagger(nn.Module):
    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(WORDS, config.table, padding_idx=0)
        self.pieces = nn.EmbeddingBag(PIECES, config.table, mode="mean")
        self.features = nn.Linear(FEATURES + MEDIUM_FEATURES, config.width, bias=False)
        self.context = nn.Linear(CONTEXT_FEATURES, config.width)
        self.enter = nn.Linear(2 * config.table, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width)
        # what a medium is for follows from what is asked for, so the whole is read beside it
        widths = {name: config.width * (2 if name == "roles" else 1) for name in OUTPUTS}
        self.heads = nn.ModuleDict({name: nn.Linear(widths[name], size) for name, size in OUTPUTS.items()})
        for table in (self.words, self.pieces):
            nn.init.normal_(table.weight, std=0.5)

    def forward(self, batch: Batch, dropout: float = 0.0) -> dict[str, Tensor]:
        """Logits of each head: (B, size) of the whole, (B, L, size) of places."""
        count, length = batch.words.shape
        words = self.words(batch.words)
        if dropout:
            # whole words are forgotten, their letters stay: what no training has seen is read by its letters
            kept = torch.rand(batch.words.shape, device=words.device) > dropout
            words = words * kept[..., None]
        pieces = self.pieces(batch.pieces, batch.offsets).view(count, length, -1)
        x = self.enter(torch.cat([words, pieces], dim=-1)) + self.features(batch.features)
        # place 0 is the whole
        x = torch.cat([self.context(batch.context)[:, None], x[:, 1:]], dim=1)
        bias = distance_bias(length, self.config.heads, x.device)
        bias = bias.masked_fill(~batch.mask[:, None, None, :], -1e4)
        for block in self.blocks:
            x = block(x, batch.mask, bias)
        x = self.norm(x)
        both = torch.cat([x, x[:, :1].expand_as(x)], dim=-1)
        seen = {"tags": x, "steps_of": x, "roles": both}
        return {name: head(seen.get(name, x[:, 0])) for name, head in self.heads.items()}


def distance_bias(length: int, heads: int, device: torch.device | None = None) -> Tensor:
    """What is added to attention for words that are far apart (1, H, L, L): nothing in half of the heads, and
    nothing to and from the whole, which is as near to all."""
    places = torch.arange(length, device=device)
    distance = (places[:, None] - places[None, :]).abs().float()
    distance[0, :] = distance[:, 0] = 0.0
    slopes = torch.tensor([0.0 if h % 2 else 0.5 ** (h // 2 + 1) for h in range(heads)], device=device)
    return (-slopes[:, None, None] * distance)[None]
