"""Carrying out plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.contracts import System
from diptych.data.pictures import names, save_picture
from diptych.inference.draw import check_media, draw
from diptych.planning import opened, sized, understood
from diptych.request import (
    TASKS,
    Media,
    Message,
    Plan,
    Product,
    Role,
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
        paths = names(Path(path), len(self.media))
        for name, drawn in zip(paths, self.media, strict=True):
            save_picture(drawn.frames, name, drawn.fps)
        return paths


class Pipeline:
    """A loaded model with its planner: what `diptych.load()` returns."""

    def __init__(self, system: System) -> None:
        self.system = system

    def plan(self, request: str, pictures: int = 0, **overrides: Any) -> Plan:
        """What a request is understood as, settled: see `planning.understood`."""
        return understood(self.system.settings, request, pictures, **overrides)

    def run(
        self,
        request: str,
        images: Sequence[str | Path | np.ndarray] = (),
        on_step: Callable[[int], Any] | None = None,
        **overrides: Any,
    ) -> Result:
        """Carry out a request about or with pictures (files or uint8 arrays; one of four axes is a clip);
        overrides are fields of the plan."""
        media = [opened(image) for image in images]
        return self.carry_out(self.plan(request, len(media), **overrides), media, on_step)

    def carry_out(
        self, plan: Plan, media: Sequence[Media] = (), on_step: Callable[[int], Any] | None = None
    ) -> Result:
        """Carry out a settled plan."""
        if TASKS[plan.task].makes is Product.TEXT:
            return Result(plan, text="".join(self.stream(plan, media)))
        plan, media = sized(self.system.settings, plan, media)
        # a picture of several is that of its own seed, so that any one of them can be drawn again alone
        plans = [replace(plan, seed=plan.seed + i, count=1) for i in range(plan.count)]
        drawn = draw(self.system, plans, [media] * plan.count, on_step)
        return Result(plan, media=tuple(Media(frames) for frames in drawn))

    def stream(self, plan: Plan, media: Sequence[Media] = ()) -> Iterator[str]:
        """The answer of an 'answer' plan, piece by piece, about the media that it does not leave unused.
        Raises RequestError for other media than the plan names."""
        check_media(plan, media)
        seen = [medium for medium, role in zip(media, plan.inputs, strict=True) if role is not Role.UNUSED]
        return self.system.answer([Message("user", plan.prompt, tuple(seen))])
