"""Latents of a causal video autoencoder as image space: clips are coded as a whole, and a picture is one of
one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.settings import round_sides
from diptych.spaces.factor import causal_sizes
from diptych.spaces.latents import LatentSpace
from diptych.spaces.pixels import to_bytes


class CausalAutoencoder(nn.Module):
    """A video autoencoder of diffusers (`factor.CAUSAL`): clips of -1..1 (B, 3, F, height, width) <-> latents
    of unit variance (B, channels, f, H, W), float32. Encoding takes the middle of the distribution."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.channels, self.factor, self.time = causal_sizes(dict(model.config), type(model).__name__)

    def encode(self, x: Tensor) -> Tensor:
        raw = self.model.encode(x.to(self.model.dtype)).latent_dist.mode().float()
        mean, deviation = self._statistics(raw)
        return (raw - mean) / deviation

    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.float()
        mean, deviation = self._statistics(latents)
        raw = (latents * deviation + mean).to(self.model.dtype)
        if getattr(self.model.config, "timestep_conditioning", False):
            # a decoder that removes noise itself is given none
            return self.model.decode(raw, raw.new_zeros(len(raw))).sample.float()
        return self.model.decode(raw).sample.float()

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of raw latents: of the config, or of the weights, which may be scaled beside."""
        config = self.model.config
        found = [
            getattr(config, name, None)
            if getattr(config, name, None) is not None
            else getattr(self.model, name)
            for name in ("latents_mean", "latents_std")
        ]
        scale = getattr(config, "scaling_factor", 1.0)
        values = (torch.as_tensor(one, dtype=like.dtype, device=like.device) for one in found)
        mean, deviation = (one.view(1, -1, 1, 1, 1) for one in values)
        return mean, deviation if scale == 1.0 else deviation / scale


class CausalSpace(LatentSpace):
    """Latents of unit variance; see `contracts.ImageSpace`. One latent frame stands for the first frame of a
    clip, and one for every `time` further ones."""

    autoencoder: CausalAutoencoder

    def __init__(self, autoencoder: CausalAutoencoder, multiple: int = 0) -> None:
        """`multiple`: sides of pictures are multiples of it, px; 0: of what is one latent."""
        super().__init__(autoencoder)
        self.time, self.multiple = autoencoder.time, multiple or autoencoder.factor

    @torch.no_grad()
    def latents(self, x: Tensor) -> Tensor:
        """Clips of -1..1 (B, 3, F, height, width) -> (B, channels, f, H, W), float32."""
        return self.autoencoder.encode(x)

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (B, F, 3, height, width) -> (B, f, channels, H, W). Raises ValueError for sides that are no
        multiples, and for frames that are no multiple of `time` and one more."""
        frames, (height, width) = pixels.shape[1], pixels.shape[-2:]
        if (frames - 1) % self.time:
            raise ValueError(f"a clip has a multiple of {self.time} frames, and one more, got {frames}")
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"sides must be multiples of {self.multiple} px, got {width}x{height}")
        x = to_floats(pixels).to(self._parameters().device).transpose(1, 2)
        return self.latents(x).transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode(self, target: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Latents (B, f, channels, H, W) -> uint8 (B, F, 3, height, width), clamped."""
        return to_bytes(self.autoencoder.decode(target.transpose(1, 2)).transpose(1, 2))

    def shape(self, width: int, height: int, frames: int = 1) -> tuple[int, int, int, int]:
        return 1 + (frames - 1) // self.time, self.channels, height // self.factor, width // self.factor

    def round_size(self, width: int, height: int) -> tuple[int, int]:
        return round_sides(width, height, self.multiple)


def to_floats(pixels: Tensor) -> Tensor:
    """uint8 -> float32, -1..1, by diffusers' own operations."""
    return 2.0 * (pixels.float() / 255.0) - 1.0
