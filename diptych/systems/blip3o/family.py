"""The family's record: all that the rest of the project knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.contracts import BlockModel, Job, Probe, System
from diptych.family import Family, Form, OpenSystem, Recipe
from diptych.files.folder import family_name
from diptych.settings import Settings
from diptych.systems.blip3o import NAME

if TYPE_CHECKING:
    import torch


def _recognises(folder: Path) -> bool:
    """A folder of ours, or a published one."""
    if family_name(folder) == NAME:
        return True
    from diptych.systems.blip3o.settings import is_published

    return is_published(folder)


def _load(
    folder: Path, open_system: OpenSystem, device: torch.device | str, dtype: torch.dtype | None = None
) -> System:
    from diptych.systems.blip3o.parts import load

    return load(folder, open_system, device, dtype)


def _settings(folder: Path, open_system: OpenSystem) -> Settings:
    from diptych.systems.blip3o.settings import read_settings

    return read_settings(folder, open_system)


def _config() -> type:
    from diptych.systems.blip3o.config import BlipTrainConfig

    return BlipTrainConfig


def _job(config: Any, folder: Path, open_system: OpenSystem) -> Job:
    from diptych.systems.blip3o.job import make_job

    return make_job(config, folder, open_system)


def _recipes() -> Mapping[str, Recipe]:
    from diptych.systems.blip3o.recipes import RECIPES

    return RECIPES


def _export(job: Job, about: dict[str, Any], out: Path) -> System:
    from diptych.systems.blip3o.job import BlipJob, export

    assert isinstance(job, BlipJob)
    return export(job, about, out)


def _probe(config: Any) -> Probe:
    from diptych.systems.blip3o.probe import probe

    return probe(config)


def _presets() -> Mapping[str, Callable[[], BlockModel]]:
    from diptych.models.feature_dit import PRESETS, FeatureDiT

    return {name: partial(FeatureDiT, config) for name, config in PRESETS.items()}


def _convert(source: Path, out: Path, form: str, open_system: OpenSystem) -> list[str]:
    from diptych.systems.blip3o.published import convert

    return convert(source, out, form, open_system)


FAMILY = Family(
    name=NAME,
    about="a language model that answers, a bridge, and a transformer that draws features or latents",
    recognises=_recognises,
    load=_load,
    settings=_settings,
    config=_config,
    job=_job,
    recipes=_recipes,
    export=_export,
    presets=_presets,
    probe=_probe,
    forms=(
        Form(name="diptych", about="our folder"),
        Form(name="blip3o", about="a folder as BLIP3-o is published"),
    ),
    convert=_convert,
)
