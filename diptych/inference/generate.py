"""Carrying out plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.data.pictures import open_picture
from diptych.flow import solve
from diptych.planning import Limits, RulePlanner, settle
from diptych.request import Media, Message, Plan, RequestError, Role, Task
from diptych.systems import System

BATCH = 32
"""Pictures denoised together; more only costs memory on a CPU."""


@dataclass(frozen=True, eq=False)
class Result:
    plan: Plan
    text: str = ""
    images: tuple[np.ndarray, ...] = ()
    """uint8 RGB (height, width, 3) each."""

    def save(self, path: str | Path) -> list[Path]:
        """Write the pictures: `path`, or path-0, path-1 ... for several."""
        from PIL import Image

        path = Path(path)
        names = (
            [path]
            if len(self.images) == 1
            else [path.with_stem(f"{path.stem}-{i}") for i in range(len(self.images))]
        )
        for name, pixels in zip(names, self.images, strict=True):
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(name)
        return names


def draw(
    system: System,
    plans: Sequence[Plan],
    media: Sequence[Sequence[Media]] | None = None,
    on_step: Callable[[int], Any] | None = None,
) -> list[np.ndarray]:
    """One picture for each settled plan (its own seed, count 1), batched by size, steps and guidance.

    A picture depends on its plan alone: noise comes from the plan's seed, whatever else is in the batch.
    """
    media = media or [()] * len(plans)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, plan in enumerate(plans):
        has_pictures = any(role in (Role.SOURCE, Role.CONTROL) for role in plan.inputs)
        key = (
            plan.width,
            plan.height,
            plan.steps,
            plan.guidance_scale,
            plan.image_guidance_scale,
            has_pictures,
        )
        groups.setdefault(key, []).append(index)
    pictures: list[np.ndarray | None] = [None] * len(plans)
    for indices in groups.values():
        for start in range(0, len(indices), BATCH):
            part = indices[start : start + BATCH]
            drawn = _draw_batch(system, [plans[i] for i in part], [media[i] for i in part], on_step)
            for index, pixels in zip(part, drawn, strict=True):
                pictures[index] = pixels
    return [p for p in pictures if p is not None]


def _draw_batch(
    system: System, plans: list[Plan], media: list[Sequence[Media]], on_step: Callable[[int], Any] | None
) -> list[np.ndarray]:
    first = plans[0]
    if not (first.width and first.height and first.steps):
        raise ValueError("draw() takes settled plans: size and steps filled in")
    condition = system.condition(plans, media)
    shape = system.space.shape(first.width, first.height)[1:]
    generators = [torch.Generator().manual_seed(plan.seed) for plan in plans]

    def noise() -> torch.Tensor:
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(
            system.device
        )

    with torch.inference_mode():
        x = solve(
            system.sampler,
            lambda x, s: system.velocity(x, s, condition),
            noise() * condition.scale,
            first.steps,
            noise,
            (lambda i, _: on_step(i)) if on_step else None,
        )
        decoded = system.space.decode(x)
    return [np.ascontiguousarray(p) for p in decoded.cpu().permute(0, 2, 3, 1).numpy()]


def _as_task(task: str | None) -> Task | None:
    if task is not None and task not in list(Task):
        raise RequestError(f"there is no task {task!r}; tasks: {', '.join(Task)}")
    return None if task is None else Task(task)


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
        plan = self.planner.plan(request, pictures, _as_task(overrides.pop("task", None)))
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
        if plan.task is Task.ANSWER:
            return Result(plan, text="".join(self.stream(plan, media)))
        if plan.task is Task.EDIT:
            height, width = self.system.fit(media[0].pixels).shape[:2]
            plan = replace(plan, width=width, height=height)
        plans = [replace(plan, seed=plan.seed + i, count=1) for i in range(plan.count)]
        return Result(plan, images=tuple(draw(self.system, plans, [media] * plan.count, on_step)))

    def stream(self, plan: Plan, media: Sequence[Media] = ()) -> Iterator[str]:
        """The answer of an 'answer' plan, piece by piece."""
        return self.system.answer([Message("user", plan.prompt, tuple(media))])

    @staticmethod
    def open(image: str | Path | np.ndarray) -> Media:
        """A file or a uint8 array as media. Raises PictureError or RequestError for what is no picture."""
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise RequestError(
                    f"a picture must be uint8 (height, width, 3), got {image.dtype} {image.shape}"
                )
            return Media(image)
        return Media(open_picture(image), str(image))
