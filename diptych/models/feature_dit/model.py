"""Diffusion transformer over a grid of feature vectors, in the form of Lumina-Next (arXiv 2406.18583) that
BLIP3-o (arXiv 2505.09568) draws with.

Shapes: B batch, N vectors, C width, H heads, S positions of the condition, E channels of the time embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import BlockFacts
from diptych.models.feature_dit.config import FeatureDiTConfig
from diptych.models.feature_dit.layers import (
    EPS,
    Attention,
    FeedForward,
    KeyValue,
    RMSNorm,
    Rotation,
    rotation,
)
from diptych.models.linear_dit.layers import FREQUENCIES, sinusoid

TIMES = 1000
"""The embedding reads 1000 sigma."""
NEW_STD = 0.02
_ZERO = ("modulation", "head_scale", "head")
"""Layers that start at zero: every block returns its input at first, and the first velocity is zero."""


class FeatureCondition(NamedTuple):
    """What no denoising step changes, of B rows."""

    blocks: tuple[KeyValue, ...]
    mask: Tensor | None
    """(B, 1, 1, S), True = seen."""
    pooled: Tensor
    """(B, E): the mean of what is seen, which is added to the time."""

    def rows(self, index: Sequence[int]) -> FeatureCondition:
        chosen = list(index)
        blocks = tuple(KeyValue(key[chosen], value[chosen]) for key, value in self.blocks)
        return FeatureCondition(blocks, None if self.mask is None else self.mask[chosen], self.pooled[chosen])


class Block(nn.Module):
    def __init__(self, config: FeatureDiTConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Linear(config.embedded, 4 * width)
        self.attention_norm, self.attention_out_norm = RMSNorm(width), RMSNorm(width)
        self.text_norm = RMSNorm(width)
        self.attention = Attention(config)
        self.feed_norm, self.feed_out_norm = RMSNorm(width), RMSNorm(width)
        self.feed_forward = FeedForward(config)

    def read(self, text: Tensor) -> KeyValue:
        """Keys and values of a projected condition (B, S, C)."""
        return self.attention.read(self.text_norm(text))

    def forward(
        self, x: Tensor, text: KeyValue, mask: Tensor | None, embedded: Tensor, turn: Rotation
    ) -> Tensor:
        """x (B, N, C); embedded (B, E) is SiLU of time and condition."""
        modulation = self.modulation(embedded)[:, None]
        # scales and gates, and no shift anywhere
        scale_a, gate_a, scale_f, gate_f = modulation.chunk(4, -1)
        found = self.attention(self.attention_norm(x) * (1 + scale_a), text, mask, turn)
        x = x + gate_a.tanh() * self.attention_out_norm(found)
        inner = self.feed_forward(self.feed_norm(x) * (1 + scale_f))
        return x + gate_f.tanh() * self.feed_out_norm(inner)


class FeatureDiT(nn.Module):
    """Velocity of noisy feature vectors, given a condition. Tensors in, tensors out."""

    facts: ClassVar[BlockFacts] = BlockFacts(
        # the norms behind the branches, not the projections before them: those would be divided by their own
        # size, and at zero their gradient has no bound
        silent=("attention_out_norm", "feed_out_norm"),
        fused={"queries": 4, "key_value": 2, "gate_up": 2, "modulation": 4},
        adapted=(
            "attention.queries",
            "attention.key_value",
            "attention.out",
            "feed_forward.gate_up",
            "feed_forward.down",
        ),
        calls=("read",),
    )

    def __init__(self, config: FeatureDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, embedded = config.width, config.embedded
        self.embed = nn.Linear(config.channels, width)
        self.caption_in, self.caption_out = nn.Linear(config.caption_channels, width), nn.Linear(width, width)
        self.time_in, self.time_out = nn.Linear(2 * FREQUENCIES, embedded), nn.Linear(embedded, embedded)
        self.pooled_norm, self.pooled = nn.LayerNorm(width, EPS), nn.Linear(width, embedded)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_scale = nn.Linear(embedded, width)
        self.head = nn.Linear(width, config.channels)

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter for training from scratch: Xavier matrices, norms one, gates,
        modulation and head zero."""
        for name, parameter in self.named_parameters():
            yield name, _fresh(name, parameter.shape, generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Take the starting values, in place."""
        named = dict(self.named_parameters())
        for name, value in self.starting_values(generator):
            named[name].copy_(value)

    def new_block(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Tensors of a block that is put on top of trained ones; its modulation is small and not zero, as
        growth silences the norms behind its branches."""
        block = {}
        for name, tensor in Block(self.config).state_dict().items():
            value = _fresh(name, tensor.shape, generator)
            if name == "modulation.weight":
                value.normal_(std=NEW_STD, generator=generator)
            elif name == "modulation.bias":
                # gates open a little: through closed ones the silent norms would get no gradient
                value.view(4, -1)[1::2] = 0.1
            block[name] = value
        return block

    def condition(self, states: Tensor, mask: Tensor | None = None) -> FeatureCondition:
        """Projection, keys and values of all blocks and the pooled vector: what no step changes.

        states (B, S, caption_channels), seen where mask (B, S) is True. Raises ValueError for a row of which
        nothing is seen.
        """
        y = self.caption_out(F.gelu(self.caption_in(states), approximate="tanh"))
        if mask is None:
            mean = y.mean(1)
        else:
            mask = mask.bool()
            if bool((~mask.any(1)).any()):
                raise ValueError("a row of the condition has nothing that is seen")
            share = mask.to(y)[:, :, None]
            mean = (y * share).sum(1) / share.sum(1)
            mask = None if bool(mask.all()) else mask[:, None, None]
        pooled = self.pooled(self.pooled_norm(mean))
        return FeatureCondition(
            tuple(block.read(y) for block in cast(list[Block], self.blocks)), mask, pooled
        )

    def forward(self, x: Tensor, sigma: Tensor, text: FeatureCondition) -> Tensor:
        """Velocity (B, 1, channels, height, width) of noisy vectors x of that shape at noise levels sigma
        (B,) or (B, 1). Raises ValueError for several frames."""
        batch, frames = x.shape[:2]
        if frames != 1:
            raise ValueError(f"this model draws single pictures, got {frames} frames")
        sigma = sigma.reshape(batch)
        seen, level = (torch.zeros_like(x), torch.ones_like(sigma)) if self.config.blind else (x, sigma)
        made = self._tokens(seen, level, text)
        made = made.transpose(1, 2).reshape(x.shape)
        if not self.config.blind:
            return made
        # of x = (1 - sigma) x0 + sigma eps, with the prediction in place of x0
        return (x - made) / sigma.view(-1, 1, 1, 1, 1).to(x)

    def _tokens(self, x: Tensor, sigma: Tensor, text: FeatureCondition) -> Tensor:
        height, width = x.shape[-2:]
        turn = rotation(height, width, self.config.width // self.config.heads)
        turn = Rotation(turn.cosine.to(x), turn.sine.to(x))
        # row major, one vector a token
        tokens = self.embed(x.flatten(3)[:, 0].transpose(1, 2))
        embedded = F.silu(self._time(sigma, x.dtype) + text.pooled)
        for block, key_value in zip(self.blocks, text.blocks, strict=True):
            tokens = block(tokens, key_value, text.mask, embedded, turn)
        scale = 1 + self.head_scale(embedded)[:, None]
        return self.head(F.layer_norm(tokens, (tokens.shape[-1],), eps=1e-6) * scale)

    def _time(self, sigma: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, E)."""
        # float32 up to the sinusoid: bfloat16 rounds times near 1000 to steps of 4
        time = sigma.float() * TIMES
        if self.config.whole_time:
            # a level of float32 may come back a hair below the whole number that it was
            time = torch.floor(time + 1e-3)
        return self.time_out(F.silu(self.time_in(sinusoid(time).to(dtype))))


def _fresh(name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Starting value of a parameter of the model, or of a block."""
    owner, _, kind = name.rpartition(".")
    value = torch.zeros(tuple(shape))
    if kind == "weight" and "norm" in owner:
        return value.fill_(1.0)
    if kind == "weight" and owner.rpartition(".")[2] not in _ZERO:
        nn.init.xavier_uniform_(value, generator=generator)
    return value
