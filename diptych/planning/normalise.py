"""From what was asked to what can be done: defaults filled in, sizes rounded, every adjustment told."""

from __future__ import annotations

from dataclasses import replace

from diptych.request import TASKS, Plan, Product, RequestError, Role, Task, check_roles, check_text
from diptych.settings import Settings

MAX_COUNT = 64
MAX_STEPS = 1000
MAX_TOKENS = 131_072
"""Of what is written."""
MAX_TEMPERATURE = 100.0


def settle(plan: Plan, settings: Settings) -> Plan:
    """Fill in, round and check a plan. Raises RequestError, one sentence, for what is impossible or
    contradicts itself."""
    if plan.missing:
        raise RequestError(f"the request needs {' and '.join(plan.missing)}")
    # before the task is judged: an attached picture may make it another task
    if plan.task is Task.TEXT_TO_IMAGE and plan.inputs:
        plan = _attached(plan, settings)
    if plan.task not in settings.tasks:
        raise RequestError(
            f"this model cannot do {plan.task.value!r}; it can do {', '.join(sorted(settings.tasks))}"
        )
    if not plan.prompt.strip():
        raise RequestError("the request is empty: say what to draw, to answer or to change")
    texts = [("request", plan.prompt), ("negative_prompt", plan.negative_prompt)]
    for what, text in (*texts, *(("stop text", text) for text in plan.stop)):
        if len(text) > settings.max_text:
            raise RequestError(
                f"the {what} has {len(text)} characters, more than the {settings.max_text} that are read"
            )
        check_text(what, text)
    used = sum(role is not Role.UNUSED for role in plan.inputs)
    if used > settings.max_media:
        most = {0: "none", 1: "1; attach one"}.get(settings.max_media, f"{settings.max_media} at most")
        raise RequestError(f"{used} pictures are attached, but this model looks at {most}")
    check_roles(plan.task, plan.inputs)
    _check_thoughts(plan, settings)
    _check_writing(plan)
    if not 0 <= plan.seed < 2**63:
        raise RequestError(f"seed must be 0 or more and below 2^63, got {plan.seed}")
    if TASKS[plan.task].makes is Product.TEXT:
        return plan
    _check_numbers(plan, settings)
    changes = TASKS[plan.task].changes
    if changes and (plan.width is None) != (plan.height is None):
        raise RequestError("an edit has the size of its source: give both width and height, or neither")
    if changes and plan.width is None and plan.height is None:
        # the size of its source, which is not known here
        return _filled(plan, settings)
    width, height = plan.width or settings.native, plan.height or settings.native
    rounded = settings.round_size(width, height)
    notes = list(plan.adjustments)
    # told and not refused: the request is plain words, and sizes are multiples only for the model's sake
    if rounded != (width, height):
        notes.append(f"size {width}x{height} -> {rounded[0]}x{rounded[1]} (what the model's tokens allow)")
    sizes = tuple(settings.round_size(*size) for size in plan.sizes)
    notes += [
        f"size {a[0]}x{a[1]} -> {b[0]}x{b[1]} (what the model's tokens allow)"
        for a, b in zip(plan.sizes, sizes, strict=True)
        if a != b
    ]
    settled = replace(plan, width=rounded[0], height=rounded[1], sizes=sizes, adjustments=tuple(notes))
    return _filled(settled, settings)


def _filled(plan: Plan, settings: Settings) -> Plan:
    """With the system's steps and scales where the plan has none."""
    sampler, scale, image_scale = settings.sampler, plan.guidance_scale, plan.image_guidance_scale
    return replace(
        plan,
        # None and not falsy: a guidance scale of 0 is a wish
        steps=sampler.num_steps if plan.steps is None else plan.steps,
        guidance_scale=sampler.guidance_scale if scale is None else scale,
        image_guidance_scale=sampler.image_guidance_scale if image_scale is None else image_scale,
    )


