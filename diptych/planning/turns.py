"""A request that goes on from the one before: the step before, with what is said anew. No torch here."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from diptych.planning.schema import Step

_SETTINGS = ("width", "height", "aspect", "resolution", "seconds", "fps", "frames", "steps", "guidance_scale")
# what a new value of one field makes void: a new shape is not drawn at the old size
_VOID = {
    "width": ("aspect", "resolution"),
    "height": ("aspect", "resolution"),
    "aspect": ("width", "height"),
    "resolution": ("width", "height"),
    "seconds": ("frames",),
    "frames": ("seconds",),
}
_CHINESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def continued(before: Step, said: Step) -> Step:
    """The step before, drawn again with the words and settings of `said`. Where nothing is said its seed is
    not kept: it would draw what is there already."""
    # what it was made of belongs to its own request: such a step lacks its media here
    changed: dict[str, Any] = {"inputs": ()}
    new = said.prompt or said.negative_prompt or any(getattr(said, name) is not None for name in _SETTINGS)
    if said.seed is not None or not new:
        changed["seed"] = said.seed
    for name in (*_SETTINGS, "count"):
        if (value := getattr(said, name)) is not None:
            changed |= {void: None for void in _VOID.get(name, ()) if getattr(said, void) is None}
            changed[name] = value
    if said.negative_prompt:
        changed["negative_prompt"] = ", ".join(t for t in (before.negative_prompt, said.negative_prompt) if t)
    if said.prompt:
        touching = _CHINESE.match(said.prompt) and _CHINESE.match(before.prompt[-1:])
        changed["prompt"] = (
            before.prompt + ("，" if touching else " ") + said.prompt if before.prompt else said.prompt
        )
    return replace(before, **changed)
