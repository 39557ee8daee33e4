"""Linear diffusion transformer (SANA, arXiv 2410.10629 section 2.3; SANA-1.5, arXiv 2501.18427; Sprint,
2503.09641).

Shapes: B batch, F frames, N tokens a frame, C width, T text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import BlockFacts
from diptych.models.linear_dit.config import FRAME_ROLES, LinearDiTConfig
from diptych.models.linear_dit.layers import (
    FREQUENCIES,
    CrossAttention,
    GatedConvolution,
    Grid,
    LinearAttention,
    TextKeyValue,
    modulate,
    position_table,
    rms_norm,
    sinusoid,
)
from diptych.request import Role

CAPTION_NORM_EPS = 1e-5
CAPTION_NORM_START = 0.01
"""Where the caption norm's weight starts in training from scratch (SANA section 2.3)."""
NEW_STD, NEW_DEPTHWISE_STD = 0.02, 0.2
"""Deviations of a block that is put on top of trained ones (SANA-1.5 section 3.1)."""
TIMES = 1000
"""Noise levels that the published schedulers count."""
FRAME_PARTS = ("roles", "frame_time.weight", ".mix", ".beside")
"""Ends of the names of what `multi_frame` adds: a model of single pictures goes on with them at zero."""
_SMALL = ("time_in", "time_out", "modulation", "caption_in", "caption_out", "guidance_in")
_ZERO = ("guidance_out", "frame_time")


@dataclass(frozen=True)
class TextCondition:
    """A prompt as the blocks read it, computed once: keys and values per block, and which tokens are real."""

    blocks: tuple[TextKeyValue, ...]
    mask: Tensor | None
    """(B, 1, 1, T), True = real; None where all are."""

    def rows(self, index: Sequence[int]) -> TextCondition:
        """Some of the rows, in this order."""
        chosen = list(index)
        blocks = tuple(TextKeyValue(block.key[chosen], block.value[chosen]) for block in self.blocks)
        return TextCondition(blocks, None if self.mask is None else self.mask[chosen])


