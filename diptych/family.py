"""What the rest of the project knows of a system: its family's record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from diptych.contracts import BlockModel, Job, Probe, System
from diptych.flow.config import SamplerConfig
from diptych.settings import Settings

if TYPE_CHECKING:
    import torch


class OpenSystem(Protocol):
    """Opens a model by 'default', folder or 'hf:owner/name', of any family: handed to a system that uses
    another."""

    def __call__(
        self, name: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> System: ...

    def settings(self, name: str | Path) -> Settings:
        """What the model can do, from its JSON alone."""
        ...


Recipe = Callable[..., Any]
"""Returns a run's config; its parameters are dials (size, depth), each with a default, that resolve to fields
of it. Its docstring is what `diptych train --help` says of it."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form on disk that a family's models are converted into and from."""

    name: str
    about: str
    of_files: bool = False
    """Whether single files are converted into it, and not folders alone."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A model that was not loaded."""

    model: BlockModel
    """Without storage."""
    card: dict[str, Any]
    native: int
    sampler: SamplerConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that the rest of the project knows of a system. The functions import what they need when they are
    called, so that a family costs nothing until it is used."""

    name: str
    about: str
    """One line, for listings."""
    recognises: Callable[[Path], bool]
    """Whether a folder, ours or published, holds a model of this family; looks at names and configs, loads no
    weights."""
    settings: Callable[[Path, OpenSystem], Settings]
    """Those of the model in a folder, from its JSON alone: torch is not loaded. Raises
    files.folder.ModelFolderError for a folder that is not whole."""
    load: Callable[[Path, OpenSystem, torch.device | str, torch.dtype | None], System]
    """With weights in a type, or as the family keeps them (None). Raises files.folder.ModelFolderError for a
    folder that is not whole."""
    config: Callable[[], type]
    """The dataclass of its runs' configs."""
    job: Callable[[Any, Path, OpenSystem], Job]
    """A job for a resolved config, in a run's folder. Raises ValueError for settings that contradict one
    another."""
    recipes: Callable[[], Mapping[str, Recipe]]
    """Full runs by name."""
    export: Callable[[Job, dict[str, Any], Path], System]
    """Write what a job has trained as a model folder, with a card."""
    probe: Callable[[Any], Probe] | None = None
    """For memory estimates of a run before it starts."""
    presets: Callable[[], Mapping[str, Callable[[], BlockModel]]] = dict
    """Published sizes by name; each makes its model, on torch's current device."""
    sources: Callable[[Mapping[str, Any]], frozenset[str]] = lambda card: frozenset()
    """Names of the sources that a model was trained on, by its card."""
    outline: Callable[[Path], Outline] | None = None
    """What a folder holds, where that can be told without loading its weights."""
    forms: tuple[Form, ...] = ()
    """What `convert` can write."""
    options: type | None = None
    """Dataclass of what `convert` takes besides; its fields are None unless given. Where several families
    have one of a name, it is one flag."""
    convert: Callable[..., list[str]] | None = None
    """convert(source, out, form, open_system, **options) -> what the target computes otherwise, in words."""


def named(families: Iterable[Family], name: str) -> Family:
    """Raises ValueError that lists what there is."""
    for family in families:
        if family.name == name:
            return family
    raise ValueError(f"there is no family {name!r}; families: {', '.join(f.name for f in families)}")
