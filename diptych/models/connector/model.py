"""Bridges from a language model's sequence to a denoiser's condition, behind one interface.

Shapes: B rows, T tokens of the longest prompt, Q queries, S positions of the condition, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import Backbone
from diptych.models.connector.config import CONNECTOR, LAST, STATES, BridgeConfig

OUT_START = 5.5**0.5
"""Where the norm behind a connector starts, as published: the size of what published denoisers were trained
on."""
NORM_EPS = 1e-5


@runtime_checkable
class Layered(Backbone, Protocol):
    """A language model whose inner layers can be looked at."""

    def states(self, embeddings: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """As `hidden`, of several layers side by side (B, T, layers * channels): 0 the embeddings, -1 the
        last behind its norm. Raises ValueError for a layer that is not there."""
        ...


class Bridge(nn.Module):
    """`forward` gives states and mask of the condition, differentiable through a frozen language model."""

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.config = config
        has_queries = config.kind != STATES
        self.queries = nn.Parameter(torch.zeros(1, config.queries, config.inputs)) if has_queries else None
        self.connector = Connector(config) if config.kind == CONNECTOR else None

    @property
    def outputs(self) -> int:
        return self.config.channels

    @property
    def cacheable(self) -> bool:
        return self.config.cacheable

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter for training from scratch: queries normal, Xavier matrices, norms
        one."""
        for name, parameter in self.named_parameters():
            value = torch.zeros(parameter.shape)
            if name == "queries":
                value.normal_(std=self.config.query_std, generator=generator)
            elif name == "connector.out_norm":
                value.fill_(OUT_START)
            elif "norm" in name:
                value.fill_(1.0)
            elif name.endswith("weight"):
                nn.init.xavier_uniform_(value, generator=generator)
            yield name, value

    def forward(
        self,
        backbone: Backbone,
        ids: Tensor,
        mask: Tensor,
        mark: int | None = None,
        embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prompts, ids (B, T) with mask (B, T), True = real, padded on either side -> states (B, S, channels)
        and their mask (B, S).

        Queries stand behind the token `mark` of each row, and what follows it is not read; without a mark
        they stand behind the last real token. `embeddings` (B, T, C) stand in place of those of the ids,
        where pictures are among them. Raises ValueError for rows without a token, and for rows that hold the
        mark not once.
        """
        mask = mask.bool()
        if mark is not None:
            mask = mask & _up_to(ids, mask, mark)
        lengths = mask.sum(1)
        if bool((lengths == 0).any()):
            raise ValueError("a prompt has no token")
        embedded = backbone.embed(ids) if embeddings is None else embeddings
        # real tokens first, in their order: positions then count from the first of them on
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(lengths.max())]
        embedded = _picked(embedded, order)
        if self.queries is None:
            place = torch.arange(embedded.shape[1], device=mask.device)[None]
            seen = place < lengths[:, None]
            return self._states(backbone, embedded, seen), seen
        queries = self.queries.to(embedded).expand(len(ids), -1, -1)
        rows, length, count = len(ids), embedded.shape[1], queries.shape[1]
        place = torch.arange(length + count, device=mask.device)[None]
        # a row's own tokens, then the queries, then whatever: behind the end nothing is seen
        behind = place - lengths[:, None]
        source = torch.where(behind < 0, place, length + behind.clamp(0, count - 1))
        joined = _picked(torch.cat([embedded, queries], 1), source)
        hidden = backbone.hidden(joined, behind < count)
        asked = lengths[:, None] + torch.arange(count, device=mask.device)[None]
        found = _picked(hidden, asked)
        if self.connector is not None:
            found = self.connector(found)
        return found, mask.new_ones(rows, count)

    def _states(self, backbone: Backbone, embedded: Tensor, seen: Tensor) -> Tensor:
        layers = self.config.layers
        if layers == LAST:
            found = backbone.hidden(embedded, seen)
        elif isinstance(backbone, Layered):
            found = backbone.states(embedded, seen, layers)
            # inner layers grow with depth, and only the last has a norm behind it
            parts = [F.rms_norm(part, (part.shape[-1],)) for part in found.chunk(len(layers), -1)]
            found = torch.cat(parts, -1)
        else:
            raise ValueError(f"this language model gives its last layer alone, and layers are {layers}")
        return found * seen[:, :, None].to(found)


class Connector(nn.Module):
    """Blocks in which all queries see all, then a projection with a norm behind it (MetaQuery, section 3)."""

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConnectorBlock(config) for _ in range(config.depth))
        self.widen = nn.Linear(config.inputs, config.channels)
        self.narrow = nn.Linear(config.channels, config.channels)
        self.out_norm = nn.Parameter(torch.full((config.channels,), OUT_START))

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, outputs)."""
        for block in self.blocks:
            x = block(x)
        x = self.narrow(F.gelu(self.widen(x), approximate="tanh"))
        return F.rms_norm(x, (x.shape[-1],), self.out_norm.to(x.dtype), NORM_EPS)


class ConnectorBlock(nn.Module):
    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        width = config.inputs
        self.heads = config.attention_heads
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.feed_norm = nn.Parameter(torch.ones(width))
        inner = 4 * width
        self.gate_up, self.down = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # no positions: the language model's causal pass has made every query another one already
        normed = F.rms_norm(x, (x.shape[-1],), self.attention_norm.to(x.dtype), NORM_EPS)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(normed).chunk(3, -1)
        )
        found = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        normed = F.rms_norm(x, (x.shape[-1],), self.feed_norm.to(x.dtype), NORM_EPS)
        gate, up = self.gate_up(normed).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def _picked(x: Tensor, index: Tensor) -> Tensor:
    """x (B, T, C) at the places index (B, S) of each row."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def _up_to(ids: Tensor, mask: Tensor, mark: int) -> Tensor:
    """bool (B, T): what stands before the only mark of each row, and the mark."""
    found = (ids == mark) & mask
    counts = found.sum(1).tolist()
    if any(count != 1 for count in counts):
        row = next(row for row, count in enumerate(counts) if count != 1)
        raise ValueError(f"row {row} holds the mark {mark} {counts[row]} times, and once is needed")
    place = found.to(torch.uint8).argmax(1)
    return torch.arange(ids.shape[1], device=ids.device)[None] <= place[:, None]
