"""What a folder says of the models that plan and draw in it: `unison.json`, read without torch.

{"version": 1, "planner": "planner", "projector": "projector.safetensors",
 "generators": [{"model": "../wan", "projected": true}, {"model": "default", "tasks": ["text-to-image"]}]}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from diptych.family import OpenSystem
from diptych.files.folder import DEFAULT, HUB, ModelFolderError
from diptych.files.typed import read
from diptych.flow import SamplerConfig
from diptych.request import Task
from diptych.settings import Settings
from diptych.systems.unison import FILE

VERSION = 1
MAX_MEDIA, CLIP_FRAMES = 16, 4
"""Media that the planner is shown, and pictures of a clip that stand for it."""
MAX_TEXT = 8000


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A model that draws."""

    model: str
    """A folder, seen from the one of the file, 'default' or 'hf:owner/name'."""
    tasks: tuple[Task, ...] = ()
    """That it is handed; (): all that it can do. Of several generators the first one that is handed a task
    carries it out."""
    projected: bool = False
    """Whether the projector's tokens stand behind its text."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """unison.json."""

    version: int
    planner: str
    """Folder of a language model of transformers, seen from the one of the file."""
    projector: str = ""
    """File of the projector, safetensors or as published (.pth); '': none yet."""
    generators: tuple[Generator, ...] = ()

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version must be {VERSION}, got {self.version}")
        if not self.planner:
            raise ValueError("planner must name a folder")


def read_contents(folder: Path) -> Contents:
    """Raises ModelFolderError for a file that is missing or wrong."""
    try:
        return read(Contents, folder / FILE)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error


def located(folder: Path, name: str) -> str:
    """A model's name as an opener takes it. Raises ModelFolderError for a folder that is not there."""
    if name == DEFAULT or name.startswith(HUB):
        return name
    found = folder / name
    if not found.exists():
        raise ModelFolderError(f"{folder / FILE} names {name!r}, and {found} is not there")
    return str(found)


def handed(folder: Path, generator: Generator, can: Settings) -> frozenset[Task]:
    """The tasks of a generator. Raises ModelFolderError for one that its model does not do."""
    if unable := [task for task in generator.tasks if task not in can.tasks]:
        raise ModelFolderError(f"{folder / FILE}: {generator.model} cannot do {unable[0].value!r}")
    # questions are the planner's
    return frozenset(generator.tasks or can.tasks) - {Task.ANSWER}


def settings_of(folder: Path, contents: Contents, open_system: OpenSystem) -> Settings:
    """Of all models together, each task as the model can that carries it out."""
    parts: list[tuple[frozenset[Task], Settings]] = []
    for generator in contents.generators:
        name = located(folder, generator.model)
        if (Path(name) / FILE).is_file():
            raise ModelFolderError(
                f"{folder / FILE}: {generator.model} hands its own tasks on; name the models that draw"
            )
        can = open_system.settings(name)
        tasks = handed(folder, generator, can) - {task for before, _ in parts for task in before}
        parts.append((tasks, replace(can, tasks=tasks)))
    base = (
        parts[0][1]
        if parts
        else Settings(native=512, multiple=1, max_side=4096, tasks=frozenset(), sampler=SamplerConfig())
    )
    return replace(
        base,
        tasks=frozenset({Task.ANSWER}).union(*(tasks for tasks, _ in parts)),
        max_frames=max((part.max_frames for _, part in parts), default=1),
        max_media=MAX_MEDIA,
        free=True,
        max_text=MAX_TEXT,
        clip_frames=CLIP_FRAMES,
        plans=True,
        parts=tuple(parts),
    )
