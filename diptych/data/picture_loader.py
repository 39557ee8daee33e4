"""Steps of pictures with captions: bucketed, captions chosen, guidance dropout drawn; the same for any ranks
and workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from diptych.data.buckets import Bucket, BucketPlan, fit
from diptych.data.captions import CaptionLaw, choose
from diptych.data.index import Index
from diptych.data.loader import StepData, StepDataset
from diptych.data.mixture import BadSample


@dataclass(frozen=True)
class PictureBatch:
    """P pictures of one size, with one caption each."""

    pixels: Tensor
    """uint8 (P, 3, height, width); empty where latents came from a cache."""
    latents: Tensor
    """(P, channels, height, width), scaled; empty without a cache."""
    captions: tuple[str, ...]
    dropped: Tensor
    """(P,): True where the null condition stands for the caption (guidance)."""
    text: Tensor
    """Hidden states (P, T, channels) from a cache, else empty."""
    mask: Tensor
    """(P, T), True = real."""
    noise: Tensor
    """Standard normal, of the latents' shape, float32."""
    level: Tensor
    """(P,): standard normal draw behind each noise level."""
    control: Tensor
    """What is given beside the text: uint8 (P, 3, height, width), or latents where they came from a cache;
    else empty."""
    weight: Tensor
    """(P,): 1, or 0 for a blank that stands where a rank's only picture could not be read, so that all ranks
    compute alike."""

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device) -> PictureBatch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: v.to(device, non_blocking=True) for name, v in values.items() if isinstance(v, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class PictureLoaderConfig:
    pictures_per_step: int = 64
    """Pictures of one optimiser step, over all ranks and accumulations."""
    resolutions: tuple[int, ...] = (128,)
    """Base resolutions, px; a picture goes to the largest that it need not be enlarged for."""
    accumulate: int = 1
    workers: int = 1
    drop_text: float = 0.1
    """Share trained without their caption (guidance)."""
    caption: CaptionLaw = field(default_factory=CaptionLaw)
    validation: float = 0.02
    """Share of the pictures, chosen by their checksums, that is never trained on."""

    def __post_init__(self) -> None:
        if self.pictures_per_step < 1 or self.accumulate < 1 or self.workers < 0 or not self.resolutions:
            raise ValueError(
                "pictures_per_step and accumulate must be at least 1, workers at least 0, resolutions "
                "not empty"
            )
        if not 0 <= self.drop_text <= 1 or not 0 <= self.validation < 1:
            raise ValueError(
                f"drop_text and validation must be shares, got {self.drop_text}, {self.validation}"
            )


class Cache(Protocol):
    """Latents and text that were computed before."""

    def latents(self, id: str, bucket: Bucket) -> Tensor: ...

    def control(self, id: str, bucket: Bucket) -> Tensor: ...

    def text(self, caption: str) -> Tensor:
        """Hidden states (T, channels); empty where a text encoder learns."""
        ...


Control = Callable[[np.ndarray], np.ndarray]


def is_validation(sha256: str, share: float) -> bool:
    """Whether a picture is kept for validation: by its bytes, so that a copy of it elsewhere is as well."""
    return int(sha256[:8], 16) < share * 2**32


class PictureDataset(StepDataset[PictureBatch]):
    """data[step] for one rank of a run over an index."""

    def __init__(
        self,
        index: Index,
        config: PictureLoaderConfig,
        *,
        multiple: int,
        latent_shape: Callable[[int, int], tuple[int, ...]],
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        cache: Cache | None = None,
        control: Control | None = None,
        first_step: int = 0,
    ) -> None:
        """`multiple`: sides are multiples of it, px; `latent_shape(width, height)` is the shape of the noise.

        Raises ValueError where ranks and accumulations do not split a step evenly.
        """
        groups = ranks * config.accumulate
        if config.pictures_per_step % groups:
            raise ValueError(
                f"pictures_per_step {config.pictures_per_step} does not split over {ranks} ranks x "
                f"{config.accumulate} accumulations"
            )
        self.index, self.config, self.seed, self.rank, self.ranks = index, config, seed, rank, ranks
        self.latent_shape, self.cache, self.control, self.first_step = (
            latent_shape,
            cache,
            control,
            first_step,
        )
        self.workers = config.workers
        self.learning = np.array(
            [n for n, row in enumerate(index.rows) if not is_validation(row.sha256, config.validation)],
            dtype=np.int64,
        )
        self.plan = BucketPlan(
            index.sizes()[self.learning], config.resolutions, multiple, config.pictures_per_step, seed
        )

    def __getitem__(self, step: int) -> StepData[PictureBatch]:
        epoch, bucket, numbers = self.plan.at(step - self.first_step)
        bad: list[str] = []
        parts: list[list[PictureBatch]] = [[] for _ in range(self.config.accumulate)]
        for place, number in enumerate(self.learning[numbers].tolist()):
            owner, group = divmod(place % (self.ranks * self.config.accumulate), self.config.accumulate)
            if owner == self.rank:
                try:
                    parts[group].append(
                        self.sample(number, bucket, epoch, step * self.config.pictures_per_step + place)
                    )
                except BadSample as error:
                    bad.append(str(error))
        return StepData(tuple(collate(part or [self._blank(bucket)]) for part in parts), tuple(bad))

    def _blank(self, bucket: Bucket) -> PictureBatch:
        """A batch of one that weighs nothing."""
        shape = self.latent_shape(bucket.width, bucket.height)
        pixels = torch.zeros((1, 3, bucket.height, bucket.width), dtype=torch.uint8)
        none = torch.empty(0)
        caption = self.index.rows[0].captions[0]
        text = none if self.cache is None else _batch_of_one(self.cache.text(caption))
        mask = torch.ones(text.shape[:2], dtype=torch.bool) if text.numel() else none.bool()
        latents = none if self.cache is None else torch.zeros((1, *shape))
        control = none.byte() if self.control is None else pixels if self.cache is None else latents
        blank = pixels if self.cache is None else none.byte()
        return PictureBatch(
            blank,
            latents,
            (caption,),
            torch.tensor([False]),
            text,
            mask,
            torch.zeros((1, *shape)),
            torch.zeros(1),
            control,
            torch.zeros(1),
        )

    def sample(self, number: int, bucket: Bucket, epoch: int, key: int) -> PictureBatch:
        """One picture as a batch of one; `key` seeds its noise and its dropout."""
        row = self.index.rows[number]
        draw = np.random.default_rng([self.seed, 4, key])
        chosen = choose(self.config.caption, row.captions, row.scores, [self.seed, 5, epoch, number])
        caption, dropped = row.captions[chosen], torch.tensor([draw.random() < self.config.drop_text])
        pixels = control = torch.empty(0, dtype=torch.uint8)
        latents, text = torch.empty(0), torch.empty(0)
        if self.cache is None:
            picture = fit(self.index.picture(number), bucket)
            pixels = as_tensor(picture)
            if self.control is not None:
                control = as_tensor(self.control(picture))
        else:
            latents, text = self.cache.latents(row.id, bucket)[None], _batch_of_one(self.cache.text(caption))
            if self.control is not None:
                control = self.cache.control(row.id, bucket)[None]
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([self.seed, 3, key]).integers(2**63))
        )
        level = torch.randn(1, generator=generator)
        noise = torch.randn((1, *self.latent_shape(bucket.width, bucket.height)), generator=generator)
        mask = (
            torch.ones(text.shape[:2], dtype=torch.bool) if text.numel() else torch.empty(0, dtype=torch.bool)
        )
        return PictureBatch(
            pixels, latents, (caption,), dropped, text, mask, noise, level, control, torch.ones(1)
        )


def _batch_of_one(text: Tensor) -> Tensor:
    return text[None] if text.numel() else text


def as_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (height, width, 3) -> (1, 3, height, width)."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]


def collate(parts: list[PictureBatch]) -> PictureBatch:
    """Batches of one into one; texts are padded to the longest."""
    length = max(part.mask.shape[1] if part.mask.numel() else 0 for part in parts)
    if length:
        parts = [
            replace(
                part,
                text=torch.nn.functional.pad(part.text, (0, 0, 0, length - part.text.shape[1])),
                mask=torch.nn.functional.pad(part.mask, (0, length - part.mask.shape[1])),
            )
            for part in parts
        ]
    stacked: dict[str, Any] = {
        f.name: torch.cat([getattr(p, f.name) for p in parts])
        for f in fields(parts[0])
        if f.name != "captions"
    }
    return PictureBatch(captions=tuple(p.captions[0] for p in parts), **stacked)
