"""What a run of the toy is, and its one recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from diptych.flow import NoiseLaw
from diptych.optim.build import OptimConfig
from diptych.training.config import RunConfig, StageConfig

from .model import ToyConfig


@dataclass(frozen=True, kw_only=True)
class ToyStage(StageConfig):
    """Its squares are drawn for it alone."""


@dataclass(frozen=True, kw_only=True)
class ToyTrainConfig(RunConfig):
    model: ToyConfig
    side: int = 32
    """px of the squares that it learns to draw."""
    squares_per_step: int = 4
    law: NoiseLaw = field(default_factory=NoiseLaw)
    stages: tuple[ToyStage, ...] = ()


def toy(depth: int = 2) -> ToyTrainConfig:
    """Squares in plain colours, in seconds."""
    return ToyTrainConfig(
        name="toy",
        model=ToyConfig(depth=depth),
        stages=(ToyStage(name="squares", steps=4, optim=OptimConfig(name="adamw", lr=1e-3, warmup=1)),),
        ema=0.9,
        bf16=False,
        save_every=2,
        sample_every=10**6,
        log_every=1,
    )
