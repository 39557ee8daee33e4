"""From what was asked to what can be done: defaults filled in, sizes rounded, every adjustment told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diptych.planning.schema import Attached, Input, Intent, Step
from diptych.request import (
    MAX_FPS,
    TASKS,
    Plan,
    Product,
    RequestError,
    Role,
    Task,
    check_roles,
    check_text,
)
from diptych.settings import Settings

MAX_COUNT = 64
MAX_STEPS = 1000
MAX_TOKENS = 131_072
"""Of what is written."""
MAX_TEMPERATURE = 100.0
MAX_SECONDS = 60.0
"""Of a clip that is asked for; a shorter one than that is drawn as long as the model can, which is told."""
_NEEDS = {
    "source": "a picture to change (attach one)",
    "mask": "a mask (attach a picture that is white where the other may change)",
    "reference": "a picture of what is to appear (attach one)",
    "control": "a picture to draw along (attach one)",
    "first": "a picture for the first frame (attach one)",
    "last": "a picture for the last frame (attach one)",
    "subject": "a picture to look at (attach one)",
    "prompt": "words for what is to be drawn, changed or answered",
    "clip": "a clip (attach one)",
}


def check_said(intent: Intent) -> None:
    """Raises RequestError, with the question that would settle it, for a request that lacks something or
    contradicts itself."""
    question = f": {intent.question}" if intent.question else ""
    if intent.contradictions:
        raise RequestError(
            f"the request names two values for {' and '.join(intent.contradictions)}"
            + (question or ": keep one")
        )
    if intent.missing:
        raise RequestError(
            f"the request needs {' and '.join(_NEEDS[name] for name in intent.missing)}" + question
        )


def plan_of(
    intent: Intent, number: int, settings: Settings, media: Sequence[Attached] = (), seed: int = 0
) -> Plan:
    """One step of an intent as a plan that `settle` takes: what was said in words as numbers of this model,
    each change told. `seed` is taken where none is said. Raises RequestError for a length that no clip has,
    for media that are not there, and for a clip where the model draws none."""
    step = intent.steps[number]
    facts, settings = TASKS[step.task], settings.of(step.task)
    given, places = _inputs(intent, number, len(media))
    notes: list[str] = []
    if facts.makes is Product.CLIP:
        _check_task(step.task, settings)
    draws = facts.makes is not Product.TEXT
    width, height = _size(step, settings, _shape(step, media), notes) if draws else (None, None)
    frames, fps = _length(step, settings, notes) if draws else (1, None)
    return Plan(
        task=step.task,
        prompt=step.prompt,
        inputs=given,
        media=places,
        control=(step.control or "") if Role.CONTROL in given else "",
        width=width,
        height=height,
        frames=frames,
        fps=fps,
        count=1 if step.count is None else step.count,
        seed=(seed if step.seed is None else step.seed) if draws else 0,
        steps=step.steps,
        guidance_scale=step.guidance_scale,
        negative_prompt=step.negative_prompt,
        confidence=intent.confidence,
        adjustments=tuple(notes),
    )


def _inputs(intent: Intent, number: int, attached: int) -> tuple[tuple[Role, ...], tuple[int, ...]]:
    """Roles of a step's media, and which they are; none where they are the attached ones in their order. What
    is attached and no step speaks of is in the first one, unused."""
    found = list(intent.steps[number].inputs)
    if number == 0:
        spoken = {one.medium for step in intent.steps for one in step.inputs}
        found += [Input(Role.UNUSED, medium) for medium in range(attached) if medium not in spoken]
    places = []
    for one in found:
        if one.step is not None and TASKS[intent.steps[one.step].task].makes is Product.TEXT:
            raise RequestError(
                f"step {number} takes what step {one.step} draws, and that is an answer in text"
            )
        if one.medium is not None and one.medium >= attached:
            raise RequestError(f"step {number} names medium {one.medium}, but {attached} are attached")
        places.append(one.medium if one.step is None else attached + one.step)
    pairs = sorted(zip(places, found, strict=True), key=lambda pair: pair[0] or 0)
    ordered = tuple(place or 0 for place, _ in pairs)
    return tuple(one.role for _, one in pairs), () if ordered == tuple(range(attached)) else ordered


def _shape(step: Step, media: Sequence[Attached]) -> tuple[int, int] | None:
    """Width and height of the picture or clip that a clip begins with, ends with or follows."""
    if TASKS[step.task].makes is not Product.CLIP:
        return None
    for one in step.inputs:
        if one.role in (Role.FIRST, Role.LAST, Role.CONTROL) and one.medium is not None:
            medium = media[one.medium]
            if medium.width and medium.height:
                return medium.width, medium.height
    return None


def _size(
    step: Step, settings: Settings, shape: tuple[int, int] | None, notes: list[str]
) -> tuple[int | None, int | None]:
    """Sides, px, where anything is said of them, or given by `shape`."""
    if TASKS[step.task].changes and (step.aspect or step.resolution):
        notes.append("the size in words is not used: an edit has the size of its source")
    if step.width is not None or step.height is not None or TASKS[step.task].changes:
        if step.aspect and step.width and not step.height:
            return step.width, round(step.width * step.aspect[1] / step.aspect[0])
        if step.aspect and step.height and not step.width:
            return round(step.height * step.aspect[0] / step.aspect[1]), step.height
        return step.width, step.height
    aspect = step.aspect or shape
    if step.resolution is None:
        return settings.own_size(aspect) if aspect else (None, None)
    if step.resolution < 1:
        raise RequestError(f"a picture is at least 1 px high, got {step.resolution}")
    across, down = aspect or settings.aspect
    scale = step.resolution / min(across, down)
    width, height = round(across * scale), round(down * scale)
    largest = settings.largest or settings.native
    if width * height <= largest**2:
        return width, height
    smaller = settings.own_size((across, down), largest)
    notes.append(
        f"size {width}x{height} -> {smaller[0]}x{smaller[1]} (this model draws no more than "
        f"{largest}x{largest} px)"
    )
    return smaller


def _length(step: Step, settings: Settings, notes: list[str]) -> tuple[int, float | None]:
    """Frames to draw, and how many a second."""
    told = [name for name in ("seconds", "fps", "frames") if getattr(step, name) is not None]
    if TASKS[step.task].makes is not Product.CLIP:
        if told:
            notes.append(f"{' and '.join(told)} not used: {step.task.value!r} draws single pictures")
        return 1, None
    most = settings.max_frames
    if step.seconds is not None and not 0 < step.seconds <= MAX_SECONDS:
        raise RequestError(
            f"seconds must be above 0 and at most {MAX_SECONDS:g}, got {step.seconds:g}; this model draws at "
            f"most {most / settings.fps:.3g}"
        )
    if step.fps is not None and not 0 < step.fps <= MAX_FPS:
        raise RequestError(f"fps must be above 0 and at most {MAX_FPS:g}, got {step.fps:g}")
    fps = _fps(step.fps or settings.fps, settings, notes)
    if step.frames is None:
        frames = most if step.seconds is None else max(1, round(step.seconds * fps))
    else:
        frames = step.frames
        if step.seconds and frames > 0 and not step.fps:
            fps = _fps(frames / step.seconds, settings, notes)
    if frames > most:
        notes.append(
            f"{frames} frames -> {most} ({most / fps:.3g} s at {fps:g} a second), the most of this model"
        )
    return min(frames, most), fps


def _fps(asked: float, settings: Settings, notes: list[str]) -> float:
    """Frames a second that the model draws at, where so many are asked for."""
    if not settings.keeps_fps or asked == settings.fps:
        return asked
    notes.append(f"{asked:g} frames a second -> {settings.fps:g} (this model's own)")
    return settings.fps


def settle(plan: Plan, settings: Settings) -> Plan:
    """Fill in, round and check a plan. Raises RequestError, one sentence, for what is impossible or
    contradicts itself."""
    settings = settings.of(plan.task)
    if plan.missing:
        raise RequestError(f"the request needs {' and '.join(plan.missing)}")
    # before the task is judged: an attached picture may make it another task
    if plan.task is Task.TEXT_TO_IMAGE and plan.inputs:
        plan = _attached(plan, settings)
    _check_task(plan.task, settings)
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
    if settings.masked_edits and TASKS[plan.task].changes and Role.MASK not in plan.inputs:
        raise RequestError(
            "this model changes a source within a mask alone: attach one, white where the source may change"
        )
    _check_thoughts(plan, settings)
    if plan.control and Role.CONTROL in plan.inputs and plan.control not in settings.controls:
        known = ", ".join(settings.controls) or "anything but what it is given"
        raise RequestError(f"this model draws along {known}, not along {plan.control}")
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
    own = settings.own_size() if plan.width is None and plan.height is None else (settings.native,) * 2
    width, height = plan.width or own[0], plan.height or own[1]
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


def _check_task(task: Task, settings: Settings) -> None:
    if task not in settings.tasks:
        raise RequestError(
            f"this model cannot do {task.value!r}; it can do {', '.join(sorted(settings.tasks))}"
        )


def _filled(plan: Plan, settings: Settings) -> Plan:
    """With the system's steps and scales where the plan has none."""
    sampler, scale, image_scale = settings.sampler, plan.guidance_scale, plan.image_guidance_scale
    if TASKS[plan.task].makes is Product.CLIP:
        plan = _clip(plan, settings)
    return replace(
        plan,
        # None and not falsy: a guidance scale of 0 is a wish
        steps=sampler.num_steps if plan.steps is None else plan.steps,
        guidance_scale=sampler.guidance_scale if scale is None else scale,
        image_guidance_scale=sampler.image_guidance_scale if image_scale is None else image_scale,
    )


