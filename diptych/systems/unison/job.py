"""The Unison job: a planner through adapters, or a projector between a planner and a generator; see
`contracts.Job`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import System
from diptych.data.captioned.index import Index
from diptych.data.captioned.loader import PictureDataset
from diptych.data.loader import StepDataset
from diptych.family import OpenSystem
from diptych.files import folder as model_folder
from diptych.files.folder import locate
from diptych.files.lineage import data_of
from diptych.files.whole import whole_folder
from diptych.flow import Objective
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.meta import without_storage
from diptych.models.projector import Projector, ProjectorConfig
from diptych.request import Task
from diptych.systems.unison import FILE, NAME
from diptych.systems.unison.adapters import Adapters, grow_vocabulary
from diptych.systems.unison.config import UnisonStage, UnisonTrainConfig
from diptych.systems.unison.language import Language
from diptych.systems.unison.requests import PlanBatch, Requests, total, written
from diptych.systems.unison.settings import located, read_contents
from diptych.systems.unison.system import PLANNER, Projected, UnisonSystem, write_contents
from diptych.systems.unison.task import FLOW, TEXT, Learned, UnisonTask
from diptych.training import checkpoint
from diptych.training.tasks.generate import GenerateTask

START = "start"
"""In the run's folder: what the run started from; the models that it names stay where they are."""
VALIDATION, SHOWN = 64, 8
DATA = "planning data of Diptych"


