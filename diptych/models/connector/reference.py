"""Vectors of a picture that is to be changed, beside a prompt's states (BLIP3o-NEXT's edits append latents of
the reference to the words so).

Shapes: B rows, C channels of a target of H x W, P patch, N = (H / P) * (W / P).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.models.connector.config import ReferenceConfig
from diptych.models.connector.model import NORM_EPS
from diptych.models.linear_dit.layers import position_table


class Reference(nn.Module):
    """Whatever space a model draws in, features or latents, is the one that it looks at a picture in."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.config = config
        self.widen = nn.Linear(config.channels * config.patch**2, config.outputs)
        self.narrow = nn.Linear(config.outputs, config.outputs)
        self.out_norm = nn.Parameter(torch.ones(config.outputs))

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter for training from scratch: Xavier matrices, the norm one."""
        for name, parameter in self.named_parameters():
            value = torch.zeros(parameter.shape)
            if name == "out_norm":
                value.fill_(1.0)
            elif name.endswith("weight"):
                nn.init.xavier_uniform_(value, generator=generator)
            yield name, value

    def forward(self, targets: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, outputs), row by row."""
        patch = self.config.patch
        x = F.pixel_unshuffle(targets, patch)
        rows, columns = x.shape[-2:]
        x = self.narrow(F.gelu(self.widen(x.flatten(2).transpose(1, 2)), approximate="tanh"))
        x = F.rms_norm(x, (x.shape[-1],), self.out_norm.to(x.dtype), NORM_EPS)
        # a denoiser reads words in no order, and what stays as it was must stay where it was
        return x + position_table(rows, columns, self.config.outputs, rows, 1.0).to(x)
