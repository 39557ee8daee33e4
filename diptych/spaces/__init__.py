"""Pictures <-> the tensors that the flow runs in."""

from diptych.spaces.latents import LatentSpace, load_space, save_space, tiny_space
from diptych.spaces.pixels import PixelSpace

__all__ = ["LatentSpace", "PixelSpace", "load_space", "save_space", "tiny_space"]