def _attached(plan: Plan, settings: Settings) -> Plan:
    """Media attached to a drawing: the control picture for a system that draws along one, else unused, which
    is told."""
    asked = Role.CONTROL in plan.inputs
    if Task.CONTROL_TO_IMAGE not in settings.tasks:
        if asked:
            raise RequestError("this model does not draw along an attached picture")
        return _noted(plan, "the attached picture is not used: the request asks for a new one")
    if len(plan.inputs) > 1:
        raise RequestError(
            f"{len(plan.inputs)} pictures are attached, but this model draws along one ({settings.control})"
        )
    followed = replace(plan, task=Task.CONTROL_TO_IMAGE, inputs=(Role.CONTROL,))
    if asked:
        return followed
    return _noted(followed, f"the attached picture is taken as the control picture ({settings.control})")


def _noted(plan: Plan, note: str) -> Plan:
    """Told once, however often a plan is settled."""
    return plan if note in plan.adjustments else replace(plan, adjustments=(*plan.adjustments, note))


def _check_thoughts(plan: Plan, settings: Settings) -> None:
    if plan.think and not settings.think_tokens:
        raise RequestError("this model was not taught to think before it draws: leave out think")
    if plan.think and TASKS[plan.task].makes is Product.TEXT:
        raise RequestError(f"think has no effect on {plan.task.value!r}: it is for what is drawn")
    if plan.think_tokens is not None and not plan.think:
        raise RequestError("think_tokens has no effect without think: give both, or neither")
    if plan.think_tokens is not None and not 1 <= plan.think_tokens <= settings.think_tokens:
        raise RequestError(f"think_tokens must be 1 to {settings.think_tokens}, got {plan.think_tokens}")


def _check_writing(plan: Plan) -> None:
    plain = {"max_tokens": None, "temperature": 0.0, "top_p": 1.0, "stop": ()}
    given = [name for name, value in plain.items() if getattr(plan, name) != value]
    if given and not TASKS[plan.task].writes:
        raise RequestError(f"{given[0]} has no effect on {plan.task.value!r}: leave it out")
    if plan.max_tokens is not None and not 1 <= plan.max_tokens <= MAX_TOKENS:
        raise RequestError(f"max_tokens must be 1 to {MAX_TOKENS}, got {plan.max_tokens}")
    if not 0 <= plan.temperature <= MAX_TEMPERATURE:
        raise RequestError(f"temperature must be 0 to {MAX_TEMPERATURE:g}, got {plan.temperature}")
    if not 0 < plan.top_p <= 1:
        raise RequestError(f"top_p must be above 0 and at most 1, got {plan.top_p}")
    if plan.top_p < 1 and not plan.temperature:
        raise RequestError("top_p has no effect where temperature is 0: give a temperature above it")
    if "" in plan.stop:
        raise RequestError("stop holds an empty text, before which all ends: leave it out")


def _check_numbers(plan: Plan, settings: Settings) -> None:
    sides = [("width", plan.width), ("height", plan.height)]
    sides += [("a side of sizes", side) for size in plan.sizes for side in size]
    for name, side in sides:
        if side is not None and not 1 <= side <= settings.max_side:
            raise RequestError(f"{name} must be 1 to {settings.max_side} px, got {side}")
    if TASKS[plan.task].makes is not Product.CLIP and plan.frames != 1:
        raise RequestError(f"frames must be 1, got {plan.frames}: {plan.task.value!r} draws single pictures")
    if not 1 <= plan.frames <= settings.max_frames:
        raise RequestError(f"frames must be 1 to {settings.max_frames}, got {plan.frames}")
    if plan.sizes and TASKS[plan.task].makes is not Product.STORY:
        raise RequestError(f"{plan.task.value!r} draws pictures of one size: give width and height, no sizes")
    if TASKS[plan.task].makes is Product.STORY and plan.count != 1:
        raise RequestError(f"count must be 1, got {plan.count}: the model draws as many as its answer needs")
    if not 1 <= plan.count <= MAX_COUNT:
        raise RequestError(f"count must be 1 to {MAX_COUNT}, got {plan.count}")
    if plan.steps is not None and not 1 <= plan.steps <= MAX_STEPS:
        raise RequestError(f"steps must be 1 to {MAX_STEPS}, got {plan.steps}")
    for name, scale in (
        ("guidance_scale", plan.guidance_scale),
        ("image_guidance_scale", plan.image_guidance_scale),
    ):
        if scale is not None and not 0 <= scale <= 100:
            raise RequestError(f"{name} must be 0 to 100, got {scale}")
