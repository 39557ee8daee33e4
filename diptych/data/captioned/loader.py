"""Steps of pictures with captions: bucketed, captions chosen, guidance dropout drawn; the same for any ranks
and workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import BadSample, Given, Prompt, Stack
from diptych.data.captioned.buckets import Bucket, BucketPlan, fit
from diptych.data.captioned.captions import CaptionLaw, choose
from diptych.data.captioned.index import Index
from diptych.data.frames import FrameBatch, collate
from diptych.data.loader import MAX_WORKERS, StepData, StepDataset
from diptych.request import Role


@dataclass(frozen=True, kw_only=True)
class PictureLoaderConfig:
    pictures_per_step: int = 64
    """Pictures of one optimiser step, over all ranks and accumulations."""
    resolutions: tuple[int, ...] = (128,)
    """Base resolutions, px; a picture goes to the largest that it need not be enlarged for. Empty: the native
    size of the model that a run starts from."""
    accumulate: int = 1
    workers: int = 1
    drop_text: float = 0.1
    """Share trained without their caption (guidance)."""
    caption: CaptionLaw = field(default_factory=CaptionLaw)
    validation: float = 0.02
    """Share of the pictures, chosen by their checksums, that is never trained on."""

    def __post_init__(self) -> None:
        if not 1 <= self.accumulate <= self.pictures_per_step:
            raise ValueError(
                f"accumulate must be at least 1 and at most pictures_per_step, got {self.accumulate}, "
                f"{self.pictures_per_step}"
            )
        if not 0 <= self.workers <= MAX_WORKERS:
            raise ValueError(f"workers must be 0 to {MAX_WORKERS}, got {self.workers}")
        if not 0 <= self.drop_text <= 1 or not 0 <= self.validation < 1:
            raise ValueError(
                f"drop_text and validation must be shares, got {self.drop_text}, {self.validation}"
            )


class Cache(Protocol):
    """Targets and hidden states that were computed before."""

    def target(self, id: str, bucket: Bucket) -> Tensor:
        """(C, H, W) of a picture."""
        ...

    def control(self, id: str, bucket: Bucket) -> Tensor:
        """(C, H, W) of what is drawn along."""
        ...

    def text(self, caption: str) -> Tensor | None:
        """Hidden states (T, channels); None where the text encoder learns."""
        ...


Control = Callable[[np.ndarray], np.ndarray]


def is_validation(sha256: str, share: float) -> bool:
    """Whether a picture is kept for validation: by its bytes, so that a copy of it elsewhere is as well."""
    # a fixed threshold: a larger share keeps what a smaller one kept, and a growing index moves nothing
    return int(sha256[:8], 16) < share * 2**32


class PictureDataset(StepDataset[FrameBatch]):
    """data[step] for one rank of a run over an index: one frame a row, a target."""

    def __init__(
        self,
        index: Index,
        config: PictureLoaderConfig,
        *,
        multiple: int,
        shape: Callable[[int, int], tuple[int, ...]],
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        cache: Cache | None = None,
        control: Control | None = None,
        first_step: int = 0,
    ) -> None:
        """`multiple`: sides are multiples of it, px; `shape(width, height)` is that of a target (1, C, H, W).

        Raises ValueError where ranks and accumulations do not split a step evenly.
        """
        groups = ranks * config.accumulate
        if config.pictures_per_step % groups:
            raise ValueError(
                f"pictures_per_step {config.pictures_per_step} does not split over {ranks} ranks x "
                f"{config.accumulate} accumulations"
            )
        self.index, self.config, self.seed, self.rank, self.ranks = index, config, seed, rank, ranks
        self.shape, self.cache, self.control, self.first_step = shape, cache, control, first_step
        self.workers = config.workers
        self.learning = np.array(
            [n for n, row in enumerate(index.rows) if not is_validation(row.sha256, config.validation)],
            dtype=np.int64,
        )
        self.plan = BucketPlan(
            index.sizes()[self.learning], config.resolutions, multiple, config.pictures_per_step, seed
        )

    def __getitem__(self, step: int) -> StepData[FrameBatch]:
        epoch, bucket, numbers = self.plan.at(step - self.first_step)
        bad: list[str] = []
        parts: list[list[FrameBatch]] = [[] for _ in range(self.config.accumulate)]
        for place, number in enumerate(self.learning[numbers].tolist()):
            # dealt out one by one: which rank has a picture changes with their number, which pictures a step
            # has does not
            owner, group = divmod(place % (self.ranks * self.config.accumulate), self.config.accumulate)
            if owner == self.rank:
                try:
                    parts[group].append(
                        # the place in the run, not in the rank, seeds noise and dropout
                        self.sample(number, bucket, epoch, step * self.config.pictures_per_step + place)
                    )
                except BadSample as error:
                    bad.append(str(error))
        # a rank without pictures still takes part: sharded models wait for one another in every pass
        return StepData(tuple(collate(part or [self._blank(bucket)]) for part in parts), tuple(bad))

    def _blank(self, bucket: Bucket) -> FrameBatch:
        """A batch of one that weighs nothing."""
        caption = self.index.rows[0].captions[0]
        pixels = torch.zeros((3, bucket.height, bucket.width), dtype=torch.uint8)
        if self.cache is None:
            frame, text = _Frame(pixels, None), None
        else:
            shape = self.shape(bucket.width, bucket.height)
            frame, text = _Frame(_NO_PIXELS, torch.zeros(shape[1:])), self.cache.text(caption)
        noise = torch.zeros((1, *self.shape(bucket.width, bucket.height)))
        return _row(
            Prompt(caption, states=text),
            bucket,
            frame,
            # the same frames as its neighbours have: roles must agree in a batch
            frame if self.control is not None else None,
            noise,
            torch.zeros(1),
            dropped=False,
            weight=0.0,
        )

    def sample(self, number: int, bucket: Bucket, epoch: int, key: int) -> FrameBatch:
        """One picture as a batch of one; `key` seeds its noise and its dropout."""
        row = self.index.rows[number]
        draw = np.random.default_rng([self.seed, 4, key])
        # seeded by epoch and picture: every epoch may choose another, and a resumed one chooses the same
        chosen = choose(self.config.caption, row.captions, row.scores, [self.seed, 5, epoch, number])
        caption, dropped = row.captions[chosen], bool(draw.random() < self.config.drop_text)
        control: _Frame | None = None
        if self.cache is None:
            picture = fit(self.index.picture(number), bucket)
            frame, text = _Frame(as_tensor(picture), None), None
            if self.control is not None:
                # computed after cropping, so that edges lie on the pixels that are drawn
                control = _Frame(as_tensor(self.control(picture)), None)
        else:
            target = self.cache.target(row.id, bucket)
            if target.shape != self.shape(bucket.width, bucket.height)[1:]:
                raise ValueError(
                    f"the cached target of {row.id} has the shape {tuple(target.shape)}, not "
                    f"{self.shape(bucket.width, bucket.height)[1:]}: make the cache again"
                )
            frame, text = _Frame(_NO_PIXELS, target), self.cache.text(caption)
            if self.control is not None:
                control = _Frame(_NO_PIXELS, self.cache.control(row.id, bucket))
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([self.seed, 3, key]).integers(2**63))
        )
        # before the noise, whose length depends on the picture's size
        level = torch.randn(1, generator=generator)
        noise = torch.randn((1, *self.shape(bucket.width, bucket.height)), generator=generator)
        return _row(
            Prompt(caption, states=text), bucket, frame, control, noise, level, dropped=dropped, weight=1.0
        )


class _Frame(NamedTuple):
    pixels: Tensor
    """uint8 (3, height, width); empty where the target came from a cache."""
    target: Tensor | None
    """(C, H, W)."""


_NO_PIXELS = torch.empty(0, dtype=torch.uint8)


def _row(
    prompt: Prompt,
    bucket: Bucket,
    frame: _Frame,
    control: _Frame | None,
    noise: Tensor,
    level: Tensor,
    *,
    dropped: bool,
    weight: float,
) -> FrameBatch:
    given = () if control is None else (Given(Role.CONTROL, control.pixels, target=control.target),)
    return FrameBatch(
        prompts=(prompt,),
        stacks=(Stack(bucket.width, bucket.height, given=given),),
        pixels=frame.pixels[None, None] if frame.target is None else frame.pixels,
        target=torch.empty(0) if frame.target is None else frame.target[None, None],
        noise=noise,
        level=level,
        drop_text=torch.tensor([dropped]),
        drop_media=torch.tensor([False]),
        weight=torch.tensor([weight]),
    )


def as_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (height, width, 3) -> (3, height, width)."""
    # copied: arrays of Pillow's are read-only, and cut ones not contiguous
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
