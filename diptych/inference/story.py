"""Answers of text and pictures in turn: the system writes until it wants a picture, the engine draws it, and
the system goes on behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from typing import Any

import torch

from diptych.contracts import System
from diptych.inference.converse import Converses, limits_of
from diptych.inference.draw import draw_targets, pixels_of, prompt_of, stack_of
from diptych.request import Media, Message, Plan, RequestError


def tell(
    system: System,
    plan: Plan,
    media: Sequence[Media] = (),
    history: Sequence[Message] = (),
    on_step: Callable[[int], Any] | None = None,
) -> Iterator[str | Media]:
    """An answer piece by piece: text as it is written, pictures as they are drawn.

    It ends where the model says that all is said, at the limit of tokens of all its text, at a stop string,
    and where it wants a picture more than `Settings.story_pictures`. Noise of all pictures comes from one
    generator, seeded by the plan, in their order (SenseNova-U1). Raises RequestError for a system that draws
    no pictures within its answers.
    """
    settings = system.settings
    if not (isinstance(system, Converses) and settings.story_pictures):
        raise RequestError("this model draws no pictures within its answers")
    # what is told is the beginning of what is told next, for every pass of guidance too
    system = system.telling()
    generator, limits = torch.Generator().manual_seed(plan.seed), limits_of(plan)
    prompt = replace(prompt_of(plan, history), begun=(), think=plan.think)
    left = limits.max_tokens or settings.story_tokens
    for number in count():
        sized = _sized(plan, number)
        stack = stack_of(sized, media)
        # another seed for each stretch: drawn with one, all would take the same turns
        stretch = replace(limits, max_tokens=left, seed=limits.seed + number)
        passage = yield from system.passage(prompt, stack, stretch)
        left -= len(passage.written.ids)
        if passage.ended != "picture" or number == settings.story_pictures:
            return
        prompt = replace(prompt, begun=(*(prompt.begun or ()), passage.written))
        with torch.inference_mode() if torch.is_grad_enabled() else nullcontext():
            target = draw_targets(system, [sized], [prompt], [stack], [generator], on_step)
        (frames,) = pixels_of(system, target, [plan.seed])
        yield Media(frames)
        prompt = replace(prompt, begun=(*(prompt.begun or ()), system.seen(target[0])))


def _sized(plan: Plan, number: int) -> Plan:
    """The plan with the size of its picture of this number."""
    if not plan.sizes:
        return plan
    width, height = plan.sizes[min(number, len(plan.sizes) - 1)]
    return replace(plan, width=width, height=height)
