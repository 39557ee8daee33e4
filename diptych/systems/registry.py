"""The only list of systems in the project: to add one is to add its folder and its line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.contracts import System
from diptych.family import Family, Outline, Recipe, named
from diptych.files.folder import DEFAULT, ModelFolderError, family_name, locate
from diptych.files.typed import convert, read_json
from diptych.settings import Settings
from diptych.systems.blip3o.family import FAMILY as BLIP3O
from diptych.systems.sana.family import FAMILY as SANA
from diptych.systems.u1.family import FAMILY as U1
from diptych.systems.unison.family import FAMILY as UNISON
from diptych.systems.wan.family import FAMILY as WAN

if TYPE_CHECKING:
    import torch

# asked in this order whether they recognise a folder; the first that does loads it
FAMILIES: tuple[Family, ...] = (U1, SANA, WAN, UNISON, BLIP3O)


def recognised(folder: Path) -> Family | None:
    """The family whose model a folder holds, ours or published; None for none that is known."""
    return next((family for family in FAMILIES if family.recognises(folder)), None)


def _family_of(folder: Path) -> Family:
    family = recognised(folder)
    if family is None:
        raise ModelFolderError(
            f"{folder} holds no model of a known family: its config names {family_name(folder)!r}, known are "
            f"{', '.join(f.name for f in FAMILIES)}"
        )
    return family


class _Opener:
    """See `family.OpenSystem`."""

    def __call__(
        self,
        name: str | Path = DEFAULT,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> System:
        """A model by 'default', folder or 'hf:owner/name', of any family; its weights in `dtype`, or as the
        family keeps them.

        Raises ModelFolderError for a folder that is not whole or of no known family.
        """
        folder = locate(name)
        family = _family_of(folder)
        # the opener is handed down, so that a system that uses another need not import the registry
        return family.load(folder, self, device, dtype)

    def settings(self, name: str | Path = DEFAULT) -> Settings:
        """What a model can do, without loading it or torch. Raises ModelFolderError as opening it does."""
        folder = locate(name)
        return _family_of(folder).settings(folder, self)


open_system = _Opener()
settings_of = open_system.settings


def outlined(name: str) -> tuple[Family, Outline] | None:
    """A model's outline, told without loading it; None where it has to be loaded. Raises as
    `open_system`."""
    folder = locate(name)
    family = recognised(folder)
    return None if family is None or family.outline is None else (family, family.outline(folder))


def open_ours(name: str, device: torch.device | str = "cpu") -> System | None:
    """As `open_system`; None for what is no folder of a known family here, such as one of the hub."""
    # one of the hub is not looked at, as that would download it
    if name != DEFAULT and not Path(name).is_dir():
        return None
    folder = locate(name)
    family = recognised(folder)
    return None if family is None else family.load(folder, open_system, device, None)


def sources_of(system: System) -> frozenset[str]:
    """Names of the sources that a model was trained on."""
    return named(FAMILIES, system.family).sources(system.card)


def recipes() -> dict[str, tuple[Family, Recipe]]:
    """Every recipe of every family by name."""
    return {name: (family, recipe) for family in FAMILIES for name, recipe in family.recipes().items()}


def read_run(run: Path) -> tuple[Family, Any]:
    """A run's family and its resolved config. Raises ValueError naming the file and the field that is
    wrong."""
    name, values = _run_values(run)
    try:
        family = named(FAMILIES, name)
    except ValueError as error:
        raise ValueError(f"{run / 'config.json'}: {error}") from error
    return family, convert(family.config(), values, str(run / "config.json"))


def _run_values(run: Path) -> tuple[str, Mapping[str, Any]]:
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"{run} is no run: it has no config.json")
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("family"), str):
        raise ValueError(f"{path} names no family, so it is no config of a run")
    # the trainer writes the name beside the config's own fields; left in, it would be an unknown one
    return values.pop("family"), values
