"""The family's record: all that the rest of the project knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.contracts import Job, System
from diptych.family import Family, OpenSystem, Recipe
from diptych.settings import Settings
from diptych.systems.unison import FILE, NAME

if TYPE_CHECKING:
    import torch


def _recognises(folder: Path) -> bool:
    return (folder / FILE).is_file()


def _load(
    folder: Path, open_system: OpenSystem, device: torch.device | str, dtype: torch.dtype | None = None
) -> System:
    from diptych.systems.unison.system import UnisonSystem

    return UnisonSystem.load(folder, open_system, device, dtype)


def _settings(folder: Path, open_system: OpenSystem) -> Settings:
    from diptych.systems.unison.settings import read_contents, settings_of

    return settings_of(folder, read_contents(folder), open_system)


def _config() -> type:
    from diptych.systems.unison.config import UnisonTrainConfig

    return UnisonTrainConfig


def _job(config: Any, folder: Path, open_system: OpenSystem) -> Job:
    from diptych.systems.unison.job import UnisonJob

    return UnisonJob(config, folder, open_system)


def _recipes() -> Mapping[str, Recipe]:
    from diptych.systems.unison.recipes import RECIPES

    return RECIPES


def _export(job: Job, about: dict[str, Any], out: Path) -> System:
    from diptych.systems.unison.job import UnisonJob, export

    assert isinstance(job, UnisonJob)
    return export(job, about, out)


FAMILY = Family(
    name=NAME,
    about="a language model that plans and answers, over models that draw",
    recognises=_recognises,
    load=_load,
    settings=_settings,
    config=_config,
    job=_job,
    recipes=_recipes,
    export=_export,
)
