"""Raw pixels as image space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.settings import round_sides

# as published: SenseNova-U1 reads ImageNet-normalised pictures and draws in -1..1, by two interfaces with
# weights of their own
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_bytes(x: Tensor) -> Tensor:
    """-1..1 -> uint8, clamped. Raises ValueError for what is no number, which would become black."""
    # in float32: in bfloat16 the sum, between 1 and 2, is rounded to steps as wide as a shade
    x = x.float()
    if bool(x.isnan().any()):
        raise ValueError(
            "the model drew values that are no numbers (NaN): its weights are damaged, or it needs more "
            "precision than it was loaded in"
        )
    return ((x + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


class PixelSpace:
    """Frames in -1..1 for drawing, ImageNet-normalised pictures for reading; sides multiples of
    `multiple`."""

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (B, F, 3, height, width) -> -1..1, of the same shape. Raises ValueError for sides that are no
        multiples of `multiple`."""
        height, width = pixels.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"sides must be multiples of {self.multiple} px, got {width}x{height}")
        return pixels.float() / 127.5 - 1.0

    def decode(self, target: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """-1..1 -> uint8, clamped, of the same shape. Raises ValueError as `to_bytes`."""
        return to_bytes(target)

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
        return round_sides(width, height, self.multiple)

    def identity(self) -> str:
        """Pixels depend on nothing."""
        return "pixels"
