"""Exponential moving average of the weights, in float32 whatever the weights' type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diptych.training.ranks import local


class EMA:
    """`shadow` follows the parameters: shadow += (1 - decay) (parameter - shadow), decay warmed up as (1 + n)
    / (10 + n).

    A parameter that never learns (`requires_grad` off when the average begins) stands in `shadow` itself, and
    with decay 0 all do: they cost nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the EMA decay must be in 0..1, below 1, got {decay}")
        self.decay = decay
        self.updates = 0
        self.averaged = [name for name, p in model.named_parameters() if decay and p.requires_grad]
        self.shadow: dict[str, Tensor] = {name: p.detach() for name, p in model.named_parameters()}
        for name in self.averaged:
            self.shadow[name] = self.shadow[name].float().clone()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        if not self.averaged:
            return
        parameters = dict(model.named_parameters())
        torch._foreach_lerp_(
            [local(self.shadow[name]) for name in self.averaged],
            [local(parameters[name]).float() for name in self.averaged],
            weight,
        )

    @contextmanager
    def exchanged(self, model: nn.Module) -> Iterator[None]:
        """The model with its averaged weights for a while; the average has the model's meanwhile.

        In place and one tensor at a time, so that there is no second copy and shards stay where they are;
        equal to the bit afterwards.
        """
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for name in self.averaged:
            mine, other = local(parameters[name]), local(self.shadow[name])
            kept = mine.clone()
            mine.copy_(other)
            other.copy_(kept)
