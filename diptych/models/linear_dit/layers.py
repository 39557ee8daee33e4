"""Layers of the linear diffusion transformer.

Shapes: B batch, F frames, N tokens a frame, C width, H heads, D head width (32), T text tokens.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.models.linear_dit.config import FRAME_ROLES, HEAD, LinearDiTConfig
from diptych.models.processors import fused_attention_pays

FREQUENCIES = 128
SELF_NORM_EPS = 1e-5
"""Of the linear attention's query and key norms, in the native code and in diffusers alike."""


class TextKeyValue(NamedTuple):
    """Keys and values of one block's cross-attention: (B, H, T, head width) each. The same in every denoising
    step."""

    key: Tensor
    value: Tensor


class Grid(NamedTuple):
    """How the tokens of a frame lie: rows and columns; and how many frames a sample has, of which roles, how
    near to one another."""

    frames: int
    rows: int
    columns: int
    roles: tuple[int, ...]
    nearness: Tensor | None = None
    """(B or 1, F, F), 1 / (1 + distance in time) of two frames, 0 for a frame that a row goes without; None
    where there is one frame."""


def sinusoid(time: Tensor) -> Tensor:
    """128 cosines, then 128 sines of `time` (any shape), longest period 10,000; float32."""
    frequency = torch.exp(
        -math.log(10000.0) * torch.arange(FREQUENCIES, dtype=torch.float32, device=time.device) / FREQUENCIES
    )
    angle = time.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)


