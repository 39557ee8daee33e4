"""Image spaces: pictures <-> the tensors that the flow runs in."""

from diptych.spaces.pixels import PixelSpace

__all__ = ["PixelSpace"]
