"""Pictures with captions of the emoji world, made as they are asked for: the same batches as those of an
index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.contracts import BadSample, Given, Picture, Prompt, Sample, Source, Stack
from diptych.data.captioned.buckets import Bucket, fit
from diptych.data.captioned.index import Index
from diptych.data.captioned.loader import Cache, PictureDataset, PictureLoaderConfig, as_tensor
from diptych.data.conversations.readers import JsonlSource
from diptych.data.frames import FrameBatch, collate
from diptych.data.loader import StepData, StepDataset
from diptych.request import Role
from diptych.worlds.emoji import EmojiWorld, WorldConfig
from diptych.worlds.emoji.source import EmojiSource

VALIDATION_SEED = 1_000_001
"""Of world samples that no run trains on; no run's own seed."""
Shape = Callable[[int, int], tuple[int, ...]]


class Squares(Index):
    """An index whose pictures all count as squares: those that are not are cut at their centre, as features
    are of squares alone."""

    def sizes(self) -> np.ndarray:
        sides: np.ndarray = super().sizes().min(1, keepdims=True)
        return np.repeat(sides, 2, axis=1)


class WorldPictures(StepDataset[FrameBatch]):
    """data[step] for one rank of a run over the emoji world: one picture a row, with the words that ask for
    it, and for a share of them with a picture that they change."""

    def __init__(
        self,
        world: WorldConfig,
        config: PictureLoaderConfig,
        shape: Shape,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        shown: bool = False,
        edits: float = 0.0,
        lines: str = "",
    ) -> None:
        """`shape(width, height)` is that of a target (1, C, H, W); `shown`: each picture is given as well;
        `edits`: share of edits, those of a JSONL file `lines` if there is one. Raises ValueError where ranks
        and accumulations do not split a step evenly, and for lines that cannot be read."""
        groups = ranks * config.accumulate
        if config.pictures_per_step % groups:
            raise ValueError(
                f"pictures_per_step {config.pictures_per_step} does not split over {ranks} ranks x "
                f"{config.accumulate} accumulations"
            )
        self.source = EmojiSource(EmojiWorld(world), "generate", seed)
        self.edits, self.changes = edits, edits_of(world, seed, lines) if edits else None
        self.config, self.seed, self.rank, self.ranks = config, seed, rank, ranks
        self.shape, self.size, self.workers = shape(world.size, world.size), world.size, config.workers
        self.shown = shown

    def __getitem__(self, step: int) -> StepData[FrameBatch]:
        config = self.config
        parts: list[list[FrameBatch]] = [[] for _ in range(config.accumulate)]
        bad: list[str] = []
        for place in range(config.pictures_per_step):
            owner, group = divmod(place % (self.ranks * config.accumulate), config.accumulate)
            if owner == self.rank:
                key = step * config.pictures_per_step + place
                try:
                    parts[group].append(self.sample(key))
                except BadSample as error:
                    bad.append(str(error))
                    # a row that weighs nothing: all ranks compute alike
                    blank = self._row(key, self.source.draw(key))
                    parts[group].append(replace(blank, weight=torch.zeros(1)))
        return StepData(tuple(collate(part) for part in parts), tuple(bad))

    def sample(self, key: int) -> FrameBatch:
        """The run's picture of this number as a batch of one, with its noise and its dropout. Raises
        BadSample for a line that is no edit."""
        if self.changes is not None and np.random.default_rng([self.seed, 6, key]).random() < self.edits:
            return self._row(key, self.changes.draw(key))
        return self._row(key, self.source.draw(key))

    def _row(self, key: int, sample: Sample) -> FrameBatch:
        text, source, drawn = _told(sample)
        draw = np.random.default_rng([self.seed, 4, key])
        dropped = bool(draw.random() < self.config.drop_text)
        # without its words a picture is seen or not, as in the two passes that guidance is away from
        blind = source is not None and dropped and bool(draw.random() < 0.5)
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([self.seed, 3, key]).integers(2**63))
        )
        level = torch.randn(1, generator=generator)
        bucket = Bucket(self.size, self.size)
        pixels = as_tensor(fit(drawn.pixels, bucket))
        given = (Given(Role.CONTROL, pixels),) if self.shown else ()
        if source is not None:
            given = (Given(Role.SOURCE, as_tensor(fit(source.pixels, bucket))),)
        return FrameBatch(
            prompts=(Prompt(text),),
            stacks=(Stack(self.size, self.size, given=given),),
            pixels=pixels[None, None],
            target=torch.empty(0),
            noise=torch.randn((1, *self.shape), generator=generator),
            level=level,
            drop_text=torch.tensor([dropped]),
            drop_media=torch.tensor([blind]),
            weight=torch.ones(1),
        )


def _told(sample: Sample) -> tuple[str, Picture | None, Picture]:
    """Words, the picture that they change if any, and the picture that is drawn. Raises BadSample for a
    conversation of another kind."""
    parts = [part for turn in sample.turns[:1] for part in turn.parts]
    said = " ".join(part.strip() for part in parts if isinstance(part, str))
    given = [part for part in parts if isinstance(part, Picture)]
    drawn = [part for turn in sample.turns[1:] for part in turn.parts]
    if len(sample.turns) != 2 or len(drawn) != 1 or not isinstance(drawn[0], Picture) or len(given) > 1:
        raise BadSample(
            f"{sample.origin}: one instruction with at most one picture, and the one picture that it makes, "
            "are needed"
        )
    return said, given[0] if given else None, drawn[0]


def edits_of(world: WorldConfig, seed: int, lines: str = "") -> Source:
    """Edits of a JSONL file, or of the emoji world. Raises ValueError for a file without samples."""

    def whole(pixels: np.ndarray, **_: Any) -> np.ndarray:
        return pixels

    if lines:
        return JsonlSource(Path(lines), seed=seed, sizes=whole, task="edit")
    return EmojiSource(EmojiWorld(world), "edit", seed)


def dataset(
    index: Squares | None,
    world: WorldConfig,
    config: PictureLoaderConfig,
    shape: Shape,
    *,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    cache: Cache | None = None,
    first_step: int = 0,
    shown: bool = False,
    edits: float = 0.0,
    lines: str = "",
) -> StepDataset[FrameBatch]:
    """Pictures of an index, or of the emoji world where there is none; whole squares of the first resolution.
    `shown`: each picture is given as well, for what draws it again; `edits`, `lines`: see `WorldPictures`."""
    if index is None:
        return WorldPictures(world, config, shape, seed, rank, ranks, shown, edits, lines)
    return PictureDataset(
        index,
        config,
        multiple=config.resolutions[0],
        shape=shape,
        seed=seed,
        rank=rank,
        ranks=ranks,
        cache=cache,
        control=itself if shown else None,
        first_step=first_step,
    )


def itself(pixels: np.ndarray) -> np.ndarray:
    """What is given of a picture that is drawn again: all of it."""
    return pixels
