"""Which of three bridges joins a language model and a denoiser, and its sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diptych.models import MAX_DEPTH

QUERIES, CONNECTOR, STATES = "queries", "connector", "states"
KINDS = (QUERIES, CONNECTOR, STATES)
LAST = (-1,)


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """Sizes of what brings a picture that is to be changed to a denoiser."""

    channels: int
    """Of a target of the image space."""
    patch: int = 1
    """Side, in values of the target, of what becomes one vector."""
    outputs: int
    """Channels of the condition."""

    def __post_init__(self) -> None:
        for name in ("channels", "patch", "outputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.outputs % 4:
            raise ValueError(f"outputs must be a multiple of 4, as places are told by it, got {self.outputs}")


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """Sizes of a bridge."""

    kind: str = QUERIES
    """'queries': learnt vectors stand behind the prompt in the language model's own sequence, and its last
    states at their places are the condition (BLIP3-o); 'connector': these go through blocks in which all see
    all, and a projection (MetaQuery 24 blocks, OpenUni 6, none in BLIP3o-NEXT); 'states': the states of the
    prompt itself, which nothing learns and a cache may hold."""
    inputs: int
    """Channels of the language model."""
    queries: int = 64
    depth: int = 0
    """Blocks of a connector."""
    heads: int = 0
    """Of its attention; 0: heads of 64 channels."""
    outputs: int = 0
    """Channels that a connector gives; 0: `inputs`. The other kinds give what they read."""
    layers: tuple[int, ...] = LAST
    """Of 'states': which of the model's hidden states are stacked, 0 the embeddings, -1 the last."""
    query_std: float = 1.0
    """Deviation that new queries are drawn with."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for name in ("inputs", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth must be 0 to {MAX_DEPTH:,}, got {self.depth}")
        if self.kind != CONNECTOR and (self.depth or self.heads or self.outputs):
            raise ValueError(f"a bridge of {self.kind} has no blocks: depth, heads and outputs must be 0")
        if self.heads < 0 or self.inputs % self.attention_heads:
            raise ValueError(f"heads must divide the {self.inputs} channels, got {self.heads}")
        if not self.layers or (self.kind != STATES and self.layers != LAST):
            raise ValueError(f"a bridge of {self.kind} reads the last layer alone, got layers {self.layers}")
        if not 0 < self.query_std < math.inf:
            raise ValueError(f"query_std must be above 0, got {self.query_std}")

    @property
    def attention_heads(self) -> int:
        return self.heads or max(1, self.inputs // 64)

    @property
    def channels(self) -> int:
        """Channels of the condition."""
        return self.outputs or self.inputs * len(self.layers)

    @property
    def cacheable(self) -> bool:
        """Whether a frozen language model gives the same states in every step."""
        return self.kind == STATES
