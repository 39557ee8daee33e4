"""Tiny autoencoders of the TAESD family, under their public weight names, with the variants that diffusers
lacks.

A plain sequence of 3x3 convolutions and residual blocks. FLUX.2's variant has, in the three blocks next to
the latent, a group-normalised branch before the block's own convolutions; SANA's encoder halves the picture
twice before its first block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 64


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
        stem = [_conv(3, WIDTH // 2, 2), nn.ReLU(), _conv(WIDTH // 2, WIDTH, 2), nn.ReLU(), Block(False)]
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
    """Encoder and decoder of one latent space; built from weights, whose names tell the variant."""

    def __init__(self, encoder_weights: dict[str, Tensor], decoder_weights: dict[str, Tensor] | None) -> None:
        """Raises ValueError for weights that are no tiny autoencoder's."""
        super().__init__()
        last = max(int(name.split(".")[0]) for name in encoder_weights)
        self.channels = encoder_weights[f"{last}.weight"].shape[0]
        # the variant can be told by its first convolution alone: half as wide, it begins the deeper stem
        deep = encoder_weights["0.weight"].shape[0] == WIDTH // 2
        self.factor = 32 if deep else 8
        self.encoder = encoder(self.channels, any(".pool." in name for name in encoder_weights), deep)
        _load(self.encoder, encoder_weights, "encoder")
        self.decoder = None
        if decoder_weights is not None:
            self.decoder = decoder(self.channels, any(".pool." in name for name in decoder_weights))
            _load(self.decoder, decoder_weights, "decoder")

    def encode(self, x: Tensor) -> Tensor:
        """Pictures -1..1 -> latents."""
        # the published networks work in 0..1
        return self.encoder((x + 1) / 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures -1..1. Raises ValueError where there is no decoder."""
        if self.decoder is None:
            raise ValueError("this tiny autoencoder came without a decoder")
        return self.decoder(latents) * 2 - 1


def _load(part: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    try:
        part.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights are no tiny autoencoder's {name}: {error}") from error
