"""A projector from hidden states of a language model to a few tokens of another model's text context (Unison,
arXiv 2512.07747).

Shapes: B rows, T positions that are read, N positions that are kept, K tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import BlockFacts


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """Published: 2048 -> 2048 -> 4096, 56 positions to 4 tokens, 12.6M parameters."""

    inputs: int
    """Channels of the hidden states."""
    hidden: int
    outputs: int
    """Channels of the context."""
    positions: int = 56
    """N: further ones are not read, and fewer are filled up with zeros."""
    tokens: int = 4
    """K."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def depth(self) -> int:
        """It has no blocks."""
        return 0

    @property
    def width(self) -> int:
        return self.hidden

    @property
    def heads(self) -> int:
        return 1

    def widened(self, factor: int) -> ProjectorConfig:
        raise ValueError("a projector is as wide as the models that it joins")

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ProjectorConfig:
        """Of weights, by their shapes. Raises ValueError for what is no projector."""
        try:
            (hidden, inputs), (outputs, _) = shapes["net.0.weight"], shapes["net.3.weight"]
            tokens, positions = shapes["seq_adjust.weight"]
        except (KeyError, ValueError) as error:
            raise ValueError(
                "a projector has the matrices net.0.weight, net.3.weight and seq_adjust.weight"
            ) from error
        return cls(inputs=inputs, hidden=hidden, outputs=outputs, positions=positions, tokens=tokens)


class Projector(nn.Module):
    """Hidden states (B, T, inputs) -> tokens (B, K, outputs); parameters are named as published."""

    facts: ClassVar = BlockFacts(silent=())

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList()
        self.ln_in = nn.LayerNorm(config.inputs, eps=1e-5)
        # dropout in training alone; the published script draws with it, which its results then vary by
        self.net = nn.Sequential(
            nn.Linear(config.inputs, config.hidden),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(config.hidden, config.outputs),
        )
        self.ln_out = nn.LayerNorm(config.outputs, eps=1e-5)
        self.seq_adjust = nn.Linear(config.positions, config.tokens)

    def forward(self, states: Tensor) -> Tensor:
        y = self.ln_out(self.net(self.ln_in(states[:, : self.config.positions])))
        # filled up behind the norm: a position that is not there adds nothing to any token
        y = F.pad(y, (0, 0, 0, self.config.positions - y.shape[1]))
        return self.seq_adjust(y.transpose(1, 2)).transpose(1, 2)

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.named_parameters():
            if name.startswith("ln_"):
                yield name, (torch.ones if name.endswith("weight") else torch.zeros)(parameter.shape)
            else:
                fan_in = self.get_parameter(name.replace("bias", "weight")).shape[1]
                bound = 1 / math.sqrt(fan_in)
                yield name, (2 * torch.rand(parameter.shape, generator=generator) - 1) * bound

    def new_block(self, generator: torch.Generator) -> dict[str, Tensor]:
        raise ValueError("a projector has no blocks, so it does not grow")