# keyed by rows and columns, not by their product: of the published aspect ratios nearly every one shares its
# number of tokens with another shape, and must not get its table
@lru_cache(maxsize=64)
def position_table(rows: int, columns: int, width: int, base: int, scale: float) -> Tensor:
    """Sine-cosine positions (rows * columns, width): columns in the first half, rows in the second, float32
    on the CPU."""
    frequency = torch.arange(width // 4, dtype=torch.float64).div(width / 4).mul(-math.log(10000.0)).exp()
    # divided by the side itself: a picture of any size spans the same `base` positions, as in the published
    # code
    column = torch.arange(columns, dtype=torch.float64) / (columns / base) / scale
    row = torch.arange(rows, dtype=torch.float64) / (rows / base) / scale

    def axis(position: Tensor) -> Tensor:
        angle = position[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], -1)

    across = axis(column)[None].expand(rows, -1, -1)
    down = axis(row)[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], -1).reshape(rows * columns, width).float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    # over the whole width, before the heads are split: diffusers calls this 'across heads'
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights, then scale and shift (adaLN)."""
    return torch.addcmul(shift, F.layer_norm(x, (x.shape[-1],), eps=1e-6), 1 + scale)


class LinearAttention(nn.Module):
    """ReLU linear attention (SANA section 2.3): out_i = sum_j v_j (k_j . q_i) / (sum_j k_j . q_i + eps), O(N
    D^2) a head.

    Frames attend to themselves. What the frames of other roles, or further frames of the same role, hold is
    added in two ways, both zero at first, so that a checkpoint of single pictures draws as before whatever is
    attached: what the query finds in their states, times `mix` (roles, heads), says what is in them; the
    value at the same place, times `beside` (roles, width), says where, which the states cannot, as queries
    and keys know no position. Of several frames of a role, those near in time count more in that value.
    """

    def __init__(self, config: LinearDiTConfig) -> None:
        super().__init__()
        self.heads, self.eps = config.heads, config.attention_eps
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width)
        self.query_norm = nn.Parameter(torch.ones(config.width)) if config.qk_norm else None
        self.key_norm = nn.Parameter(torch.ones(config.width)) if config.qk_norm else None
        self.mix = nn.Parameter(torch.zeros(len(FRAME_ROLES), config.heads)) if config.multi_frame else None
        self.beside = (
            nn.Parameter(torch.zeros(len(FRAME_ROLES), config.width)) if config.multi_frame else None
        )

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """x (B, F, N, C)."""
        # the norms come before the ReLU: without them the products of ReLU features grow past the range of
        # half precision in long training (SANA-1.5)
        query, key, value = self.qkv(x).chunk(3, -1)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = (
                rms_norm(query, self.query_norm, SELF_NORM_EPS),
                rms_norm(key, self.key_norm, SELF_NORM_EPS),
            )
        # (B, F, H, N, D); half precision of 5 exponent bits would overflow in the sum over tokens
        exact = torch.float32 if x.dtype == torch.float16 else x.dtype
        query, key, value = (
            part.unflatten(-1, (self.heads, HEAD)).transpose(2, 3).to(exact)
            for part in (F.relu(query), F.relu(key), value)
        )
        # the column of ones gives the divisor from the same two products
        state = key.transpose(-1, -2) @ F.pad(value, (0, 1), value=1.0)
        mixed = self._read(query, state)
        if self.mix is not None and self.beside is not None and grid.frames > 1:
            mixed = mixed + self._others(query, state, value, grid, self.mix, self.beside)
        return self.out(mixed.to(x.dtype).transpose(2, 3).flatten(-2))

    def _read(self, query: Tensor, state: Tensor) -> Tensor:
        """What queries (B, F, H, N, D) find in states (B, F, H, D, D + 1)."""
        found = query @ state
        # a query whose features are all negative is zero after the ReLU: eps makes its 0 / 0 a 0
        return found[..., :HEAD] / (found[..., HEAD:] + self.eps)

    def _others(
        self, query: Tensor, state: Tensor, value: Tensor, grid: Grid, mix: Tensor, beside: Tensor
    ) -> Tensor:
        """Per role, what the frames of that role hold together; a role whose only frame is the asking one
        adds nothing."""
        assert grid.nearness is not None
        # a frame is as near to itself as can be, so a zero on the diagonal says that it is not there
        present = (grid.nearness.diagonal(dim1=1, dim2=2) > 0).to(state)
        added = torch.zeros_like(query)
        # plain numbers, no tensors: nothing waits for a device, and a model without storage runs it too
        for role in sorted(set(grid.roles)):
            held = [f for f in range(grid.frames) if grid.roles[f] == role]
            asking = [f for f in range(grid.frames) if f not in held or len(held) > 1]
            # states of several frames add up, divisors with them: reading the sum is one attention over all
            # their tokens
            states = state[:, held] * present[:, held, None, None, None]
            content = mix[role].to(query.dtype).view(-1, 1, 1) * self._read(
                query[:, asking], states.sum(1, keepdim=True)
            )
            near = grid.nearness[:, asking][..., held]
            # weights add up to 1, but to 0 in a row that goes without the role
            near = (near / near.sum(-1, keepdim=True).clamp_min(1e-6)).to(value)
            placed = torch.einsum("baf,bfhnd->bahnd", near.expand(len(value), -1, -1), value[:, held])
            place = beside[role].to(query.dtype).view(self.heads, 1, HEAD) * placed
            added[:, asking] = added[:, asking] + content + place
        return added


class CrossAttention(nn.Module):
    """Softmax attention from picture tokens to the text, whose keys and values are computed once per
    prompt."""

    def __init__(self, config: LinearDiTConfig) -> None:
        super().__init__()
        self.heads, self.eps = config.cross_heads, config.cross_norm_eps
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.query_norm = nn.Parameter(torch.ones(config.width)) if config.qk_norm else None
        self.key_norm = nn.Parameter(torch.ones(config.width)) if config.qk_norm else None

    def read(self, text: Tensor) -> TextKeyValue:
        """Keys and values of text (B, T, C)."""
        key, value = self.key_value(text).chunk(2, -1)
        if self.key_norm is not None:
            key = rms_norm(key, self.key_norm, self.eps)
        return TextKeyValue(self._split(key), self._split(value))

    def forward(self, x: Tensor, text: TextKeyValue, mask: Tensor | None) -> Tensor:
        """x (B, N, C); mask (B, 1, 1, T), True = real token, or None where all are."""
        query = self.query(x)
        if self.query_norm is not None:
            query = rms_norm(query, self.query_norm, self.eps)
        return self.out(_attend(self._split(query), text, mask).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _attend(query: Tensor, text: TextKeyValue, mask: Tensor | None) -> Tensor:
    if fused_attention_pays(query.device):
        return F.scaled_dot_product_attention(query, text.key, text.value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ text.key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ text.value


class GatedConvolution(nn.Module):
    """Mix-FFN (SANA section 2.3): widen, SiLU, 3x3 depthwise, gate by SiLU of the other half, narrow.

    The depthwise convolution's zero padding is the model's only sense of position. Its 1x1 convolutions are
    matrix products over channels-last tokens; the convolution sees the same memory as channels-last pictures,
    so nothing is copied.
    """

    def __init__(self, config: LinearDiTConfig) -> None:
        super().__init__()
        inner = config.ffn_width
        self.widen = nn.Linear(config.width, 2 * inner)
        self.depthwise = nn.Conv2d(2 * inner, 2 * inner, 3, padding=1, groups=2 * inner)
        self.narrow = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """x (B, F, N, C)."""
        batch, frames, tokens, _ = x.shape
        # frames are pictures of their own here: the convolution must not see across them
        inner = F.silu(self.widen(x)).view(batch * frames, grid.rows, grid.columns, -1).permute(0, 3, 1, 2)
        inner = self.depthwise(inner).permute(0, 2, 3, 1).reshape(batch, frames, tokens, -1)
        # the second half is the gate: published weights have no other mark of which is which
        value, gate = inner.chunk(2, -1)
        return self.narrow(value * F.silu(gate))
