"""Optimiser states in 8 bits: flat blocks of 2,048 elements, each with its own scale, and a code whose steps
grow with the value.

A code c in -127 .. 127 stands for sign(c) (c / 127)^2 times the largest magnitude of its block. Zero is
exactly 0, the largest element is exact, so storing twice changes nothing; small values keep more digits than
in a linear code, which matters as blocks of momentum have heavy tails.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2048
TOP = 127
UNIT = 1 / TOP**2
"""In float32, TOP**2 times this is 1."""
SMALLEST = 1e-30
"""Scales below this count as this, so that nothing is divided by zero."""


def encode(values: Tensor, codes: Tensor, scale: Tensor, spare: Tensor) -> None:
    """Finite values (N,) into codes int8 (N,) and scales float32 (ceil(N / 2048),). A block of zeros has
    scale 0 and codes 0.

    `spare` is a tensor of the values' shape to work in, so that nothing large is allocated.
    """
    magnitude = torch.abs(values, out=spare)
    for part, its in _blocks(magnitude, scale):
        torch.amax(part, 1, out=its)
    for part, factor in _blocks(magnitude, TOP**2 / scale.clamp_min(SMALLEST)):
        part.mul_(factor[:, None])
    # sqrt before rounding: the code is a square, so its steps are finest at zero
    codes.copy_(magnitude.sqrt_().round_().copysign_(values))


def decode(codes: Tensor, scale: Tensor, out: Tensor, spare: Tensor) -> None:
    """Inverse of `encode`: float32 (N,) into `out`."""
    out.copy_(codes)
    out.mul_(torch.abs(out, out=spare))
    # in this order, to the bit: cpu.py decodes the same way, and saved states must not depend on which did
    out.mul_(UNIT)
    for part, its in _blocks(out, scale):
        part.mul_(its[:, None])


def _blocks(values: Tensor, per_block: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of the full blocks (blocks, 2048) and of the rest (1, rest), each with its part of what there is
    one of a block."""
    full, rest = divmod(len(values), BLOCK)
    parts = [(values[: full * BLOCK].view(full, BLOCK), per_block[:full])] if full else []
    return [*parts, (values[None, full * BLOCK :], per_block[full:])] if rest else parts
