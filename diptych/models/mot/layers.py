"""Layers of the mixture of transformers.

Shapes: B rows, L slots of a row, U understanding tokens and G noisy tokens of all rows together, C width, H
heads, K key and value heads, D head width, P pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.models.mot.config import Experts, MoTConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, times a weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # a mean of squares in bfloat16 keeps two to three digits
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).type_as(x)


def rotation_tables(positions: Tensor, head_dim: int, theta: float, theta_hw: float) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine for positions (N, 3) = (t, h, w), as `rotate` takes them; each (N, 1, D).

    Segments t, h, w take a half, a quarter and a quarter of the head; inside one, element k pairs with k +
    d/2 and turns by position * theta^(-2k/d).
    """
    angles, senses = [], []
    for axis, size, base in (
        (0, head_dim // 2, theta),
        (1, head_dim // 4, theta_hw),
        (2, head_dim // 4, theta_hw),
    ):
        frequency = base ** (-torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size)
        angle = positions[:, axis, None].float() * frequency
        # twice: an element and its partner half a segment away turn by one angle, in opposite senses
        angles += [angle, angle]
        senses += [-torch.ones_like(frequency), torch.ones_like(frequency)]
    table = torch.cat(angles, dim=-1)[:, None]
    return table.cos(), table.sin() * torch.cat(senses)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (N, heads, D), half-split inside each of the segments t, h, w."""
    eighth = x.shape[-1] // 8
    t, t_partner, h, h_partner, w, w_partner = x.split([2 * eighth] * 2 + [eighth] * 4, -1)
    turned = torch.cat([t_partner, t, h_partner, h, w_partner, w], -1)
    return x * cos.type_as(x) + turned * sin.type_as(x)


class FeedForward(nn.Module):
    """Gated MLP with SiLU, no biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MixtureOfExperts(nn.Module):
    """Routed feed-forward: no shared expert, no capacity limit, so no token is ever dropped."""

    def __init__(self, width: int, config: Experts) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(width, config.count, bias=False)
        self.experts = nn.ModuleList(FeedForward(width, config.width) for _ in range(config.count))

    def forward(self, x: Tensor) -> Tensor:
        # over all experts, then the best: without `normalise` the kept weights add up to less than one
        weights, chosen = self.router(x).float().softmax(-1).topk(self.config.per_token, dim=-1)
        if self.config.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        # in training an expert that no token chose gets a gradient of zero: sharded ranks, whose tokens
        # choose differently, reduce the same gradients
        called = range(self.config.count) if torch.is_grad_enabled() else chosen.unique().tolist()
        for index in called:
            token, slot = (chosen == index).nonzero(as_tuple=True)
            out.index_add_(0, token, self.experts[index](x[token]) * weights[token, slot, None].type_as(x))
        return out


class StreamLayer(nn.Module):
    """One stream's half of a block: its own norms, projections and feed-forward; the attention itself is
    shared."""

    def __init__(self, config: MoTConfig, experts: Experts | None) -> None:
        super().__init__()
        c, d = config.width, config.head_dim
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, d
        self.attention_norm = RMSNorm(c, config.norm_eps)
        self.q = nn.Linear(c, config.heads * d, bias=False)
        self.k = nn.Linear(c, config.kv_heads * d, bias=False)
        self.v = nn.Linear(c, config.kv_heads * d, bias=False)
        self.o = nn.Linear(config.heads * d, c, bias=False)
        # time has one norm, rows and columns share another, as published
        self.q_norm_t = RMSNorm(d // 2, config.norm_eps)
        self.q_norm_hw = RMSNorm(d // 2, config.norm_eps)
        self.k_norm_t = RMSNorm(d // 2, config.norm_eps)
        self.k_norm_hw = RMSNorm(d // 2, config.norm_eps)
        self.ffn_norm = RMSNorm(c, config.norm_eps)
        self.ffn = FeedForward(c, config.ffn_width) if experts is None else MixtureOfExperts(c, experts)

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, C) -> queries (N, H, D), keys and values (N, K, D); queries and keys normed, then rotated."""
        x = self.attention_norm(x)
        v = self.v(x).unflatten(-1, (self.kv_heads, self.head_dim))
        # queries and keys are normed and turned as one tensor of H + K heads: half the small operations
        heads = torch.cat([self.q(x), self.k(x)], -1).unflatten(-1, (-1, 2, self.head_dim // 2))
        q_weight = torch.stack([self.q_norm_t.weight, self.q_norm_hw.weight]).expand(self.heads, -1, -1)
        k_weight = torch.stack([self.k_norm_t.weight, self.k_norm_hw.weight]).expand(self.kv_heads, -1, -1)
        heads = (
            F.rms_norm(heads.float(), (self.head_dim // 2,), eps=self.q_norm_t.eps)
            * torch.cat([q_weight, k_weight]).float()
        )
        # norm before rotation, which keeps lengths: what is cached is ready to be read at any later step
        q, k = rotate(heads.flatten(-2), *rotation).to(v.dtype).split([self.heads, self.kv_heads], 1)
        return q, k, v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual stream after attention (N, H*D) and feed-forward."""
        x = x + self.o(attended)
        return x + self.ffn(self.ffn_norm(x))


def patchify(pictures: Tensor, patch: int) -> Tensor:
    """(P, 3, height, width) -> (P * tokens, 4, 3 * patch^2): per token its 2x2 patches row by row, a patch as
    channel, row, column."""
    p, _, height, width = pictures.shape
    rows, columns = height // (2 * patch), width // (2 * patch)
    x = pictures.reshape(p, 3, rows, 2, patch, columns, 2, patch)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(p * rows * columns, 4, 3 * patch * patch)


def untokenise(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """(P * rows * columns, values) with a token as row, column, channel -> (P, 3, height, width)."""
    side = round((tokens.shape[-1] / 3) ** 0.5)
    x = tokens.reshape(-1, rows, columns, side, side, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, rows * side, columns * side)


class PatchInterface(nn.Module):
    """Pictures to tokens: 16x16 convolution, exact GELU, 2-D rotation, 2x2 convolution (both written as
    linears).

    The rotation turns the activated patch vector: its first half with the patch's column, its second with its
    row, neighbours paired (NEO-unify, arXiv 2605.12500 section 2.1).
    """

    def __init__(self, config: MoTConfig) -> None:
        super().__init__()
        self.patch, self.theta = config.patch, config.rope_theta_vision
        self.patches = nn.Linear(3 * config.patch**2, config.vision_width)
        self.merge = nn.Linear(4 * config.vision_width, config.width)

    def forward(self, pictures: Tensor) -> Tensor:
        """(P, 3, height, width) -> (P * tokens, C)."""
        count, _, height, width = pictures.shape
        # disjoint patches: the published convolutions have their stride as kernel, so they are one matrix
        # product
        x = F.gelu(self.patches(patchify(pictures, self.patch)))
        cos, sin = self._rotation(height // (2 * self.patch), width // (2 * self.patch), x)
        x = x.unflatten(0, (count, -1))
        # neighbours paired here, halves in `rotate`: two published conventions in one model
        even, odd = x[..., 0::2], x[..., 1::2]
        x = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
        return self.merge(x.flatten(0, 1).flatten(1))

    def _rotation(self, rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Tables (tokens, 4, vision_width / 2) for the patches of a picture, in the order of `patchify`."""
        # patches count here, two a side of each token; the transformer's grid counts tokens
        half = like.shape[-1] // 2
        grid = torch.arange(2 * rows, device=like.device), torch.arange(2 * columns, device=like.device)
        row, column = torch.meshgrid(*grid, indexing="ij")
        frequency = self.theta ** (-torch.arange(0, half, 2, device=like.device, dtype=torch.float32) / half)
        angle = torch.cat([column[..., None] * frequency, row[..., None] * frequency], dim=-1)
        angle = angle.reshape(rows, 2, columns, 2, half).transpose(1, 2).reshape(rows * columns, 4, half)
        return angle.cos().type_as(like), angle.sin().type_as(like)


class ScalarEmbedder(nn.Module):
    """A scalar in 0..1 -> (N, C): cosines then sines at 10000^(-k/n), linear, SiLU, linear."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, width)

    def forward(self, value: Tensor) -> Tensor:
        half = self.features // 2
        frequency = 10_000.0 ** (-torch.arange(half, device=value.device, dtype=torch.float32) / half)
        angle = value.float()[:, None] * frequency
        x = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(x)))


class LinearHead(nn.Module):
    """Each token's pixels from its own hidden state (U1)."""

    def __init__(self, config: MoTConfig) -> None:
        super().__init__()
        self.first = nn.Linear(config.width, config.head_width)
        self.second = nn.Linear(config.head_width, config.token_values)

    def forward(self, hidden: Tensor, rows: int, columns: int) -> Tensor:
        """(P * tokens, C) -> (P, 3, height, width)."""
        return untokenise(self.second(F.gelu(self.first(hidden))), rows, columns)


class ConvHead(nn.Module):
    """Pixels from the whole map, so that no seam shows between tokens (U1.5): shuffle x2, conv, GELU, shuffle
    x2, conv, shuffle by the rest."""

    def __init__(self, config: MoTConfig) -> None:
        super().__init__()
        self.rest = config.token // 4
        self.first = nn.Conv2d(config.width // 4, config.head_width, 3, padding=1)
        self.second = nn.Conv2d(config.head_width // 4, 3 * self.rest**2, 3, padding=1)

    def forward(self, hidden: Tensor, rows: int, columns: int) -> Tensor:
        """(P * tokens, C) -> (P, 3, height, width)."""
        x = hidden.reshape(-1, rows, columns, hidden.shape[-1]).permute(0, 3, 1, 2)
        # convolutions stand between the shuffles, so that each pixel is made with its neighbours over the
        # seam
        x = F.gelu(self.first(F.pixel_shuffle(x, 2)))
        return F.pixel_shuffle(self.second(F.pixel_shuffle(x, 2)), self.rest)
