"""Mixture of transformers: one model that reads, answers and draws (SenseNova-U1, arXiv 2605.12500).

Two streams of weights, joined in every layer by one softmax attention. Text and clean pictures use the
understanding stream, noisy pictures the generation stream. Shapes as in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from diptych.contracts import BlockFacts
from diptych.models.mot.config import MoTConfig
from diptych.models.mot.layers import (
    ConvHead,
    LinearHead,
    PatchInterface,
    RMSNorm,
    ScalarEmbedder,
    StreamLayer,
    rotation_tables,
)
from diptych.models.mot.layout import Layout

Rotations = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Cache:
    """Keys and values of a prefix, per layer (B, K, S, D), after norm and rotation; computed once, read at
    every step."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    valid: Tensor
    """bool (B, S): False where a shorter row was padded."""
    next_time: Tensor
    """(B,): the t that the next token of each row gets."""

    @cached_property
    def key_mask(self) -> Tensor | None:
        """(B, 1, 1, S), or None where nothing was padded. Found out once: on a GPU the question waits for the
        device."""
        return None if bool(self.valid.all()) else self.valid[:, None, None]

    def rows(self, index: Sequence[int]) -> Self:
        """Some of the rows, in this order; padding that only the others needed goes."""
        chosen = torch.tensor(index, device=self.valid.device)
        # padding stands on the right, so the longest of the chosen rows says where to cut
        valid = self.valid[chosen]
        length = int(valid.any(0).nonzero().max()) + 1
        layers = tuple((k[chosen, :, :length], v[chosen, :, :length]) for k, v in self.layers)
        return type(self)(layers, valid[:, :length], self.next_time[chosen])

    def joined(self, others: Sequence[Self]) -> Self:
        """The rows of this and of other caches; shorter ones are padded on the right."""
        caches = (self, *others)
        length = max(cache.valid.shape[1] for cache in caches)

        def together(parts: list[Tensor]) -> Tensor:
            return torch.cat([F.pad(part, (0, 0, 0, length - part.shape[2])) for part in parts])

        layers = tuple(
            (together([k for k, _ in layer]), together([v for _, v in layer]))
            for layer in zip(*(cache.layers for cache in caches), strict=True)
        )
        valid = torch.cat([F.pad(cache.valid, (0, length - cache.valid.shape[1])) for cache in caches])
        return type(self)(layers, valid, torch.cat([cache.next_time for cache in caches]))


