"""The family's record: all that the rest of the project knows of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from diptych.contracts import System
from diptych.family import Family, OpenSystem
from diptych.files.typed import read_json
from diptych.settings import Settings
from diptych.systems.wan import INDEX, NAME, PIPELINE

if TYPE_CHECKING:
    import torch


def _recognises(folder: Path) -> bool:
    try:
        values = read_json(folder / INDEX)
    except ValueError:
        return False
    return isinstance(values, dict) and values.get("_class_name") == PIPELINE


def _load(
    folder: Path, open_system: OpenSystem, device: torch.device | str, dtype: torch.dtype | None = None
) -> System:
    from diptych.systems.wan.system import WanSystem

    return WanSystem.load(folder, device, dtype)


def _settings(folder: Path, open_system: OpenSystem) -> Settings:
    from diptych.systems.wan.settings import read_published

    return read_published(folder).settings


def _config() -> type:
    from diptych.training.config import RunConfig

    return RunConfig


def _untrained(*_: Any) -> NoReturn:
    raise ValueError(f"models of the family {NAME} are drawn with and not trained")


FAMILY = Family(
    name=NAME,
    about="a published transformer that draws clips and pictures from text, masks, references and controls",
    recognises=_recognises,
    load=_load,
    settings=_settings,
    config=_config,
    job=_untrained,
    recipes=dict,
    export=_untrained,
)
