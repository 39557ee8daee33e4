"""The family's record: all that the rest of the project knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.contracts import BlockModel, Family, Job, OpenSystem, Probe, Recipe, System
from diptych.files.folder import family_name
from diptych.settings import Settings
from diptych.systems.u1 import NAME

if TYPE_CHECKING:
    import torch


def _recognises(folder: Path) -> bool:
    return family_name(folder) == NAME


def _load(folder: Path, open_system: OpenSystem, device: torch.device | str) -> System:
    from diptych.systems.u1.system import U1System

    return U1System.load(folder, device)


def _settings(folder: Path) -> Settings:
    from diptych.systems.u1.settings import read_settings

    return read_settings(folder)


def _config() -> type:
    from diptych.systems.u1.config import TrainConfig

    return TrainConfig


def _job(config: Any, folder: Path, open_system: OpenSystem) -> Job:
    from diptych.systems.u1.job import make_job

    return make_job(config, folder, open_system)


def _recipes() -> Mapping[str, Recipe]:
    from diptych.systems.u1.recipes import RECIPES

    return RECIPES


def _export(job: Job, about: dict[str, Any], out: Path) -> System:
    from diptych.systems.u1.job import JointJob, export

    assert isinstance(job, JointJob)
    return export(job, about, out)


def _sources(card: Mapping[str, Any]) -> frozenset[str]:
    recipe = card.get("recipe", {})
    # a mixture of the run's own stands instead of every stage's
    own = recipe.get("mixture")
    mixtures = [own] if own else [stage.get("mixture") for stage in recipe.get("stages", [])]
    return frozenset(name for mixture in mixtures for name, share in (mixture or {}).items() if share)


def _probe(config: Any) -> Probe:
    from diptych.systems.u1.probe import probe

    return probe(config)


def _presets() -> Mapping[str, Callable[[], BlockModel]]:
    from diptych.models.mot import MoT, u1_8b, u1_a3b

    return {"u1_8b": partial(MoT, u1_8b()), "u1_a3b": partial(MoT, u1_a3b())}


FAMILY = Family(
    name=NAME,
    about="one mixture of transformers that answers, draws and edits, from pixels to pixels",
    recognises=_recognises,
    load=_load,
    settings=_settings,
    config=_config,
    job=_job,
    recipes=_recipes,
    export=_export,
    probe=_probe,
    sources=_sources,
    presets=_presets,
)
