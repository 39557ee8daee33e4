"""Drawing plans: noise from their seeds, denoised in batches, to pictures and clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.clips import Accompanied, Holds
from diptych.contracts import Given, Prompt, Stack, System
from diptych.flow import interpolate, per_row, solver_of
from diptych.inference.guidance import Guidance
from diptych.request import TASKS, Media, Message, Plan, Product, RequestError, Role

BATCH = 32
"""Pictures denoised together; more only costs memory on a CPU."""


def draw(
    system: System,
    plans: Sequence[Plan],
    media: Sequence[Sequence[Media]] | None = None,
    on_step: Callable[[int], Any] | None = None,
    prompts: Sequence[Prompt] | None = None,
) -> list[np.ndarray]:
    """uint8 (frames, height, width, 3) for each settled plan (its own seed, count 1), with its media.
    `prompts`: the plans' words with turns before them and thoughts; unless given, the words alone.

    A picture depends on its plan alone, up to rounding, which may differ with the size of the batch: noise
    comes from the plan's seed, and rows of a batch do not see one another, whatever their steps, guidance and
    seeds. `on_step` is told the number of each step of a batch. Raises RequestError for what the system
    cannot read, ValueError for plans that are not settled.
    """
    stacks = [stack_of(plan, m) for plan, m in zip(plans, media or [()] * len(plans), strict=True)]
    if prompts is None:
        prompts = [prompt_of(plan) for plan in plans]
    # one condition holds rows of one size, with the same times and roles; steps, scales and seeds may differ
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, (prompt, stack) in enumerate(zip(prompts, stacks, strict=True)):
        roles = tuple(given.role for given in stack.given)
        key = (stack.width, stack.height, stack.times, roles, _shown(prompt, stack))
        groups.setdefault(key, []).append(index)
    drawn: dict[int, np.ndarray] = {}
    # where gradients are off already the mode is the caller's: tensors of inference mode cannot be gathered
    # by a sharded model that trains on afterwards
    with torch.inference_mode() if torch.is_grad_enabled() else nullcontext():
        for part in _parts(groups.values()):
            rows = [plans[i] for i in part]
            # on the CPU and one a row: a seed gives the same noise on every device and in every batch
            generators = [torch.Generator().manual_seed(plan.seed) for plan in rows]
            target = draw_targets(
                system, rows, [prompts[i] for i in part], [stacks[i] for i in part], generators, on_step
            )
            drawn |= zip(part, pixels_of(system, target, [plan.seed for plan in rows]), strict=True)
    return [drawn[index] for index in range(len(plans))]


def prompt_of(plan: Plan, history: Sequence[Message] = ()) -> Prompt:
    """The words of a plan, behind earlier turns."""
    return Prompt(plan.prompt, plan.negative_prompt, history=tuple(history))


def pixels_of(system: System, target: Tensor, seeds: Sequence[int]) -> list[np.ndarray]:
    """Targets (B, F, C, H, W) as uint8 (frames, height, width, 3) each."""
    decoded = system.space.decode(target, seeds)
    return [np.ascontiguousarray(frames) for frames in decoded.cpu().permute(0, 1, 3, 4, 2).numpy()]


def _shown(prompt: Prompt, stack: Stack) -> bool:
    """Whether there are pictures that one pass of guidance may be without."""
    return bool(stack.given) or prompt.begun is not None or any(turn.media for turn in prompt.history)


def _parts(groups: Iterable[list[int]]) -> Iterator[list[int]]:
    for indices in groups:
        for start in range(0, len(indices), BATCH):
            yield indices[start : start + BATCH]


def stack_of(plan: Plan, media: Sequence[Media]) -> Stack:
    """The frames that a settled plan stands for, with what its media show; every frame of a clip is one.

    Raises ValueError for a plan without a size, RequestError where its roles are not those of the media, or
    a clip stands where a picture is needed.
    """
    if not (plan.width and plan.height):
        raise ValueError("draw() takes settled plans: size, steps and guidance filled in")
    check_media(plan, media)
    times, given = [], []
    for place in plan.stack():
        if place.medium is None:
            times.append(place.time)
            continue
        medium = media[place.medium]
        # `pixels` is of a picture alone: a clip has no frame that could be meant
        still = TASKS[plan.task].makes is not Product.CLIP or place.role in (Role.FIRST, Role.LAST)
        for time, frame in enumerate(medium.pixels[None] if still else medium.frames, place.time):
            # torch.tensor copies: an array that may not be written to would only be lent with a warning
            given.append(Given(place.role, torch.tensor(frame).permute(2, 0, 1), time))
    return Stack(plan.width, plan.height, tuple(times), tuple(given))


def check_media(plan: Plan, media: Sequence[Media]) -> None:
    """Raises RequestError where there are not as many media as the plan has roles for."""
    if len(media) != len(plan.inputs):
        raise RequestError(f"the plan names {len(plan.inputs)} attached media, but there are {len(media)}")


def draw_targets(
    system: System,
    plans: Sequence[Plan],
    prompts: Sequence[Prompt],
    stacks: Sequence[Stack],
    generators: Sequence[torch.Generator],
    on_step: Callable[[int], Any] | None = None,
) -> Tensor:
    """Targets (B, F, C, H, W) of plans of one size and of the same roles; noise of each row comes from its
    generator, which goes on."""
    steps = [plan.steps or 0 for plan in plans]
    scales = [plan.guidance_scale for plan in plans if plan.guidance_scale is not None]
    image_scales = [plan.image_guidance_scale for plan in plans if plan.image_guidance_scale is not None]
    if not (all(steps) and len(scales) == len(image_scales) == len(plans)):
        raise ValueError("draw() takes settled plans: size, steps and guidance filled in")
    if system.embeds_guidance and any(plan.negative_prompt for plan in plans):
        raise RequestError(
            "this model has its guidance built in, so a negative prompt has no effect: leave it out"
        )
    condition = system.read(prompts, stacks)
    guidance = Guidance(system, condition, scales, image_scales, _shown(prompts[0], stacks[0]))
    frames, *shape = system.space.shape(stacks[0].width, stacks[0].height, len(stacks[0].times))
    beside = condition.beside if isinstance(condition, Accompanied) else 0
    # rows of fewer steps leave the batch early; each goes along the levels that it would have had alone
    solver = solver_of(system.sampler)
    points = [solver.points(number) for number in steps]
    rows = list(range(len(plans)))

    def noise(places: list[int]) -> Tensor:
        """Of the rows that are still drawn, by their places among them."""
        drawn = [torch.randn(beside + frames, *shape, generator=generators[rows[at]]) for at in places]
        return torch.stack(drawn).to(system.device)

    held = condition.held if isinstance(condition, Holds) else {}
    begun = noise(rows)
    x = begun * per_row(condition.scale, begun)
    finished: dict[int, Tensor] = {}
    for step in count():
        # float64 and on the CPU: levels decide which passes are computed, and must not wait for the device
        now, then = torch.tensor([points[row][step : step + 2] for row in rows], dtype=torch.float64).T
        x = solver.step(guidance, x, now, then, noise)
        for frame, target in held.items():
            # on its own straight path to what is given: the others see it as they were taught to
            path = target[rows][:, None], begun[rows, beside + frame][:, None]
            level = then.to(x)
            x[:, beside + frame] = interpolate(*path, level, condition.scale[rows])[:, 0]
        if on_step is not None:
            on_step(step)
        # `at` is a row's place in the batch as it is now, `row` its number among the plans
        going = [at for at, row in enumerate(rows) if step + 1 < steps[row]]
        if len(going) == len(rows):
            continue
        finished |= {row: x[at] for at, row in enumerate(rows) if step + 1 == steps[row]}
        if not going:
            break
        solver.rows(going)
        guidance.rows(going)
        rows, x = [rows[at] for at in going], x[going]
    return torch.stack([finished[row][beside:] for row in range(len(plans))])