class UnisonJob:
    """Raises ValueError for settings that contradict the folder that it starts from."""

    family = NAME
    loss_names: tuple[str, ...] = (TEXT, FLOW)

    def __init__(self, config: UnisonTrainConfig, folder: Path, open_system: OpenSystem) -> None:
        kept = folder / START
        if not kept.is_dir() and not config.start:
            raise ValueError("this recipe needs a model to start from (--start), a folder with " + FILE)
        self.source = kept if kept.is_dir() else locate(config.start)
        if not (self.source / FILE).is_file():
            raise ValueError(f"{self.source} has no {FILE}, so it is no model of the family {NAME}")
        self.config, self.contents = config, read_contents(self.source)
        new = checkpoint.latest_step(folder / "checkpoints") is None
        self.parent = model_folder.card(self.source) or {"name": self.source.name} if new else None
        self.open_system = open_system
        self._system = UnisonSystem(self.source, self.contents, open_system)
        self.language = self._system.language
        if config.plans:
            grow_vocabulary(self.language)
            self.model = Learned(Adapters(self.language, config.lora_rank), None)
            assert self.model.adapters is not None
            self.model.adapters.hang(self.language)
            self.flow = None
        else:
            self.generator, self.number = self._generator()
            self.start = self._system.projector
            with without_storage():
                self.model = Learned(None, Projector(self._sizes()).eval())
            assert self.model.projector is not None
            self.drawing = Projected(self.generator, self.language, self.model.projector)
            if not config.pictures:
                raise ValueError(
                    "this recipe needs --pictures, a folder that `diptych data index` was run on"
                )
            self.index = Index(Path(config.pictures))
            drawing: Any = self.drawing
            self.flow = GenerateTask(drawing, config.law, Objective(), self.model)
        self.task = UnisonTask(self.model, self.language, self.flow)

    def _generator(self) -> tuple[System, int]:
        """The generator whose text the projector joins."""
        numbers = [n for n, one in enumerate(self.contents.generators) if one.projected]
        if not numbers:
            raise ValueError(f"{self.source / FILE}: no generator is marked as projected")
        name = located(self.source, self.contents.generators[numbers[0]].model)
        return self.open_system(name), numbers[0]

    def _sizes(self) -> ProjectorConfig:
        if self.start is not None:
            return self.start.config
        config, reads = self.config, getattr(self.generator, "context_channels", 0)
        return ProjectorConfig(
            inputs=self.language.channels,
            hidden=config.hidden,
            outputs=reads or self.language.channels,
            positions=config.positions,
            tokens=config.tokens,
        )

    @property
    def body(self) -> Any:
        return self.model

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.config.seed)
        if self.model.adapters is not None:
            for name, value in self.model.adapters.starting_values(generator):
                yield f"adapters.{name}", value
        if self.model.projector is not None:
            known = None if self.start is None else self.start.state_dict().items()
            for name, value in known or self.model.projector.starting_values(generator):
                yield f"projector.{name}", value.float()

    def optimiser_state(self) -> Mapping[str, Tensor]:
        return {}

    def totals(self, batch: Any) -> dict[str, float]:
        if isinstance(batch, PlanBatch):
            return {TEXT: total(batch.rows), FLOW: 0.0}
        return {TEXT: 0.0, FLOW: float(batch.weight.sum())}

    def loss_weights(self, stage: UnisonStage) -> dict[str, float]:
        return {TEXT: 1.0, FLOW: 1.0}

    def learns(self, name: str, stage: UnisonStage) -> bool:
        return True

    def dataset(self, stage: UnisonStage, rank: int, ranks: int) -> StepDataset[Any]:
        config = self.config
        if self.flow is None:
            return Requests(
                self.language,
                per_step=config.requests_per_step,
                accumulate=config.accumulate,
                workers=config.workers,
                thumbnails=config.thumbnails,
                seed=config.seed,
                rank=rank,
                ranks=ranks,
            )
        first = sum(s.steps for s in config.stages[: config.stages.index(stage)])
        return PictureDataset(
            self.index,
            config.data,
            multiple=self.generator.settings.multiple,
            shape=self.generator.space.shape,
            seed=config.seed,
            rank=rank,
            ranks=ranks,
            first_step=first,
        )

    def describe(self, stage: UnisonStage) -> str:
        count = sum(parameter.numel() for parameter in self.model.parameters())
        what = "adapters and new tokens of the planner" if self.flow is None else "the projector alone"
        return f"{what}, {count:,} parameters; all else is frozen"

    def prepare(self, folder: Path) -> None:
        if self.source == folder / START:
            return
        with whole_folder(folder / START) as aside:
            write_contents(aside, self.contents, self.source, self._system.projector, folder / START)

    @functools.cached_property
    def _kept(self) -> list[Any]:
        """Requests of families that are never trained on."""
        config = self.config
        return [
            written(self.language, config.seed, number, config.thumbnails, "held-out")
            for number in range(VALIDATION)
        ]

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """The loss of a token of plans whose wordings are held out; nothing for the projector, whose pictures
        are shown."""
        if self.flow is not None:
            return {}
        sums = sum(float(self.task.loss(row)) for row in self._kept)
        return {"validation": sums / total(self._kept)}

    def sample(self, path: Path | None) -> None:
        if self.flow is None:
            return
        captions = [row.captions[0] for row in self.index.rows[:SHOWN]]
        drawing: Any = self.drawing
        pipeline = Pipeline(drawing)
        side = min(self.config.data.resolutions)
        plans = [
            pipeline.plan(text, task=Task.TEXT_TO_IMAGE, seed=1, width=side, height=side) for text in captions
        ]
        pictures: list[np.ndarray] = [frames[0] for frames in draw(drawing, plans)]
        if path is not None:
            contact_sheet([Cell(p, text) for p, text in zip(pictures, captions, strict=True)], path)

    def system(self, card: dict[str, Any]) -> UnisonSystem:
        system = UnisonSystem(self.source, self.contents, self.open_system, card=card)
        # what has learnt, in place of what the folder holds
        vars(system)["language"] = self.language
        if self.model.projector is not None:
            vars(system)["projector"] = self.model.projector
        return system


def export(job: UnisonJob, about: dict[str, Any], out: Path) -> UnisonSystem:
    """Write what a job has trained as a model folder: a planner whole, with what was learnt added to its
    weights, or the projector, beside models that stay where they are."""
    own = [DATA] if job.flow is None else [job.config.pictures]
    card = {
        **about,
        "family": NAME,
        "data": data_of(about["parents"], own),
        "licence": "that of the models that it names",
        "weights": "EMA" if job.config.ema else "trained",
    }
    with whole_folder(out) as folder:
        learned = job.model.projector
        if job.model.adapters is not None:
            name = located(job.source, job.contents.planner)
            language = Language.load(locate(name))
            grow_vocabulary(language)
            job.model.adapters.merge_into(language)
            language.save(folder / PLANNER)
            learned = job._system.projector
        write_contents(folder, job.contents, job.source, learned, out)
        model_folder.write_card(folder, card)
    return UnisonSystem.load(out, job.open_system)
