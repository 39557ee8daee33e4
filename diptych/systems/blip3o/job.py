"""The jobs of the family: what they share, which of them a config asks for, and how they are written; see
`contracts.Job`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.captioned.buckets import Bucket
from diptych.data.captioned.loader import Cache, PictureDataset, is_validation
from diptych.data.frames import FrameBatch, collate
from diptych.data.loader import StepDataset
from diptych.family import OpenSystem
from diptych.files import folder as model_folder
from diptych.files.lineage import data_of
from diptych.files.whole import whole_folder
from diptych.request import RequestError
from diptych.systems.blip3o import NAME
from diptych.systems.blip3o.config import AUTOENCODER, CONTRASTIVE, DETOKENIZER, BlipStage, BlipTrainConfig
from diptych.systems.blip3o.pictures import VALIDATION_SEED, Squares, WorldPictures, dataset, itself

WORLD = "emoji world: glyphs of Noto Color Emoji (SIL OFL 1.1), names from Unicode"
TOGETHER = 64
"""Kept pictures that are looked at together."""


class BlipJob(ABC):
    """What all of them share: pictures with captions, of an index or of the emoji world."""

    family = NAME
    loss_names: tuple[str, ...] = ()
    parent: dict[str, Any] | None = None
    model: nn.Module
    task: nn.Module
    cache: Cache | None = None
    shown = False
    """Whether each picture is given as well."""

    def __init__(self, config: BlipTrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.index = Squares(Path(config.pictures)) if config.pictures else None

    @abstractmethod
    def shape(self, width: int, height: int) -> tuple[int, ...]:
        """(1, C, H, W) of the noise of a picture."""

    @property
    def body(self) -> Any:
        return self.model

    @abstractmethod
    def starting_values(self) -> Iterator[tuple[str, Tensor]]: ...

    def optimiser_state(self) -> Mapping[str, Tensor]:
        return {}

    def totals(self, batch: FrameBatch) -> dict[str, float]:
        return dict.fromkeys(self.loss_names, float(batch.weight.sum()))

    def loss_weights(self, stage: BlipStage) -> dict[str, float]:
        return dict.fromkeys(self.loss_names, 1.0)

    def learns(self, name: str, stage: BlipStage) -> bool:
        return True

    def dataset(self, stage: BlipStage, rank: int, ranks: int) -> StepDataset[Any]:
        first = sum(s.steps for s in self.config.stages[: self.config.stages.index(stage)])
        return dataset(
            self.index,
            self.config.world,
            self.config.data,
            self.shape,
            seed=self.config.seed,
            rank=rank,
            ranks=ranks,
            cache=self.cache,
            first_step=first,
            shown=self.shown,
            edits=self.config.edits,
            lines=self.config.edit_lines,
        )

    @abstractmethod
    def describe(self, stage: BlipStage) -> str: ...

    def prepare(self, folder: Path) -> None:
        """Nothing that the config does not tell."""
        return

    def kept(self, count: int) -> list[FrameBatch]:
        """At most so many pictures that no run trains on, each with its own fixed noise, in batches."""
        config = replace(self.config.data, drop_text=0.0, pictures_per_step=1, accumulate=1, workers=0)
        rows: list[FrameBatch]
        if self.index is None:
            source = WorldPictures(
                self.config.world,
                config,
                self.shape,
                VALIDATION_SEED,
                shown=self.shown,
                edits=self.config.edits,
                lines=self.config.edit_lines,
            )
            rows = [source.sample(number) for number in range(count)]
        else:
            share = self.config.data.validation
            numbers = [n for n, row in enumerate(self.index.rows) if is_validation(row.sha256, share)][:count]
            pictures = PictureDataset(
                self.index,
                replace(config, validation=0.0),
                multiple=self.config.side,
                shape=self.shape,
                seed=self.config.seed,
                cache=self.cache,
                control=itself if self.shown else None,
            )
            bucket = Bucket(self.config.side, self.config.side)
            # beyond any key of training: noise that is never trained on
            rows = [pictures.sample(number, bucket, 0, 2**40 + number) for number in numbers]
        return [collate(rows[start : start + TOGETHER]) for start in range(0, len(rows), TOGETHER)]

    @abstractmethod
    def validate(self, device: torch.device) -> dict[str, float]: ...

    def sample(self, path: Path | None) -> None:
        """Nothing to draw."""
        return

    def system(self, card: dict[str, Any]) -> Any:
        raise RequestError(
            f"a run of {self.config.name} trains a part of a model, which draws nothing by itself"
        )

    @abstractmethod
    def write(self, folder: Path, out: Path) -> Any:
        """Write what was trained into a new folder, which will lie at `out`."""

    def card(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """What a card says of the run."""
        return {
            **about,
            "family": NAME,
            "pictures": about["steps"] * self.config.data.pictures_per_step,
            "data": data_of(about["parents"], [self.config.pictures or WORLD]),
            "licence": "that of the pictures and of the parents" if self.config.pictures else "Apache-2.0",
            "weights": "EMA" if self.config.ema else "trained",
        }


def make_job(config: BlipTrainConfig, folder: Path, open_system: OpenSystem) -> BlipJob:
    """The job that a config asks for. Raises ValueError for settings that contradict one another."""
    # each brings what it alone needs
    from diptych.systems.blip3o import towers

    if config.learns == CONTRASTIVE:
        return towers.ContrastJob(config, folder)
    if config.learns == AUTOENCODER:
        return towers.AutoencodeJob(config, folder)
    if config.learns == DETOKENIZER:
        from diptych.systems.blip3o.detokenizing import DetokenizerJob

        return DetokenizerJob(config, folder)
    from diptych.systems.blip3o.drawing_job import DrawingJob

    return DrawingJob(config, folder, open_system)


def export(job: BlipJob, about: dict[str, Any], out: Path) -> Any:
    """Write what a job has trained as a folder, with its card; returns the system that it holds, or None for
    a part of one."""
    with whole_folder(out) as folder:
        made = job.write(folder, out)
        model_folder.write_card(folder, job.card(about))
    return made