def _clip(plan: Plan, settings: Settings) -> Plan:
    """With frames that the model can draw, the nearest number, and frames a second."""
    notes: list[str] = []
    plan = replace(plan, fps=_fps(plan.fps or settings.fps, settings, notes))
    for note in notes:
        plan = _noted(plan, note)
    step = settings.frame_step
    # ties go up: a clip is rather a little longer than asked for
    frames = min((plan.frames - 1 + step // 2) // step * step, (settings.max_frames - 1) // step * step) + 1
    if frames == plan.frames:
        return plan
    note = f"{plan.frames} frames -> {frames} (a multiple of {step}, and 1)"
    return _noted(replace(plan, frames=frames), note)


def _attached(plan: Plan, settings: Settings) -> Plan:
    """Media attached to a drawing: the control picture for a system that draws along one, else unused, which
    is told."""
    asked = Role.CONTROL in plan.inputs
    if Task.CONTROL_TO_IMAGE not in settings.tasks:
        if asked:
            raise RequestError("this model does not draw along an attached picture")
        return _noted(plan, "the attached picture is not used: the request asks for a new one")
    followed = ", ".join(settings.controls)
    if len(plan.inputs) > 1:
        raise RequestError(
            f"{len(plan.inputs)} pictures are attached, but this model draws along one ({followed})"
        )
    along = replace(plan, task=Task.CONTROL_TO_IMAGE, inputs=(Role.CONTROL,))
    if asked:
        return along
    return _noted(along, f"the attached picture is taken as the control picture ({followed})")


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
    if plan.fps is not None and not 0 < plan.fps <= MAX_FPS:
        raise RequestError(f"fps must be above 0 and at most {MAX_FPS:g}, got {plan.fps}")
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
