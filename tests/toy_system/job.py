"""Training the toy: the same drawing task as every system's, over squares that it makes itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import Prompt, Stack
from diptych.data.frames import FrameBatch
from diptych.data.loader import StepData, StepDataset
from diptych.family import OpenSystem
from diptych.files.folder import card, locate, read_config
from diptych.files.typed import convert
from diptych.files.weights import open_weights
from diptych.flow import Objective
from diptych.inference.draw import draw
from diptych.inference.pipeline import Pipeline
from diptych.inference.sheet import Cell, contact_sheet
from diptych.surgery import add_lora, lora_values
from diptych.training.tasks.generate import GenerateTask

from .config import ToyStage, ToyTrainConfig
from .model import ToyConfig, ToyModel
from .settings import NAME
from .system import ToySystem

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220)}
DROPPED = 0.25
"""Share of the rows that are trained without their text."""


class Squares(StepDataset[FrameBatch]):
    """Square `number` is a pure function of it, whoever makes it."""

    workers = 0

    def __init__(self, config: ToyTrainConfig, rank: int, ranks: int) -> None:
        self.config, self.rank, self.ranks = config, rank, ranks

    def __getitem__(self, step: int) -> StepData[FrameBatch]:
        count = self.config.squares_per_step
        numbers = range(step * count, (step + 1) * count)[self.rank :: self.ranks]
        return StepData((self.batch(numbers),), ())

    def batch(self, numbers: range) -> FrameBatch:
        side, names = self.config.side, list(COLOURS)
        drawn = [np.random.default_rng([self.config.seed, number]) for number in numbers]
        words = [names[int(rng.integers(len(names)))] for rng in drawn]
        pixels = torch.stack([torch.tensor(COLOURS[word], dtype=torch.uint8) for word in words])
        noise = np.stack([rng.standard_normal((1, 3, side, side), dtype=np.float32) for rng in drawn])
        return FrameBatch(
            prompts=tuple(Prompt(word) for word in words),
            stacks=(Stack(side, side),) * len(words),
            pixels=pixels[:, None, :, None, None].expand(-1, 1, -1, side, side),
            target=torch.empty(0),
            noise=torch.from_numpy(noise),
            level=torch.tensor([float(rng.standard_normal()) for rng in drawn]),
            drop_text=torch.tensor([bool(rng.random() < DROPPED) for rng in drawn]),
            drop_media=torch.zeros(len(words), dtype=torch.bool),
            weight=torch.ones(len(words)),
        )


class ToyJob:
    family = NAME
    loss_names = GenerateTask.loss_names

    def __init__(self, config: ToyTrainConfig, folder: Path, open_system: OpenSystem) -> None:
        self.config, self.parent, self.start = config, None, None
        if config.start and not (folder / "checkpoints").is_dir():
            begun = locate(config.start)
            model = convert(ToyConfig, read_config(begun)["model"], str(begun))
            self.config = replace(config, model=model)
            self.parent, self.start = card(begun), open_weights(begun)
        with torch.device("meta"):
            self.model = ToyModel(self.config.model)
        if config.lora_rank:
            add_lora(self.model, config.lora_rank)
        self.task = GenerateTask(self.system({}), config.law, Objective())

    @property
    def body(self) -> ToyModel:
        return self.model

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        values: Iterator[tuple[str, Tensor]]
        if self.start is not None:
            values = iter(self.start.items())
        else:
            with torch.device("meta"):
                plain = ToyModel(self.config.model)
            values = plain.starting_values(torch.Generator().manual_seed(self.config.seed))
        return lora_values(self.model, values, self.config.seed) if self.config.lora_rank else values

    def optimiser_state(self) -> Mapping[str, Tensor]:
        return {}

    def totals(self, batch: FrameBatch) -> dict[str, float]:
        return {"flow": float(batch.weight.sum())}

    def loss_weights(self, stage: ToyStage) -> dict[str, float]:
        return {"flow": 1.0}

    def learns(self, name: str, stage: ToyStage) -> bool:
        return stage.trainable == "all" or "lora_" in name

    def dataset(self, stage: ToyStage, rank: int, ranks: int) -> Squares:
        return Squares(self.config, rank, ranks)

    def describe(self, stage: ToyStage) -> str:
        return f"{stage.trainable} learns"

    def prepare(self, folder: Path) -> None:
        pass

    def system(self, card: dict[str, Any]) -> ToySystem:
        return ToySystem(self.model, self.config.side, card)

    def sample(self, path: Path) -> None:
        pipeline = Pipeline(self.system({}))
        pictures = draw(pipeline.system, [pipeline.plan(f"a {word} square", seed=1) for word in COLOURS])
        contact_sheet([Cell(p[0], word) for p, word in zip(pictures, COLOURS, strict=True)], path)

    def validate(self, device: torch.device) -> dict[str, float]:
        return {}
