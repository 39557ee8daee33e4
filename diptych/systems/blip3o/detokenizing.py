"""The job of a detokenizer: a linear DiT draws the latents of pictures from their features; see
`contracts.Job`."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.captioned.loader import PictureDataset
from diptych.data.frames import FrameBatch
from diptych.encoders.features import open_features
from diptych.flow import Objective
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.linear_dit import LinearDiT, LinearDiTConfig
from diptych.models.meta import without_storage
from diptych.spaces import load_space
from diptych.spaces.features import FeatureSpace, load_features, measured, save_facts
from diptych.systems.blip3o.config import BlipStage, BlipTrainConfig
from diptych.systems.blip3o.detokenize import DetokenizerSystem
from diptych.systems.blip3o.job import TOGETHER, BlipJob
from diptych.systems.blip3o.pictures import WorldPictures
from diptych.systems.blip3o.spaces import save_any
from diptych.training.tasks.generate import GenerateTask

FEATURES = "features"
"""In the run's folder: the statistics of the features, measured once."""
MEASURED, KEPT, SHOWN = 1024, 64, 12


class Learned(nn.Module):
    """All that the run may change."""

    def __init__(self, denoiser: LinearDiT) -> None:
        super().__init__()
        self.denoiser = denoiser


class DetokenizerJob(BlipJob):
    """Raises ValueError for an encoder and an autoencoder that do not go together with the pictures."""

    loss_names = ("flow",)
    shown = True
    model: Learned

    def __init__(self, config: BlipTrainConfig, folder: Path) -> None:
        super().__init__(config, folder)
        if not config.encoder or not config.space:
            raise ValueError(
                "a detokenizer needs the encoder that it draws from (--encoder), and the autoencoder "
                "that it draws in (--space)"
            )
        self.space = load_space(Path(config.space))
        self.features = self._measured(folder / FEATURES)
        linear = config.linear or LinearDiTConfig(depth=4, width=192, cross_heads=3)
        linear = replace(linear, channels=self.space.channels, caption_channels=self.features.channels)
        self.config = replace(config, linear=linear)
        with without_storage():
            self.model = Learned(LinearDiT(linear)).train()
        drawing: Any = DetokenizerSystem(self.model.denoiser, self.space, self.features, config.sampler)
        self.drawing = drawing
        self.flow = GenerateTask(drawing, config.law, Objective(), self.model)
        self.task = self.flow

    def _measured(self, kept: Path) -> FeatureSpace:
        """Features at zero mean and unit deviation, as measured when the run began. Raises ValueError for
        another encoder than that of the run."""
        encoder = open_features(Path(self.config.encoder))
        if (kept / "config.json").is_file():
            return load_features(kept, encoder)
        plain = FeatureSpace(encoder, self.config.side_vectors, self.config.side)
        return measured(plain, self._pictures())

    def _pictures(self) -> Iterator[Tensor]:
        """Pictures that are trained on, uint8 (P, 3, side, side)."""
        config = replace(self.config.data, pictures_per_step=TOGETHER, accumulate=1, workers=0)
        shape = self.space.shape
        data: Any
        if self.index is None:
            data = WorldPictures(self.config.world, config, shape, self.config.seed)
        else:
            config = replace(config, pictures_per_step=min(TOGETHER, len(self.index.rows)))
            data = PictureDataset(
                self.index, config, multiple=self.config.side, shape=shape, seed=self.config.seed
            )
        for step in range(MEASURED // TOGETHER):
            for batch in data[step].batches:
                yield batch.pixels[:, 0]

    @property
    def body(self) -> LinearDiT:
        return self.model.denoiser

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        return self.space.shape(width, height)

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.config.seed)
        for name, value in self.model.denoiser.starting_values(generator):
            yield f"denoiser.{name}", value.float()

    def describe(self, stage: BlipStage) -> str:
        count = sum(parameter.numel() for parameter in self.model.parameters())
        return f"a detokenizer of {count:,} parameters learns; encoder and autoencoder are frozen"

    def prepare(self, folder: Path) -> None:
        save_facts(self.features, folder / FEATURES)

    @functools.cached_property
    def _validation(self) -> list[FrameBatch]:
        return self.kept(KEPT)

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Velocity error on kept pictures at fixed noise."""
        errors: list[float] = []
        for batch in self._validation:
            batch = batch.to(device)
            sigma = self.config.law.sigma(batch.level)
            errors += self.flow.errors(batch, self.flow.clean(batch), sigma).tolist()
        return {"validation": sum(errors) / len(errors)} if errors else {}

    @torch.no_grad()
    def sample(self, path: Path | None) -> None:
        """Kept pictures, and beside each what was drawn from its features."""
        cells: list[Cell] = []
        for batch in self.kept(SHOWN):
            space = FeatureSpace(
                self.features.encoder,
                self.features.facts.side,
                self.features.native,
                self.features.mean,
                self.features.deviation,
                self.drawing.detokenizer(),
            )
            drawn = space.decode(space.encode(batch.pixels), seeds=range(len(batch)))
            for before, after, prompt in zip(batch.pixels, drawn, batch.prompts, strict=True):
                cells += [
                    Cell(before[0].permute(1, 2, 0).numpy(), "given"),
                    Cell(after[0].permute(1, 2, 0).numpy(), prompt.text),
                ]
        if path is not None:
            contact_sheet(cells[: 2 * SHOWN], path)

    def write(self, folder: Path, out: Path) -> None:
        """A space of features with encoder, statistics and detokenizer, for runs that draw in it."""
        features = self.features
        space = FeatureSpace(
            features.encoder,
            features.facts.side,
            features.native,
            features.mean,
            features.deviation,
            self.drawing.detokenizer(),
        )
        save_any(space, folder)
