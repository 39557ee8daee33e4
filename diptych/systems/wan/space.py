"""Latents of Wan's autoencoder as image space: clips are coded as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.settings import round_sides
from diptych.spaces.pixels import to_bytes


class WanSpace:
    """Latents of unit variance; see `contracts.ImageSpace`. One latent frame stands for the first frame of a
    clip, and one for every `time` further ones."""

    def __init__(self, model: Any, space: int, time: int, multiple: int) -> None:
        """`space`: px of a side to one latent; `multiple`: sides of pictures are multiples of it, px."""
        self.model, self.factor, self.time, self.multiple = (
            model.eval().requires_grad_(False),
            space,
            time,
            multiple,
        )
        self.channels = int(model.config.z_dim)

    def latents(self, x: Tensor) -> Tensor:
        """Pictures of -1..1 (B, 3, F, height, width) -> (B, channels, f, H, W), float32."""
        raw = self.model.encode(x.to(self.model.dtype)).latent_dist.mode().float()
        mean, deviation = self._statistics(raw)
        return (raw - mean) / deviation

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        if (pixels.shape[1] - 1) % self.time:
            raise ValueError(
                f"a clip has a multiple of {self.time} frames, and one more, got {pixels.shape[1]}"
            )
        if pixels.shape[-2] % self.multiple or pixels.shape[-1] % self.multiple:
            raise ValueError(
                f"sides must be multiples of {self.multiple} px, got {pixels.shape[-1]}x{pixels.shape[-2]}"
            )
        return self.latents(to_floats(pixels).transpose(1, 2)).transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode(self, target: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        latents = target.transpose(1, 2).float()
        mean, deviation = self._statistics(latents)
        frames = self.model.decode((latents * deviation + mean).to(self.model.dtype)).sample
        return to_bytes(frames.float().transpose(1, 2))

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.model.config
        found = (like.new_tensor(list(values)) for values in (config.latents_mean, config.latents_std))
        mean, deviation = (values.view(1, -1, 1, 1, 1) for values in found)
        return mean, deviation

    def shape(self, width: int, height: int, frames: int = 1) -> tuple[int, int, int, int]:
        return 1 + (frames - 1) // self.time, self.channels, height // self.factor, width // self.factor

    def round_size(self, width: int, height: int) -> tuple[int, int]:
        return round_sides(width, height, self.multiple)

    def identity(self) -> str:
        # without what says where it came from, and nothing of what is computed
        told = {name: value for name, value in dict(self.model.config).items() if not name.startswith("_")}
        digest = hashlib.sha256(repr(sorted(told.items())).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            # a sum each, not all bytes: enough to tell one autoencoder from another
            digest.update(tensor.float().sum().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> None:
        self.model.to(device)


def to_floats(pixels: Tensor) -> Tensor:
    """uint8 -> float32, -1..1, by diffusers' own operations."""
    return 2.0 * (pixels.float() / 255.0) - 1.0
