"""Carrying out plans."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.contracts import System
from diptych.data.pictures import open_picture, resize, save_picture
from diptych.inference.draw import draw
from diptych.planning import Limits, RulePlanner, settle
from diptych.request import (
    TASKS,
    Media,
    Message,
    Plan,
    Product,
    RequestError,
    Role,
    Task,
    parse_task,
)

SEEDS = 2**32
"""A fresh seed is below this."""


@dataclass(frozen=True, eq=False)
class Result:
    plan: Plan
    text: str = ""
    media: tuple[Media, ...] = ()
    """What was drawn, one for each seed."""

    @property
    def images(self) -> tuple[np.ndarray, ...]:
        """The pictures among it: uint8 RGB (height, width, 3) each."""
        return tuple(drawn.pixels for drawn in self.media if len(drawn.frames) == 1)

    def save(self, path: str | Path) -> list[Path]:
        """Write what was drawn: `path`, or path-0, path-1 ... for several."""
        paths = names(Path(path), len(self.media))
        for name, drawn in zip(paths, self.media, strict=True):
            save_picture(drawn.frames, name, drawn.fps)
        return paths


def names(path: Path, count: int) -> list[Path]:
    """Where so many pictures are written: `path`, or path-0, path-1 ... for several."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(count)]


class Pipeline:
    """A loaded model with its planner: what `diptych.load()` returns."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.planner = RulePlanner(system.native)

    @property
    def limits(self) -> Limits:
        sampler = self.system.sampler
        return Limits(
            width=self.system.native,
            height=self.system.native,
            max_side=self.system.max_side,
            round_size=self.system.space.round_size,
            steps=sampler.num_steps,
            guidance_scale=sampler.guidance_scale,
            image_guidance_scale=sampler.image_guidance_scale,
            tasks=self.system.capabilities,
            max_frames=self.system.max_frames,
            max_media=self.system.max_media,
            control=self.system.control,
        )

    def plan(self, request: str, pictures: int = 0, **overrides: Any) -> Plan:
        """What a request is understood as, settled; any field of the plan can be overridden.

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
        # a fresh seed where none is named: a fixed one would give every picture the same noise, and so much
        # the same background
        plan = self.planner.plan(
            request, pictures, None if task is None else parse_task(task), secrets.randbelow(SEEDS)
        )
        return settle(Plan.checked({**vars(plan), **overrides}), self.limits)

    def sized(self, plan: Plan, media: Sequence[Media]) -> tuple[Plan, list[Media]]:
        """An edit with the size of its source as the system reads it: tokens of both lie over one another,
        and what is not asked for stays in its place. A size that the plan names is given to the source. All
        other plans as they are.

        Raises RequestError for a size at which the system reads no picture.
        """
        media = list(media)
        if plan.task is not Task.EDIT:
            return plan, media
        place = plan.inputs.index(Role.SOURCE)
        height, width = self.system.fit(media[place].pixels).shape[:2]
        asked = (plan.width or width, plan.height or height)
        if asked != (width, height):
            # the other media are left alone: a system brings them to the size of what is drawn itself
            media[place] = Media.picture(resize(media[place].pixels, *asked), media[place].name)
            height, width = self.system.fit(media[place].pixels).shape[:2]
        if asked != (width, height):
            raise RequestError(
                f"this model cannot change a picture at {asked[0]}x{asked[1]}, which it reads at "
                f"{width}x{height}: ask for that size, or for none"
            )
        return replace(plan, width=width, height=height), media

    def run(
        self,
        request: str,
        images: Sequence[str | Path | np.ndarray] = (),
        on_step: Callable[[int], Any] | None = None,
        **overrides: Any,
    ) -> Result:
        """Carry out a request about or with pictures (files or uint8 arrays; one of four axes is a clip);
        overrides are fields of the plan."""
        media = [self.open(image) for image in images]
        return self.carry_out(self.plan(request, len(media), **overrides), media, on_step)

    def carry_out(
        self, plan: Plan, media: Sequence[Media] = (), on_step: Callable[[int], Any] | None = None
    ) -> Result:
        """Carry out a settled plan."""
        if TASKS[plan.task].makes is Product.TEXT:
            return Result(plan, text="".join(self.stream(plan, media)))
        plan, media = self.sized(plan, media)
        # a picture of several is that of its own seed, so that any one of them can be drawn again alone
        plans = [replace(plan, seed=plan.seed + i, count=1) for i in range(plan.count)]
        drawn = draw(self.system, plans, [media] * plan.count, on_step)
        return Result(plan, media=tuple(Media(frames) for frames in drawn))

    def stream(self, plan: Plan, media: Sequence[Media] = ()) -> Iterator[str]:
        """The answer of an 'answer' plan, piece by piece."""
        return self.system.answer([Message("user", plan.prompt, tuple(media))])

    @staticmethod
    def open(image: str | Path | np.ndarray) -> Media:
        """A file or a uint8 array (height, width, 3), or of a clip (frames, height, width, 3), as media.
        Raises PictureError or RequestError for what is none."""
        if isinstance(image, np.ndarray):
            return Media(image, "clip") if image.ndim == 4 else Media.picture(image)
        return Media.picture(open_picture(image), str(image))
