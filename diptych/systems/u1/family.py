"""The family's record: all that the rest of the project knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.contracts import BlockModel, Job, Probe, System
from diptych.family import Family, Form, OpenSystem, Outline, Recipe
from diptych.files.folder import family_name
from diptych.settings import Settings
from diptych.systems.u1 import NAME, is_published

if TYPE_CHECKING:
    import torch


def _recognises(folder: Path) -> bool:
    """A folder of ours, or one as SenseNova-U1 is published."""
    return family_name(folder) == NAME or is_published(folder)


def _load(
    folder: Path, open_system: OpenSystem, device: torch.device | str, dtype: torch.dtype | None = None
) -> System:
    from diptych.systems.u1.system import U1System

    return U1System.load(folder, device, dtype)


def _outline(folder: Path) -> Outline:
    from diptych.models.meta import without_storage
    from diptych.models.mot import MoT
    from diptych.systems.u1.files import card, read_contents, stored_weights

    contents, _ = read_contents(folder)
    # files that are missing or of another model are told of here as well
    stored_weights(folder, contents.model)
    with without_storage():
        model = MoT(contents.model)
    return Outline(model=model, card=card(folder), native=contents.native, sampler=contents.flow.sampler)


def _settings(folder: Path, open_system: OpenSystem) -> Settings:
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
    from diptych.models.mot import MoT, u1_5_8b, u1_8b, u1_a3b

    return {config.__name__: partial(MoT, config()) for config in (u1_8b, u1_5_8b, u1_a3b)}


def _convert(source: Path, out: Path, form: str, open_system: OpenSystem, **options: Any) -> list[str]:
    from diptych.systems.u1.convert import convert

    return convert(source, out, form, **options)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a conversion takes besides."""

    lora: Path | None = None
    """LoRA file, of any style, that is merged into the model."""
    settings: Path | None = None
    """JSON file of how the model draws and answers, in place of its own settings: {"sampler": {"num_steps":
    8, "guidance_scale": 1.0}} for one distilled to 8 steps; {"conversation": {"system": {"draw": "...",
    "story": "..."}}} for other system texts. A published folder may have such a file itself,
    diptych.json."""


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
    outline=_outline,
    forms=(
        Form(name="diptych", about="our folder"),
        Form(name="u1", about="a folder as SenseNova-U1 is published"),
    ),
    options=ConvertOptions,
    convert=_convert,
)
