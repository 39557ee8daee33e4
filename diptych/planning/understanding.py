"""From a request and a model's settings to the plan that is carried out. No torch here: a plan is shown
before the model that carries it out is read."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.planning.normalise import settle
from diptych.planning.rules import RulePlanner
from diptych.request import TASKS, Media, Plan, RequestError, Role, parse_task
from diptych.settings import Settings

if TYPE_CHECKING:
    import numpy as np

SEEDS = 2**32
"""A fresh seed is below this."""


def understood(settings: Settings, request: str, pictures: int = 0, **overrides: Any) -> Plan:
    """What a request with `pictures` attached pictures is understood as, settled; any field of the plan can
    be overridden.

    Raises RequestError with one sentence where it cannot be carried out.
    """
    unknown = set(overrides) - set(Plan.__dataclass_fields__)
    if unknown:
        raise RequestError(
            f"a plan has no field {sorted(unknown)[0]!r}; it has {', '.join(Plan.__dataclass_fields__)}"
        )
    # the task goes to the planner: missing media and roles depend on it. All else overrules what was
    # understood
    task = overrides.pop("task", None)
    # a fresh seed where none is named: a fixed one would give every picture the same noise, and so much the
    # same background
    plan = RulePlanner(settings.native).plan(
        request, pictures, None if task is None else parse_task(task), secrets.randbelow(SEEDS)
    )
    return settle(Plan.checked({**vars(plan), **overrides}), settings)


def sized(settings: Settings, plan: Plan, media: Sequence[Media]) -> tuple[Plan, list[Media]]:
    """An edit, of a picture or a clip, with the size of its source as the model reads it: tokens of both lie
    over one another, and what is not asked for stays in its place. A size that the plan names is given to the
    source. All other plans as they are.

    Raises RequestError for a size at which the model reads no picture.
    """
    media = list(media)
    if not TASKS[plan.task].changes:
        return plan, media
    place = plan.inputs.index(Role.SOURCE)
    # all frames of a clip are of one size
    height, width = media[place].frames.shape[1:3]
    read = settings.read_size(width, height)
    asked = (plan.width or read[0], plan.height or read[1])
    if asked != read:
        import numpy as np

        from diptych.data.pictures import resize

        # the other media are left alone: a system brings them to the size of what is drawn itself
        frames = np.stack([resize(frame, *asked) for frame in media[place].frames])
        media[place] = replace(media[place], frames=frames)
        read = settings.read_size(*asked)
    if asked != read:
        raise RequestError(
            f"this model cannot change a source at {asked[0]}x{asked[1]}, which it reads at "
            f"{read[0]}x{read[1]}: ask for that size, or for none"
        )
    return replace(plan, width=read[0], height=read[1]), media


def opened(image: str | Path | np.ndarray) -> Media:
    """A file or a uint8 array (height, width, 3), or of a clip (frames, height, width, 3), as media. Raises
    PictureError or RequestError for what is none."""
    if not isinstance(image, (str, Path)):
        return Media(image, "clip") if image.ndim == 4 else Media.picture(image)
    # where nothing is attached, no decoder is loaded
    from diptych.data.pictures import open_picture

    return Media.picture(open_picture(image), str(image))
