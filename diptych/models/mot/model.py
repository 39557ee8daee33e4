"""Mixture of transformers: one model that reads, answers and draws (SenseNova-U1, arXiv 2605.12500).

Two streams of weights, joined in every layer by one softmax attention. Text and clean pictures use the
understanding stream, noisy pictures the generation stream. Shapes as in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from diptych.contracts import BlockFacts
from diptych.models.mot.cache import Before, Cache, Tail
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
        past: Before | Tail | None = None,
        keep: bool = False,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """und (U, C), gen (G, C) -> the same after this block, and where `keep` is set the rows' keys and
        values (B, K, L, D) without `past`."""
        # one stream's tokens in order need not be gathered; but in training every module is called, on
        # nothing if need be
        alone = layout.ordered and not torch.is_grad_enabled()
        projected: tuple[Tensor, ...]
        if alone and len(gen):
            projected = self.gen.project(gen, rotations[1])
        elif alone:
            projected = self.und.project(und, rotations[0])
        else:
            slots = layout.gather.flatten()
            pairs = zip(self.und.project(und, rotations[0]), self.gen.project(gen, rotations[1]), strict=True)
            projected = tuple(torch.cat(pair).index_select(0, slots) for pair in pairs)
        q, k, v = (part.unflatten(0, layout.gather.shape).transpose(1, 2) for part in projected)
        # in training nobody reads them, and kept they would outlive a recomputed block; copied, they do not
        # hold on to the queries beside them
        own = (k.contiguous(), v.contiguous()) if keep else None
        if past is not None:
            k, v = past.joined(k, v)
        attended = attend(q, k, v, layout.mask, layout.causal).transpose(1, 2).flatten(2).flatten(0, 1)
        if alone and len(gen):
            return und, self.gen.finish(gen, attended), own
        if alone:
            return self.und.finish(und, attended), gen, own
        und = self.und.finish(und, attended.index_select(0, layout.und))
        return und, self.gen.finish(gen, attended.index_select(0, layout.gen)), own


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None, causal: bool = False) -> Tensor:
    """Joint softmax attention, (B, H, L, D); FlexAttention for a block mask, SDPA for a dense one or none.
    `causal`: query l sees the keys up to l."""
    groups = q.shape[1] // k.shape[1]
    if isinstance(mask, BlockMask):
        return cast(Tensor, flex_attention(q, k, v, block_mask=mask, enable_gqa=groups > 1))
    if groups > 1 and not causal:
        if mask is None or mask.shape[2] == 1:
            # all queries see the same keys, so those of the heads that share some stand side by side: neither
            # keys nor values are repeated
            together = q.unflatten(1, (k.shape[1], groups)).flatten(2, 3)
            attended = F.scaled_dot_product_attention(together, k, v, attn_mask=mask)
            return attended.unflatten(2, (groups, q.shape[2])).flatten(1, 2)
        # no fast kernel of every device takes a mask and shared heads at once
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=k.shape[1] != q.shape[1]
    )


class MoT(nn.Module):
    """The whole model. `forward` is the packed pass of training; `prefix`, `append`, `extend` and
    `denoise` are the same computation in parts, over a cache, for asking and drawing."""

    facts: ClassVar[BlockFacts] = BlockFacts(
        # a block has no gates: its last projections alone can silence it
        silent=("o", "down"),
        adapted=("q", "k", "v", "o", "gate", "up", "down"),
        # 151,936 tokens make each of them 622M weights in the 8B model
        apart=("embedding", "text_head"),
        vocabulary=("embedding", "text_head"),
        streams={
            "understanding": (".und.", "und_norm", "clean_interface."),
            "generation": (
                ".gen.",
                "gen_norm",
                "noisy_interface",
                "time_embedder",
                "noise_scale_embedder",
                "pixel_head",
            ),
        },
        # keys and values
        cached=lambda config: 2 * config.depth * config.kv_heads * config.head_dim,
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
        und, gen, _ = self._through(und, gen, layout)
        return und, gen

    def prefix(
        self, und: Tensor, positions: Tensor, lengths: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Cache]:
        """Read B prefixes: und (B, L, C), positions (B, L, 3), true lengths (B,), mask (B, 1, L, L); None:
        each token sees itself and those before it, as in text without pictures.

        Returns the normed hidden states (B, L, C) and the cache.
        """
        rows, length, width = und.shape
        layout = Layout.uniform(positions, mask, noisy=False, causal=mask is None)
        hidden, _, added = self._through(und.flatten(0, 1), und.new_empty(0, width), layout, keep=True)
        valid = torch.arange(length, device=und.device)[None] < lengths[:, None]
        # the highest time of a row is its last token's: tokens of a picture share one, and times never fall
        last = positions[torch.arange(rows, device=und.device), lengths - 1, 0]
        return hidden.view(rows, length, width), Cache(added, valid, last + 1)

    def extend(self, und: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Append one text token to each row: und (B, C). Returns hidden (B, C) and the longer cache."""
        positions = und.new_zeros(len(und), 1, 3, dtype=torch.long)
        positions[:, 0, 0] = cache.next_time
        hidden, longer = self.append(und[:, None], positions, cache)
        return hidden[:, 0], longer

    @torch.no_grad()
    def append(
        self, und: Tensor, positions: Tensor, cache: Cache, times: Tensor | None = None
    ) -> tuple[Tensor, Cache]:
        """Append as many tokens to each row: und (B, L, C), positions (B, L, 3), whose times begin at
        `cache.next_time`. They see the whole row, and one another by the rules of `layout`; `times` (B, L)
        are those of the rules (`Slots.times`), where there are clips among them.

        Returns the normed hidden states (B, L, C) and the longer cache. Not differentiable: keys and values
        are written into memory that stays.
        """
        rows, length, width = und.shape
        mask = _appended_mask(positions[..., 0] if times is None else times, cache, und.dtype)
        layout = Layout.uniform(positions, mask, noisy=False)
        room = cache.roomy(length)
        past = tuple(Tail(k, v, room.used) for k, v in room.layers)
        hidden, _, _ = self._through(und.flatten(0, 1), und.new_empty(0, width), layout, past)
        room.used += length
        return hidden.view(rows, length, width), cache.grown(room, positions[:, -1, 0] + 1)

    def denoise(
        self, pictures: Tensor, sigma: Tensor, noise_scale: Tensor, cache: Cache, times: Sequence[int] = (0,)
    ) -> Tensor:
        """Predict the clean pictures from noisy ones (B, 3, height, width) behind the cached prefixes, at
        noise levels and noise scales (B,).

        Of clips, `times` are those of their frames, counted from the first: they see one another, and stand
        row by row in pictures, levels and scales (B * frames, ...).
        """
        rows, columns = (side // self.config.token for side in pictures.shape[-2:])
        gen = self.embed_noisy(pictures, sigma, noise_scale)
        frames = [picture_positions(rows, columns, cache.next_time + time) for time in times]
        positions = frames[0] if len(frames) == 1 else torch.cat(frames, 1)
        mask = cache.key_mask
        if mask is not None:
            mask = F.pad(mask, (0, positions.shape[1]), value=True)
        layout = Layout.uniform(positions, mask, noisy=True)
        # nothing is added to the cache: noisy tokens are seen by their own picture and by nobody later
        past = tuple(Before(k, v) for k, v in cache.layers)
        _, hidden, _ = self._through(gen[:0], gen, layout, past)
        return self.pixel_head(hidden, rows, columns)

    def _through(
        self,
        und: Tensor,
        gen: Tensor,
        layout: Layout,
        past: Sequence[Before | Tail] | None = None,
        keep: bool = False,
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
            before = past[index] if past else None
            und, gen, own = block(und, gen, layout, rotations, before, keep)
            if own is not None:
                added.append(own)
        return self.und_norm(und), self.gen_norm(gen), tuple(added)


def _appended_mask(time: Tensor, cache: Cache, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores of tokens behind a cache (B, 1, L or 1, S + L), at the times (B, L) of
    these: 0 where they may see, minus infinity elsewhere. None where all see all."""
    seen = cache.key_mask
    length = time.shape[1]
    # times never fall: a block that ends at the time at which it begins is one picture, and sees itself whole
    if length > 1 and bool((time[:, 0] != time[:, -1]).any()):
        own = time[:, None, :, None] >= time[:, None, None, :]
        seen = torch.cat([cache.valid[:, None, None].expand(-1, -1, length, -1), own], 3)
    elif seen is not None:
        # padded slots of the prefix stay hidden for good
        seen = F.pad(seen, (0, length), value=True)
    # as numbers here, and not once a layer
    return None if seen is None else torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -torch.inf)


def picture_positions(rows: int, columns: int, time: Tensor) -> Tensor:
    """Positions (B, rows * columns, 3) of the tokens of one picture a row, all at that row's `time` (B,)."""
    h, w = torch.meshgrid(
        torch.arange(rows, device=time.device), torch.arange(columns, device=time.device), indexing="ij"
    )
    grid = torch.stack([torch.zeros_like(h), h, w], -1).flatten(0, 1)[None].repeat(len(time), 1, 1)
    # one time for all of a picture: a large one moves the text no further than a small one
    grid[:, :, 0] = time[:, None]
    return grid
