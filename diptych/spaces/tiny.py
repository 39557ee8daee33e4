"""Tiny autoencoders of the TAESD family, under their public weight names, with the variants that diffusers
lacks.

A plain sequence of 3x3 convolutions and residual blocks. FLUX.2's variant has, in the three blocks next to
the latent, a group-normalised branch before the block's own convolutions; SANA's encoder halves the picture
twice before its first block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diptych.spaces.factor import DEEP_STEM, tiny_factor

WIDTH = 64
_HALVES = ("encoder.", "decoder.")


# Attribute names, and places in each nn.Sequential, are those of the published files, layers without weights
# included: moving one renames the weights behind it.
class Block(nn.Module):
    def __init__(self, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH)
        )
        wide = 4 * WIDTH
        norm = [
            nn.Conv2d(WIDTH, wide, 1, bias=False),
            nn.GroupNorm(4, wide),
            nn.ReLU(),
            nn.Conv2d(wide, WIDTH, 1, bias=False),
        ]
        self.pool = nn.Sequential(*norm) if pool else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """3 tanh(x / 3): latents beyond what training held are bent back."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def encoder(channels: int, pool: bool, deep: bool) -> nn.Sequential:
    """Pictures of 0..1 -> latents, 8 times smaller, or 32 times if `deep`."""
    if deep:
        stem = [_conv(3, DEEP_STEM, 2), nn.ReLU(), _conv(DEEP_STEM, WIDTH, 2), nn.ReLU(), Block(False)]
    else:
        stem = [_conv(3, WIDTH), Block(False)]
    stages = [
        layer
        # strided convolutions halve the picture three times, and have no bias, as published
        for last in (False, False, pool)
        for layer in (_conv(WIDTH, WIDTH, 2, bias=False), *(Block(last) for _ in range(3)))
    ]
    return nn.Sequential(*stem, *stages, _conv(WIDTH, channels))


def decoder(channels: int, pool: bool) -> nn.Sequential:
    """Latents -> pictures of 0..1, 8 times larger."""
    stages = [
        layer
        for first in (pool, False, False)
        for layer in (
            *(Block(first) for _ in range(3)),
            nn.Upsample(scale_factor=2),
            _conv(WIDTH, WIDTH, bias=False),
        )
    ]
    return nn.Sequential(
        SoftClamp(), _conv(channels, WIDTH), nn.ReLU(), *stages, Block(False), _conv(WIDTH, 3)
    )


def _conv(before: int, after: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, 1, bias=bias)


class TinyAutoencoder(nn.Module):
    """Encoder and decoder of one latent space; the shapes of its weights tell the variant."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """`shapes` of tensors 'encoder.…' and, if any, 'decoder.…'. Raises ValueError where they are of no
        tiny autoencoder; sizes beyond the first and the last layer are for the caller to compare."""
        super().__init__()
        layers = [int(found[1]) for name in shapes if (found := re.match(r"encoder\.(\d{1,3})\.", name))]
        first, last = (shapes.get(f"encoder.{place}.weight", ()) for place in (0, max(layers, default=0)))
        if len(first) != 4 or len(last) != 4:
            raise ValueError(
                "the weights are no tiny autoencoder's: its encoder begins and ends with convolutions"
            )
        self.channels, self.factor = last[0], tiny_factor(first[0])
        # the branch with a norm stands next to the latent, in both halves alike
        pooled = {part: any(n.startswith(part) and ".pool." in n for n in shapes) for part in _HALVES}
        self.encoder = encoder(self.channels, pooled["encoder."], first[0] == DEEP_STEM)
        self.decoder = None
        if any(name.startswith("decoder.") for name in shapes):
            self.decoder = decoder(self.channels, pooled["decoder."])

    def encode(self, x: Tensor) -> Tensor:
        """Pictures -1..1 -> latents."""
        # the published networks work in 0..1
        return self.encoder((x + 1) / 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures -1..1. Raises ValueError where there is no decoder."""
        if self.decoder is None:
            raise ValueError("this tiny autoencoder came without a decoder")
        return self.decoder(latents) * 2 - 1
