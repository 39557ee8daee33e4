"""Pictures with captions of the emoji world, made as they are asked for: the same batches as those of an
index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from diptych.contracts import Given, Picture, Prompt, Stack
from diptych.data.captioned.index import Index
from diptych.data.captioned.loader import Cache, PictureDataset, PictureLoaderConfig, as_tensor
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
    it."""

    def __init__(
        self,
        world: WorldConfig,
        config: PictureLoaderConfig,
        shape: Shape,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        shown: bool = False,
    ) -> None:
        """`shape(width, height)` is that of a target (1, C, H, W); `shown`: each picture is given as well.
        Raises ValueError where ranks and accumulations do not split a step evenly."""
        groups = ranks * config.accumulate
        if config.pictures_per_step % groups:
            raise ValueError(
                f"pictures_per_step {config.pictures_per_step} does not split over {ranks} ranks x "
                f"{config.accumulate} accumulations"
            )
        self.source = EmojiSource(EmojiWorld(world), "generate", seed)
        self.config, self.seed, self.rank, self.ranks = config, seed, rank, ranks
        self.shape, self.size, self.workers = shape(world.size, world.size), world.size, config.workers
        self.shown = shown

    def __getitem__(self, step: int) -> StepData[FrameBatch]:
        config = self.config
        parts: list[list[FrameBatch]] = [[] for _ in range(config.accumulate)]
        for place in range(config.pictures_per_step):
            owner, group = divmod(place % (self.ranks * config.accumulate), config.accumulate)
            if owner == self.rank:
                parts[group].append(self.sample(step * config.pictures_per_step + place))
        return StepData(tuple(collate(part) for part in parts), ())

    def sample(self, key: int) -> FrameBatch:
        """The run's picture of this number as a batch of one, with its noise and its dropout."""
        asked, drawn = (turn.parts[0] for turn in self.source.draw(key).turns)
        assert isinstance(asked, str)
        assert isinstance(drawn, Picture)
        dropped = bool(np.random.default_rng([self.seed, 4, key]).random() < self.config.drop_text)
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([self.seed, 3, key]).integers(2**63))
        )
        level = torch.randn(1, generator=generator)
        pixels = as_tensor(drawn.pixels)
        given = (Given(Role.CONTROL, pixels),) if self.shown else ()
        return FrameBatch(
            prompts=(Prompt(asked),),
            stacks=(Stack(self.size, self.size, given=given),),
            pixels=pixels[None, None],
            target=torch.empty(0),
            noise=torch.randn((1, *self.shape), generator=generator),
            level=level,
            drop_text=torch.tensor([dropped]),
            drop_media=torch.tensor([False]),
            weight=torch.ones(1),
        )


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
) -> StepDataset[FrameBatch]:
    """Pictures of an index, or of the emoji world where there is none; whole squares of the first resolution.
    `shown`: each picture is given as well, for what draws it again."""
    if index is None:
        return WorldPictures(world, config, shape, seed, rank, ranks, shown)
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
