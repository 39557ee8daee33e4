"""Features of a frozen encoder that sees, as image space: pooled to a small grid, raw or normalised; a
detokenizer draws pictures from them.

Shapes: P pictures, C channels, S vectors a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.files.typed import read, to_json
from diptych.files.whole import write_whole
from diptych.settings import round_sides
from diptych.spaces.facts import KIND, FeatureFacts


class Encoder(Protocol):
    """See `encoders.features.FeatureEncoder`."""

    channels: int
    size: int
    grid: int

    @property
    def model(self) -> nn.Module: ...

    def encode(self, pixels: Tensor) -> Tensor: ...

    def identity(self) -> str: ...


class Detokenizer(Protocol):
    """Features to pictures."""

    reads: str
    """`FeatureSpace.made_by` of the features that it was trained on; '': any of its number of channels."""
    channels: int

    def draw(self, features: Tensor, seeds: Sequence[int]) -> Tensor:
        """Raw features (P, C, S, S) -> uint8 (P, 3, height, width); each row's noise comes from its seed."""
        ...

    def to(self, device: torch.device | str) -> object: ...


class FeatureSpace:
    """S x S feature vectors of a square picture as target of the flow. See `contracts.ImageSpace`."""

    def __init__(
        self,
        encoder: Encoder | None,
        side: int = 8,
        native: int = 0,
        mean: Tensor | None = None,
        deviation: Tensor | None = None,
        detokenizer: Detokenizer | None = None,
        channels: int = 0,
        made_by: str = "",
    ) -> None:
        """`native`: px a side of pictures, the encoder's own unless given. `mean` and `deviation` (C,) bring
        features to unit variance; None: they stay raw, as published. A space without an encoder draws alone,
        and `channels` and `made_by` say what it draws.

        Raises ValueError for a grid that the encoder's patches are no multiple of, and for a detokenizer of
        other features.
        """
        if encoder is not None:
            channels, made_by, native = encoder.channels, encoder.identity(), native or encoder.size
            if side < 1 or encoder.grid % side:
                raise ValueError(
                    f"features are pooled to a grid whose side divides the encoder's {encoder.grid} patches, "
                    f"got {side}"
                )
        self.encoder, self.detokenizer = encoder, detokenizer
        self.mean, self.deviation = mean, deviation
        self.facts = FeatureFacts(
            kind=KIND,
            channels=channels,
            side=side,
            native=native,
            made_by=made_by,
            mean=() if mean is None else tuple(mean.tolist()),
            deviation=() if deviation is None else tuple(deviation.tolist()),
        )
        self.channels, self.native = channels, native
        self.factor = native
        if detokenizer is not None:
            _check_detokenizer(detokenizer, channels, made_by)

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (B, F, 3, native, native) -> (B, F, C, S, S), each frame by itself. Raises ValueError for
        pictures of another size, and for a space without an encoder."""
        self._sized(pixels.shape[-1], pixels.shape[-2])
        if self.encoder is None:
            raise ValueError("this space draws alone: the encoder of its features is not at hand")
        pictures = pixels.flatten(0, 1)
        size = self.encoder.size
        if pictures.shape[-1] != size:
            # in float and rounded once: pictures that are files have bytes
            resized = F.interpolate(pictures.float(), (size, size), mode="bicubic", antialias=True)
            pictures = resized.round().clamp(0, 255).to(torch.uint8)
        found = self.encoder.encode(pictures)
        pooled = F.avg_pool2d(found, self.encoder.grid // self.facts.side)
        return self._normalised(pooled).unflatten(0, pixels.shape[:2])

    def decode(self, target: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Targets (B, F, C, S, S) -> uint8 (B, F, 3, native, native), drawn from the seeds, one a row. Raises
        ValueError for a space without a detokenizer."""
        if self.detokenizer is None:
            raise ValueError("this space has no detokenizer, so nothing is drawn from its features")
        batch, frames = target.shape[:2]
        every = [seed for seed in (seeds or [0] * batch) for _ in range(frames)]
        return self.detokenizer.draw(self.raw(target.flatten(0, 1)), every).unflatten(0, (batch, frames))

    def raw(self, target: Tensor) -> Tensor:
        """Features (P, C, S, S) as the encoder gives them."""
        if self.mean is None or self.deviation is None:
            return target
        return target * _per_channel(self.deviation, target) + _per_channel(self.mean, target)

    def _normalised(self, features: Tensor) -> Tensor:
        if self.mean is None or self.deviation is None:
            return features
        return (features - _per_channel(self.mean, features)) / _per_channel(self.deviation, features)

    def shape(self, width: int, height: int, frames: int = 1) -> tuple[int, int, int, int]:
        """(frames, C, S, S). Raises ValueError for another size than the one that it holds."""
        self._sized(width, height)
        return frames, self.channels, self.facts.side, self.facts.side

    def _sized(self, width: int, height: int) -> None:
        if (width, height) != (self.native, self.native):
            raise ValueError(
                f"features hold pictures of {self.native}x{self.native} px alone, got {width}x{height}"
            )

    def round_size(self, width: int, height: int) -> tuple[int, int]:
        return round_sides(width, height, self.native)

    def identity(self) -> str:
        """Of encoder, pooling and statistics; what draws pictures from the features is no part of them."""
        told = (self.facts.made_by, self.facts.side, self.native, self.facts.mean, self.facts.deviation)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def to(self, device: torch.device | str) -> FeatureSpace:
        if self.encoder is not None:
            self.encoder.model.to(device)
        if self.detokenizer is not None:
            self.detokenizer.to(device)
        return self

    def parts(self) -> dict[str, nn.Module]:
        """Modules by name."""
        return {} if self.encoder is None else {"feature encoder": self.encoder.model}


