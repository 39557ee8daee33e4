"""The family's record: all that the rest of the project knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.contracts import BlockModel, Job, Probe, System
from diptych.family import Family, Form, OpenSystem, Recipe
from diptych.files.folder import family_name
from diptych.files.typed import read_json
from diptych.settings import Settings
from diptych.systems.sana import INDEX, NAME

if TYPE_CHECKING:
    import torch


def _recognises(folder: Path) -> bool:
    """A folder of ours, or a pipeline of diffusers whose class is one of SANA's."""
    if family_name(folder) == NAME:
        return True
    try:
        values = read_json(folder / INDEX)
    except ValueError:
        return False
    return isinstance(values, dict) and str(values.get("_class_name")).startswith("Sana")


def _load(
    folder: Path, open_system: OpenSystem, device: torch.device | str, dtype: torch.dtype | None = None
) -> System:
    # diffusers and transformers come with it
    from diptych.systems.sana.system import SanaSystem

    return SanaSystem.load(folder, device, dtype)


def _settings(folder: Path, open_system: OpenSystem) -> Settings:
    from diptych.systems.sana.settings import read_settings

    return read_settings(folder)


def _config() -> type:
    from diptych.systems.sana.config import SanaTrainConfig

    return SanaTrainConfig


def _job(config: Any, folder: Path, open_system: OpenSystem) -> Job:
    from diptych.systems.sana.job import SanaJob

    return SanaJob(config, folder)


def _recipes() -> Mapping[str, Recipe]:
    from diptych.systems.sana.recipes import RECIPES

    return RECIPES


def _export(job: Job, about: dict[str, Any], out: Path) -> System:
    from diptych.systems.sana.job import SanaJob, export

    assert isinstance(job, SanaJob)
    return export(job, about, out)


def _probe(config: Any) -> Probe:
    from diptych.systems.sana.probe import probe

    return probe(config)


def _presets() -> Mapping[str, Callable[[], BlockModel]]:
    from diptych.models.linear_dit import PRESETS, LinearDiT

    return {name: partial(LinearDiT, config) for name, config in PRESETS.items()}


def _convert(
    source: Path,
    out: Path,
    form: str,
    open_system: OpenSystem,
    base: Path | None = None,
    cross_heads: int | None = None,
    lora: Path | None = None,
) -> list[str]:
    from diptych.systems.sana.convert import convert

    return convert(source, out, form, base, cross_heads, lora)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a conversion takes besides."""

    base: Path | None = None
    """Folder whose text encoder and autoencoder go with a native checkpoint, which holds the denoiser
    alone."""
    cross_heads: int | None = None
    """Heads of a native checkpoint's cross-attention, where its width is no published one."""
    lora: Path | None = None
    """LoRA file, of any style, that is merged into the model."""


FAMILY = Family(
    name=NAME,
    about="a linear diffusion transformer that draws from text in the latents of an autoencoder",
    recognises=_recognises,
    load=_load,
    settings=_settings,
    config=_config,
    job=_job,
    recipes=_recipes,
    export=_export,
    probe=_probe,
    presets=_presets,
    forms=(
        Form(name="diptych", about="our folder", of_files=True),
        Form(name="diffusers", about="a pipeline folder of diffusers", of_files=True),
        Form(name="sana", about="a native checkpoint: the denoiser alone", of_files=True),
        Form(name="lora-peft", about="a LoRA file, named as peft does", of_files=True),
        Form(name="lora-diffusers", about="a LoRA file, named as diffusers does", of_files=True),
        Form(name="lora-kohya", about="a LoRA file, named as kohya does", of_files=True),
    ),
    options=ConvertOptions,
    convert=_convert,
)
