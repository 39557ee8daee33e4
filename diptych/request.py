"""What goes in and what was understood: messages, media, tasks and plans. No torch here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Task(StrEnum):
    ANSWER = "answer"
    TEXT_TO_IMAGE = "text-to-image"
    EDIT = "edit"


class Role(StrEnum):
    """What an attached picture is for."""

    SUBJECT = "subject"
    """A question is asked about it."""
    SOURCE = "source"
    """It is to be changed."""
    CONTROL = "control"
    """What is drawn follows it: edges, for a model that was trained on edges."""
    UNUSED = "unused"


class RequestError(ValueError):
    """A request that cannot be carried out; the message is one sentence that says what would be right."""


@dataclass(frozen=True, eq=False)
class Media:
    """A picture: uint8 RGB (height, width, 3), and the name under which messages speak of it."""

    pixels: np.ndarray
    name: str = "picture"


@dataclass(frozen=True, eq=False)
class Message:
    """One turn of a conversation."""

    role: str
    text: str
    media: tuple[Media, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was understood; every field can be overridden. None = the model's default, filled in when the plan
    is settled."""

    task: Task
    prompt: str
    inputs: tuple[Role, ...] = ()
    """Role of each attached picture, in order."""
    width: int | None = None
    height: int | None = None
    frames: int = 1
    count: int = 1
    """Pictures to draw, with seeds seed, seed + 1, ..."""
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    negative_prompt: str = ""
    confidence: float = 1.0
    """How sure the planner is of the task, 0..1."""
    missing: tuple[str, ...] = ()
    """What the request needs and does not have."""
    adjustments: tuple[str, ...] = field(default=())
    """What was changed to make the plan possible, in words."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def shown(self) -> dict[str, Any]:
        """The fields that say something, for printing."""
        silent = {
            "inputs": (),
            "missing": (),
            "adjustments": (),
            "negative_prompt": "",
            "frames": 1,
            "count": 1,
        }
        values = {k: v for k, v in asdict(self).items() if v is not None and silent.get(k, object()) != v}
        if self.task is Task.ANSWER:
            for key in ("width", "height", "seed", "steps", "guidance_scale", "image_guidance_scale"):
                values.pop(key, None)
        return values