def trim_text(text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Text (B, T, channels) and its mask (B, T) without the padding that no sample needs; no mask where none
    is left.

    Padding has exactly no influence on the output, so leaving it out changes rounding alone. Looks at the
    mask's values, so it waits for the device: once per prompt. Raises ValueError for a row without any real
    token, over which attention has no value (diffusers attends to its padding there).
    """
    mask = mask.bool()
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"row {empty[0]} of the text has no real token, so there is nothing to attend to")
    length = int(mask.any(0).nonzero().max()) + 1
    text, mask = text[:, :length], mask[:, :length]
    return text, None if bool(mask.all()) else mask


class Block(nn.Module):
    def __init__(self, config: LinearDiTConfig) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, config.width))
        self.attention = LinearAttention(config)
        self.cross_attention = CrossAttention(config)
        self.feed_forward = GatedConvolution(config)

    def read(self, text: Tensor) -> TextKeyValue:
        """Keys and values of projected text (B, T, C)."""
        return self.cross_attention.read(text)

    def forward(
        self, x: Tensor, text: TextKeyValue, mask: Tensor | None, modulation: Tensor, grid: Grid
    ) -> Tensor:
        """x (B, F, N, C); modulation (B, 1 or F, 6, C), the same for all blocks."""
        # one projection of the time serves all blocks, each adds a table of its own (adaLN-single): a
        # projection of its own would add 6 C^2 weights to a block of 15.5 C^2
        parts = (self.table + modulation).unsqueeze(-2).unbind(2)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
        x = torch.addcmul(x, gate_a, self.attention(modulate(x, shift_a, scale_a), grid))
        # no norm, no gate and no modulation here: the published block has none
        x = x + self.cross_attention(x.flatten(1, 2), text, mask).view_as(x)
        return torch.addcmul(x, gate_f, self.feed_forward(modulate(x, shift_f, scale_f), grid))


class LinearDiT(nn.Module):
    """Velocity of noisy latents, given text. Tensors in, tensors out."""

    facts: ClassVar[BlockFacts] = BlockFacts(
        # zero in these makes a block the identity whatever its gates are, which start at random
        silent=("attention.out", "cross_attention.out", "feed_forward.narrow"),
        # how many parts lie stacked in one matrix: surgery that changes its rows must do so in each part by
        # itself
        fused={"qkv": 3, "key_value": 2, "widen": 2, "depthwise": 2, "modulation": 6},
        adapted=(
            "attention.qkv",
            "attention.out",
            "cross_attention.query",
            "cross_attention.key_value",
            "cross_attention.out",
            "feed_forward.widen",
            "feed_forward.narrow",
        ),
        calls=("read",),
    )

    def __init__(self, config: LinearDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, area = config.width, config.patch**2
        self.patch_embed = nn.Conv2d(config.channels, width, config.patch, config.patch)
        self.caption_in = nn.Linear(config.caption_channels, width)
        self.caption_out = nn.Linear(width, width)
        self.caption_norm = nn.Parameter(torch.full((width,), CAPTION_NORM_START))
        self.time_in, self.time_out = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)
        if config.guidance_embedding:
            self.guidance_in, self.guidance_out = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.roles = nn.Parameter(torch.zeros(len(FRAME_ROLES), width)) if config.multi_frame else None
        self.frame_time = nn.Linear(2 * FREQUENCIES, width, bias=False) if config.multi_frame else None
        if self.frame_time is not None:
            nn.init.zeros_(self.frame_time.weight)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_table = nn.Parameter(torch.zeros(2, width))
        self.head = nn.Linear(width, area * config.channels)

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter for training from scratch, as published: Xavier matrices, tables
        N(0, 1/C), modulation, caption and time std 0.02; the frame parts are zero."""
        for name, parameter in self.named_parameters():
            owner, _, kind = name.rpartition(".")
            value = torch.zeros(parameter.shape)
            # what no case takes stays zero: frame parts, and all biases but the depthwise one
            if name == "caption_norm":
                value.fill_(CAPTION_NORM_START)
            elif kind in ("query_norm", "key_norm"):
                value.fill_(1.0)
            elif kind in ("table", "head_table"):
                value.normal_(std=self.config.width**-0.5, generator=generator)
            elif owner in _SMALL and kind == "weight":
                value.normal_(std=0.02, generator=generator)
            elif "depthwise" in owner:
                # torch's own start of a 3x3 convolution, which the published code leaves as it is
                value.uniform_(-1 / 3, 1 / 3, generator=generator)
            elif kind == "weight" and owner not in _ZERO:
                nn.init.xavier_uniform_(value.view(len(value), -1), generator=generator)
            yield name, value

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Take the starting values, in place."""
        named = dict(self.named_parameters())
        for name, value in self.starting_values(generator):
            named[name].copy_(value)

    def new_block(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Tensors of a block that is put on top of trained ones and returns its input to the bit, as
        published: normal of 0.02, of 0.2 in the depthwise convolution; attention's biases zero, norms one,
        frame parts and the branches' last projections zero."""
        block = dict(Block(self.config).state_dict())
        for name, tensor in block.items():
            owner, _, kind = name.rpartition(".")
            if kind in ("query_norm", "key_norm", "mix", "beside"):
                continue  # ones, or zeros, as they are made
            if name in ("cross_attention.query.bias", "cross_attention.key_value.bias"):
                tensor.zero_()
            else:
                std = NEW_DEPTHWISE_STD if "depthwise" in owner else NEW_STD
                tensor.normal_(std=std, generator=generator)
            if owner in self.facts.silent:
                tensor.zero_()
        return block

    def condition(self, text: Tensor, mask: Tensor | None = None) -> TextCondition:
        """Caption projection, keys and values of all blocks: what no denoising step changes.

        text (B, T, caption_channels), real tokens where mask (B, T) is True; see `trim_text`.
        """
        projected = self.caption_out(F.gelu(self.caption_in(text), approximate="tanh"))
        # hidden states of a decoder language model are large: without this norm and its small start training
        # from scratch is unstable (SANA's paper)
        projected = rms_norm(projected, self.caption_norm, CAPTION_NORM_EPS)
        blocks = tuple(block.read(projected) for block in cast(list[Block], self.blocks))
        return TextCondition(blocks, None if mask is None else mask.bool()[:, None, None])

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        text: TextCondition,
        guidance: Tensor | None = None,
        roles: Sequence[Role] | None = None,
        times: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Velocity (B, F, channels, height, width) at noise levels sigma, (B,), or (B, F) with a level for
        each frame; in float64 where it is a sampler's, so that whole times are exactly those of its schedule.

        `roles` names each frame's role; a single frame is the target. `times`, (F,) or (B, F), is each
        frame's place in time, counted in frames of what is drawn: 0 unless given. `present` (B, F), False for
        given frames that a row goes without: it is denoised as if they were not there; a row's frames of one
        role are present together. `guidance` (B,) is Sprint's guidance scale.
        """
        config = self.config
        batch, frames, _, height, width = x.shape
        if frames > 1 and self.roles is None:
            raise ValueError(
                f"this model draws single pictures, got {frames} frames: its config has multi_frame off"
            )
        roles = roles or (Role.TARGET,) * frames
        if times is None:
            times = torch.zeros(frames, device=x.device)
        times = times.view(-1, frames).float()
        grid = Grid(
            frames,
            height // config.patch,
            width // config.patch,
            tuple(FRAME_ROLES.index(role) for role in roles),
            _nearness(times, present) if frames > 1 else None,
        )
        tokens = self._tokens(x, grid, times, present)
        time, modulation = self._time(sigma.view(batch, -1), guidance, x.dtype)
        for block, key_value in zip(self.blocks, text.blocks, strict=True):
            tokens = block(tokens, key_value, text.mask, modulation, grid)
        shift, scale = (self.head_table + time[:, :, None]).unsqueeze(-2).unbind(2)
        patches = self.head(modulate(tokens, shift, scale))
        # a token holds patch row, patch column, channel
        patches = patches.view(
            batch, frames, grid.rows, grid.columns, config.patch, config.patch, config.channels
        )
        return patches.permute(0, 1, 6, 2, 4, 3, 5).reshape(x.shape)

    def _tokens(self, x: Tensor, grid: Grid, times: Tensor, present: Tensor | None) -> Tensor:
        config = self.config
        tokens = self.patch_embed(x.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])
        if config.position_scale is not None:
            base = config.position_base // config.patch
            table = position_table(grid.rows, grid.columns, config.width, base, config.position_scale)
            tokens = tokens + table.to(tokens)
        if self.roles is not None and self.frame_time is not None and grid.frames > 1:
            # measured from time 0, whose frames get nothing: a picture with a control frame has no times
            since = sinusoid(times) - sinusoid(torch.zeros_like(times))
            placed = self.roles[list(grid.roles)] + self.frame_time(since.to(x.dtype))
            if present is not None:
                # a row whose only frame is left is a picture, and pictures have no roles
                placed = placed * (present.sum(1) > 1).to(placed)[:, None, None]
            tokens = tokens + placed[:, :, None]
        return tokens.contiguous()

    def _time(self, sigma: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Time embedding (B, 1 or F, C) and the six modulation rows of all blocks (B, 1 or F, 6, C)."""
        config = self.config
        # float32 up to the sinusoid: bfloat16 rounds times near 1000 to steps of 4
        time = sigma.float() * config.time_scale
        if config.whole_time and sigma.dtype == torch.float64:
            # a sampler's level: cut off in the precision in which the public scheduler cuts, which counts to
            # 1000 whatever the model makes of its times
            time = torch.floor(sigma * TIMES).float() * (config.time_scale / TIMES)
        elif config.whole_time:
            # sigma = time / 1000 in float32 may come back a hair below a whole number
            time = torch.floor(sigma.float() * TIMES + 1e-3) * (config.time_scale / TIMES)
        embedded = self.time_out(F.silu(self.time_in(sinusoid(time).to(dtype))))
        if config.guidance_embedding:
            if guidance is None:
                raise ValueError("this model embeds the guidance scale: pass guidance, one scale a sample")
            # 0.1 is Sprint's own factor; the last projection starts at zero, so training begins as if no
            # scale were told
            features = sinusoid(guidance.float() * 0.1).to(dtype)
            embedded = embedded + self.guidance_out(F.silu(self.guidance_in(features)))[:, None]
        elif guidance is not None:
            raise ValueError(
                "this model has no guidance embedding: guide it with a second, unconditional pass"
            )
        return embedded, self.modulation(F.silu(embedded)).unflatten(-1, (6, config.width))


def _nearness(times: Tensor, present: Tensor | None) -> Tensor:
    """1 / (1 + distance) of every two frames (B or 1, F, F), from times (B or 1, F); 0 towards frames that
    are not present (B, F)."""
    nearness = 1 / (1 + (times[:, :, None] - times[:, None]).abs())
    return nearness if present is None else nearness * present[:, None]
