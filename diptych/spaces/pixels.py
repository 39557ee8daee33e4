"""Raw pixels as image space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# as published: SenseNova-U1 reads ImageNet-normalised pictures and draws in -1..1, by two interfaces with
# weights of their own
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PixelSpace:
    """Frames in -1..1 for drawing, ImageNet-normalised pictures for reading; sides multiples of
    `multiple`."""

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (B, F, 3, height, width) -> -1..1, of the same shape."""
        return pixels.float() / 127.5 - 1.0

    def decode(self, target: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """-1..1 -> uint8, clamped, of the same shape."""
        # in float32: in bfloat16 the sum, between 1 and 2, is rounded to steps as wide as a shade
        return ((target.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def read(self, pixels: Tensor) -> Tensor:
        """uint8, or float32 in 0..1 (P, 3, height, width) -> ImageNet-normalised, for the understanding
        side."""
        x = pixels if pixels.is_floating_point() else pixels.float() / 255.0
        mean = x.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        return (x - mean) / x.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)

    def shape(self, width: int, height: int, frames: int = 1) -> tuple[int, int, int, int]:
        """(frames, 3, height, width) of the target of a picture or clip."""
        return (frames, 3, height, width)

    def round_size(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size that can be drawn; ties to even, at least one token a side."""
        return (self._round(width), self._round(height))

    def _round(self, side: int) -> int:
        return max(self.multiple, round(side / self.multiple) * self.multiple)

    def identity(self) -> str:
        """Pixels depend on nothing."""
        return "pixels"