class Block(nn.Module):
    def __init__(self, config: MoTConfig) -> None:
        super().__init__()
        self.und = StreamLayer(config, config.und_experts)
        self.gen = StreamLayer(config, config.gen_experts)

    def forward(
        self,
        und: Tensor,
        gen: Tensor,
        layout: Layout,
        rotations: Rotations,
        past: tuple[Tensor, Tensor] | None = None,
        keep: bool = False,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """und (U, C), gen (G, C) -> the same after this block, and where `keep` is set the rows' keys and
        values (B, K, L, D) without `past`."""
        projected = zip(self.und.project(und, rotations[0]), self.gen.project(gen, rotations[1]), strict=True)
        slots, shape = layout.gather.flatten(), layout.gather.shape
        q, k, v = (
            torch.cat(pair).index_select(0, slots).unflatten(0, shape).transpose(1, 2) for pair in projected
        )
        # in training nobody reads them, and kept they would outlive a recomputed block
        own = (k, v) if keep else None
        if past is not None:
            k, v = (
                # a cache of one row may serve many: expanded, not copied, until here
                torch.cat([past[0].expand(k.shape[0], -1, -1, -1), k], 2),
                torch.cat([past[1].expand(k.shape[0], -1, -1, -1), v], 2),
            )
        attended = attend(q, k, v, layout.mask).transpose(1, 2).flatten(2).flatten(0, 1)
        und = self.und.finish(und, attended.index_select(0, layout.und))
        return und, self.gen.finish(gen, attended.index_select(0, layout.gen)), own


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Joint softmax attention, (B, H, L, D); FlexAttention for a block mask, SDPA for a dense one or none."""
    if isinstance(mask, BlockMask):
        attended = flex_attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return cast(Tensor, attended)
    if q.shape[1] != k.shape[1]:
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class MoT(nn.Module):
    """The whole model. `forward` is the packed pass of training; `prefix`, `extend` and `denoise` are the
    same computation in parts, over a cache, for asking and drawing."""

    facts: ClassVar[BlockFacts] = BlockFacts(
        # a block has no gates: its last projections alone can silence it
        silent=("o", "down"),
        adapted=("q", "k", "v", "o", "gate", "up", "down"),
        # 151,936 tokens make each of them 622M weights in the 8B model
        apart=("embedding", "text_head"),
    )

    def __init__(self, config: MoTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.clean_interface = PatchInterface(config)
        self.noisy_interface = PatchInterface(config)
        self.time_embedder = ScalarEmbedder(config.scalar_features, config.width)
        self.noise_scale_embedder = ScalarEmbedder(config.scalar_features, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.und_norm = RMSNorm(config.width, config.norm_eps)
        self.gen_norm = RMSNorm(config.width, config.norm_eps)
        self.text_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.pixel_head = LinearHead(config) if config.head == "linear" else ConvHead(config)

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Fresh weights: normal of std 1/sqrt(fan in), output projections divided by sqrt(2 depth), embedding
        std 0.02."""
        for name, parameter in self.named_parameters():
            if name in ("pixel_head.second.weight", "pixel_head.second.bias"):
                # the first prediction is a plain gray picture, not noise
                yield name, torch.zeros(parameter.shape)
            else:
                yield name, self._fresh(name, parameter.shape, generator)

    def _fresh(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        if len(shape) < 2:
            return torch.full(shape, 1.0 if "norm" in name else 0.0)
        std = 0.02 if name.startswith("embedding") else shape[1:].numel() ** -0.5
        if name.split(".")[-2] in self.facts.silent:
            # two branches a block add to the residual stream: so its size does not grow with depth
            std /= (2 * self.config.depth) ** 0.5
        return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-3 * std, b=3 * std, generator=generator)

    def initialise(self, generator: torch.Generator) -> None:
        """Take the starting values, in place."""
        for name, value in self.starting_values(generator):
            self.get_parameter(name).data.copy_(value)

    def new_block(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Values of one more block, as `starting_values` has them."""
        return {
            name: self._fresh(name, parameter.shape, generator)
            for name, parameter in self.blocks[0].named_parameters()
        }

    def embed_clean(self, pictures: Tensor) -> Tensor:
        """Clean pictures (P, 3, height, width), ImageNet-normalised -> (P * tokens, C)."""
        return self.clean_interface(pictures)

    def embed_noisy(self, pictures: Tensor, sigma: Tensor, noise_scale: Tensor) -> Tensor:
        """Noisy pictures (P, 3, height, width) at noise levels (P,) and noise scales (P,) -> (P * tokens, C).

        The embedders read t = 1 - sigma, the time of the published model.
        """
        tokens = self.noisy_interface(pictures)
        # added to every token, once: the published model has no adaLN
        level = self.time_embedder(1.0 - sigma) + self.noise_scale_embedder(
            noise_scale / self.config.noise_scale_max
        )
        return tokens + level.repeat_interleave(tokens.shape[0] // pictures.shape[0], dim=0).type_as(tokens)

    def forward(self, und: Tensor, gen: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Packed rows: embedded tokens of both streams, und (U, C) and gen (G, C) -> their normed hidden
        states."""
        und, gen, _ = self._through(und, gen, layout, keep=False)
        return und, gen

    def prefix(self, und: Tensor, positions: Tensor, lengths: Tensor, mask: Tensor) -> tuple[Tensor, Cache]:
        """Read B prefixes: und (B, L, C), positions (B, L, 3), true lengths (B,), mask (B, 1, L, L).

        Returns the normed hidden states (B, L, C) and the cache.
        """
        rows, length, width = und.shape
        layout = Layout.uniform(positions, mask, noisy=False)
        hidden, _, added = self._through(und.flatten(0, 1), und.new_empty(0, width), layout)
        valid = torch.arange(length, device=und.device)[None] < lengths[:, None]
        # the highest time of a row is its last token's: tokens of a picture share one, and times never fall
        last = positions[torch.arange(rows, device=und.device), lengths - 1, 0]
        return hidden.view(rows, length, width), Cache(added, valid, last + 1)

    def extend(self, und: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Append one text token to each row: und (B, C). Returns hidden (B, C) and the longer cache."""
        positions = torch.zeros(und.shape[0], 1, 3, dtype=torch.long, device=und.device)
        positions[:, 0, 0] = cache.next_time
        mask = cache.key_mask
        # the new token sees itself, and padded slots of the prefix stay hidden for good
        if mask is not None:
            mask = F.pad(mask, (0, 1), value=True)
        layout = Layout.uniform(positions, mask, noisy=False)
        hidden, _, added = self._through(und, und[:0], layout, cache)
        layers = tuple(
            (torch.cat([k, nk], 2), torch.cat([v, nv], 2))
            for (k, v), (nk, nv) in zip(cache.layers, added, strict=True)
        )
        return hidden, Cache(layers, F.pad(cache.valid, (0, 1), value=True), cache.next_time + 1)

    def denoise(self, pictures: Tensor, sigma: Tensor, noise_scale: Tensor, cache: Cache) -> Tensor:
        """Predict the clean pictures from noisy ones (B, 3, height, width) behind the cached prefixes."""
        rows, columns = (side // self.config.token for side in pictures.shape[-2:])
        gen = self.embed_noisy(pictures, sigma, noise_scale)
        positions = picture_positions(rows, columns, cache.next_time)
        mask = cache.key_mask
        if mask is not None:
            mask = F.pad(mask, (0, rows * columns), value=True)
        layout = Layout.uniform(positions, mask, noisy=True)
        # nothing is added to the cache: noisy tokens are seen by their own picture and by nobody later
        _, hidden, _ = self._through(gen[:0], gen, layout, cache, keep=False)
        return self.pixel_head(hidden, rows, columns)

    def _through(
        self, und: Tensor, gen: Tensor, layout: Layout, past: Cache | None = None, keep: bool = True
    ) -> tuple[Tensor, Tensor, tuple[tuple[Tensor, Tensor], ...]]:
        """Both streams through all blocks; with `past`, rows also see that prefix.

        Returns the normed hidden states (U, C) and (G, C), and where `keep` is set the keys and values that
        these tokens add, per layer (B, K, L, D).
        """
        config = self.config
        rotations = (
            rotation_tables(layout.und_positions, config.head_dim, config.rope_theta, config.rope_theta_hw),
            rotation_tables(layout.gen_positions, config.head_dim, config.rope_theta, config.rope_theta_hw),
        )
        added = []
        for index, block in enumerate(self.blocks):
            before = past.layers[index] if past else None
            und, gen, own = block(und, gen, layout, rotations, before, keep)
            if own is not None:
                added.append(own)
        return self.und_norm(und), self.gen_norm(gen), tuple(added)


def picture_positions(rows: int, columns: int, time: Tensor) -> Tensor:
    """Positions (B, rows * columns, 3) of the tokens of one picture a row, all at that row's `time` (B,)."""
    h, w = torch.meshgrid(
        torch.arange(rows, device=time.device), torch.arange(columns, device=time.device), indexing="ij"
    )
    grid = torch.stack([torch.zeros_like(h), h, w], -1).flatten(0, 1)[None].repeat(len(time), 1, 1)
    # one time for all of a picture: a large one moves the text no further than a small one
    grid[:, :, 0] = time[:, None]
    return grid