def _check_detokenizer(detokenizer: Detokenizer, channels: int, made_by: str) -> None:
    if detokenizer.channels != channels:
        raise ValueError(
            f"the detokenizer draws from {detokenizer.channels} channels, and the features have {channels}"
        )
    if detokenizer.reads not in ("", made_by):
        raise ValueError(
            f"the detokenizer was trained on features of another encoder ({detokenizer.reads}, here "
            f"{made_by})"
        )


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(-1, 1, 1)


def measured(space: FeatureSpace, pictures: Iterable[Tensor]) -> FeatureSpace:
    """The space with features at zero mean and unit deviation in every channel, measured over batches of
    pictures, uint8 (P, 3, native, native)."""
    plain = FeatureSpace(space.encoder, space.facts.side, space.native)
    # in float64 and by sums: as many pictures as there are need not be held
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in pictures:
        found = plain.encode(batch[:, None])[:, 0].double().transpose(0, 1).flatten(1)
        count, total, squares = count + found.shape[1], total + found.sum(1), squares + found.square().sum(1)
    if not count:
        raise ValueError("statistics need at least one picture")
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    return FeatureSpace(
        space.encoder, space.facts.side, space.native, mean.float(), deviation.float(), space.detokenizer
    )


def save_facts(space: FeatureSpace, folder: Path) -> None:
    """Write what `load_features` reads; encoder and detokenizer have folders of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", to_json(space.facts))


def load_features(
    folder: Path, encoder: Encoder | None = None, detokenizer: Detokenizer | None = None
) -> FeatureSpace:
    """A space from what `save_facts` wrote. Raises ValueError for another encoder than the one that its
    features were made by, and for a detokenizer of others."""
    facts = read(FeatureFacts, folder / "config.json")
    if encoder is not None and encoder.identity() != facts.made_by:
        raise ValueError(
            f"{folder / 'config.json'}: the features were made by the encoder {facts.made_by}, and this "
            f"one is {encoder.identity()}"
        )
    mean, deviation = (torch.tensor(values) if values else None for values in (facts.mean, facts.deviation))
    return FeatureSpace(
        encoder,
        facts.side,
        facts.native,
        mean,
        deviation,
        detokenizer=detokenizer,
        channels=facts.channels,
        made_by=facts.made_by,
    )
