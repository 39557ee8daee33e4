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
from diptych.request import TASKS, Media, Plan, RequestError, Role, Task, parse_task
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
    fresh = secrets.randbelow(SEEDS)
    plan = RulePlanner(settings.native, settings.free, settings.max_text).plan(
        request, pictures, None if task is None else parse_task(task), fresh
    )
    # an answer that always takes the likeliest word has none, and one that is drawn has one as pictures have
    if overrides.get("temperature"):
        plan = replace(plan, seed=fresh if plan.task is Task.ANSWER else plan.seed)
    return settle(Plan.checked({**vars(plan), **overrides}), settings)


def sized(settings: Settings, plan: Plan, media: Sequence[Media]) -> tuple[Plan, list[Media]]:
    """An edit, of a picture or a clip, with the size of its source as the model reads it: tokens of both lie
    over one another, and what is not asked for stays in its place. A size that the plan names is given to the
    source, or drawn as it is where the model changes pictures at any size. All other plans as they are.

    Raises RequestError for a size at which the model reads no picture.
    """
    media = list(media)
    if not TASKS[plan.task].changes:
        return plan, media
    place = plan.inputs.index(Role.SOURCE)
    # all frames of a clip are of one size
    height, width = media[place].frames.shape[1:3]
    read = settings.read_size(width, height, len(media))
    asked = (plan.width or read[0], plan.height or read[1])
    if settings.source is not None:
        if max(asked) > settings.max_side:
            # a long strip is read at a size that is drawn by no model
            raise RequestError(
                f"the picture is read at {asked[0]}x{asked[1]} px, and this model draws at most "
                f"{settings.max_side} px a side: name a size"
            )
        return replace(plan, width=asked[0], height=asked[1]), media
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


def attached(settings: Settings, plan: Plan, images: Sequence[str | Path | np.ndarray]) -> list[Media]:
    """What is attached to a request, for its roles: a clip may be asked about, where the model looks at
    clips; for all else, and of all else, the first frame of an animation is used. Raises RequestError for
    other media than the plan names, and as `opened`."""
    if len(images) != len(plan.inputs):
        raise RequestError(f"the plan names {len(plan.inputs)} attached media, but there are {len(images)}")
    pairs = zip(images, plan.inputs, strict=True)
    return [opened(image, settings.clip_frames * (role is Role.SUBJECT)) for image, role in pairs]


def opened(image: str | Path | np.ndarray, clip_frames: int = 0) -> Media:
    """A file or a uint8 array (height, width, 3), or of a clip (frames, height, width, 3), as media; of a
    clip in a file, at most so many frames. Raises PictureError or RequestError for what is none."""
    if not isinstance(image, (str, Path)):
        return Media(image, "clip") if image.ndim == 4 else Media.picture(image)
    # where nothing is attached, no decoder is loaded
    from diptych.data.clips import VIDEOS, is_clip, open_clip
    from diptych.data.pictures import open_picture

    if clip_frames and is_clip(Path(image)):
        return open_clip(Path(image), clip_frames)
    if Path(image).suffix.lower() in VIDEOS:
        raise RequestError(f"{image} is a clip by its name, and a picture is needed here")
    return Media.picture(open_picture(image), str(image))
