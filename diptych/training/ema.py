"""Exponential moving average of the weights, in float32 whatever the weights' type."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA:
    """`shadow` follows the parameters: shadow += (1 - decay) (parameter - shadow), decay warmed up as (1 + n)
    / (10 + n).

    With decay 0 there is no average: `shadow` holds the parameters themselves, and costs nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the EMA decay must be in 0..1, below 1, got {decay}")
        self.decay = decay
        self.updates = 0
        self.shadow: dict[str, Tensor] = {
            name: p.detach().float().clone() if decay else p.detach() for name, p in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        if not self.decay:
            return
        parameters = dict(model.named_parameters())
        names = list(self.shadow)
        torch._foreach_lerp_(
            [self.shadow[n] for n in names], [parameters[n].detach().float() for n in names], weight
        )
