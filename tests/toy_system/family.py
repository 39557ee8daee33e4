"""The toy's record: what one line in the registry brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diptych.contracts import Job, Probe, System
from diptych.family import Family, OpenSystem
from diptych.files.folder import family_name
from diptych.surgery import merge_lora

from .config import ToyTrainConfig, toy
from .job import Squares, ToyJob
from .model import ToyModel
from .settings import NAME, read_settings
from .system import ToySystem


def recognises(folder: Path) -> bool:
    return family_name(folder) == NAME


def load(
    folder: Path, open_system: OpenSystem, device: torch.device | str, dtype: torch.dtype | None = None
) -> System:
    return ToySystem.load(folder, device)


def job(config: ToyTrainConfig, folder: Path, open_system: OpenSystem) -> Job:
    return ToyJob(config, folder, open_system)


def export(job: ToyJob, card: dict[str, Any], out: Path) -> System:
    system = job.system({**card, "family": NAME, "licence": "none", "data": "squares", "weights": "EMA"})
    system.model = merge_lora(system.model)
    system.save(out)
    return system


def probe(config: ToyTrainConfig) -> Probe:
    model = ToyModel(config.model)
    batch = Squares(config, 0, 1).batch(range(config.squares_per_step))
    tokens = config.squares_per_step * (config.side // config.model.patch) ** 2

    def forward() -> torch.Tensor:
        text = torch.zeros(len(batch), config.model.width)
        return model(torch.empty(batch.noise.shape), batch.level[:, None], text).square().mean()

    return Probe(model, model, forward, tokens * config.model.width)


FAMILY = Family(
    name=NAME,
    about="squares in plain colours",
    recognises=recognises,
    load=load,
    settings=lambda folder, open_system: read_settings(folder),
    config=lambda: ToyTrainConfig,
    job=job,
    recipes=lambda: {"toy": toy},
    export=export,
    probe=probe,
)
