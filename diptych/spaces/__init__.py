"""Pictures <-> the tensors that the flow runs in."""

from typing import TYPE_CHECKING

from diptych.lazy import attributes
from diptych.spaces.factor import factor_of

if TYPE_CHECKING:
    from diptych.spaces.latents import LatentSpace, load_space, save_space, tiny_space
    from diptych.spaces.pixels import PixelSpace

__all__ = ["LatentSpace", "PixelSpace", "factor_of", "load_space", "save_space", "tiny_space"]

# what an autoencoder makes of sizes is told without torch, all else is not
__getattr__ = attributes(__name__, ("pixels", "latents"))
