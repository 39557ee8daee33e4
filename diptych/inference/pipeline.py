"""Carrying out plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.contracts import System
from diptych.data.pictures import open_picture, save_picture
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
        path = Path(path)
        several = [path.with_stem(f"{path.stem}-{i}") for i in range(len(self.media))]
        names = [path] if len(self.media) == 1 else several
        for name, drawn in zip(names, self.media, strict=True):
            save_picture(drawn.frames, name, drawn.fps)
        return names


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
        plan = self.planner.plan(request, pictures, None if task is None else parse_task(task))
        return settle(replace(plan, **overrides), self.limits)

    def run(
        self,
        request: str,
        images: Sequence[str | Path | np.ndarray] = (),
        on_step: Callable[[int], Any] | None = None,
        **overrides: Any,
    ) -> Result:
        """Carry out a request about or with pictures (files or uint8 arrays); overrides are fields of the
        plan."""
        media = [self.open(image) for image in images]
        return self.carry_out(self.plan(request, len(media), **overrides), media, on_step)

    def carry_out(
        self, plan: Plan, media: Sequence[Media] = (), on_step: Callable[[int], Any] | None = None
    ) -> Result:
        """Carry out a settled plan."""
        if TASKS[plan.task].makes is Product.TEXT:
            return Result(plan, text="".join(self.stream(plan, media)))
        # an edit has the size of its source as the system reads it, whatever the plan says: tokens of both
        # lie over one another, and what is not asked for stays in its place
        if plan.task is Task.EDIT:
            source = media[plan.inputs.index(Role.SOURCE)]
            height, width = self.system.fit(source.pixels).shape[:2]
            plan = replace(plan, width=width, height=height)
        # a picture of several is that of its own seed, so that any one of them can be drawn again alone
        plans = [replace(plan, seed=plan.seed + i, count=1) for i in range(plan.count)]
        drawn = draw(self.system, plans, [media] * plan.count, on_step)
        return Result(plan, media=tuple(Media(frames) for frames in drawn))

    def stream(self, plan: Plan, media: Sequence[Media] = ()) -> Iterator[str]:
        """The answer of an 'answer' plan, piece by piece."""
        return self.system.answer([Message("user", plan.prompt, tuple(media))])

    @staticmethod
    def open(image: str | Path | np.ndarray) -> Media:
        """A file or a uint8 array as media. Raises PictureError or RequestError for what is no picture."""
        if isinstance(image, np.ndarray):
            return Media.picture(image)
        return Media.picture(open_picture(image), str(image))
