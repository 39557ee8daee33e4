"""Which parameters get which optimiser, and the learning rate at a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from diptych.optim.came import CAME

NAMES = ("muon", "adamw", "came", "came8bit")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    name: str = "muon"
    """'muon': Muon for the matrices of the blocks, AdamW for the rest; 'adamw', 'came', 'came8bit' (momentum
    in 8 bits): that for all."""
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's; CAME has 0.9, 0.999, 0.9999, as published."""
    weight_decay: float = 0.0
    warmup: int = 100
    """Steps of linear warm-up."""
    decay: float = 0.4
    """Last share of the steps over which the rate falls linearly to `final`."""
    final: float = 0.02
    """Rate at the end, as a share of `lr`."""
    clip: float = 1.0
    """Largest gradient norm."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"optimiser must be one of {', '.join(NAMES)}, got {self.name!r}")
        if self.lr <= 0 or self.clip <= 0 or not 0 <= self.decay <= 1:
            raise ValueError(
                f"lr and clip must be above 0 and decay a share, got {self.lr}, {self.clip}, {self.decay}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be 0 or above, and below 1, got {self.betas}")
        for name in ("warmup", "weight_decay", "final"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or above, got {getattr(self, name)}")


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Warm-up, constant, linear decay."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    # decay 0: a tail of one step, over which nothing falls before the end
    tail = max(1, math.ceil(config.decay * steps))
    left = (steps - step) / tail
    return config.lr * warm * max(config.final, min(1.0, left))


def is_muon(name: str, parameter: nn.Parameter, config: OptimConfig) -> bool:
    """Whether a parameter is Muon's: a matrix of a block. The rest is AdamW's."""
    # embeddings and heads are matrices too, but tables of rows: orthogonal steps are for matrices between
    # hidden states
    return config.name == "muon" and parameter.ndim == 2 and ".blocks." in f".{name}"


def build_optimisers(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
) -> list[torch.optim.Optimizer]:
    """Optimisers over named parameters.

    Raises ValueError for Muon on sharded parameters, as its orthogonalisation needs the whole matrix, and for
    bfloat16 weights without CAME: others lose every step that is smaller than a weight's last digit.
    """
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in parameters:
        (matrices if is_muon(name, parameter, config) else rest).append(parameter)
    if any(isinstance(p, DTensor) for p in matrices):
        raise ValueError(
            "muon needs whole matrices and cannot run on sharded parameters: use --stages.N.optim.name "
            "adamw, came or came8bit, or --parallel replicated"
        )
    if config.name in ("came", "came8bit"):
        bits = 8 if config.name == "came8bit" else 32
        return [
            CAME(rest, lr=config.lr, weight_decay=config.weight_decay, bits=bits, stochastic_rounding=True)
        ]
    if any(p.dtype == torch.bfloat16 for p in [*matrices, *rest]):
        raise ValueError(
            f"{config.name} has no stochastic rounding, so weights in bfloat16 need "
            "--stages.N.optim.name came8bit, or came"
        )
    optimisers: list[torch.optim.Optimizer] = []
    if matrices:
        optimisers.append(
            torch.optim.Muon(
                matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    if rest:
        optimisers.append(
            torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
        )
    return optimisers
