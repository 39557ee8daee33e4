"""From a request and a model's settings to the plans that are carried out. No torch here: a plan is shown
before the model that carries it out is read."""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.planning.clarify import question
from diptych.planning.course import Course
from diptych.planning.normalise import check_said, plan_of, settle
from diptych.planning.rules import RulePlanner
from diptych.planning.schema import Attached, Input, Intent, Look, Planner, Request, Step
from diptych.request import (
    MAX_FPS,
    TASKS,
    Media,
    Plan,
    Product,
    RequestError,
    Role,
    Task,
    check_text,
    parse_task,
)
from diptych.settings import Settings, Words

if TYPE_CHECKING:
    import numpy as np

SEEDS = 2**32
"""A fresh seed is below this."""
_GREETINGS = frozenset(
    [
        "hello",
        "hi",
        "hey",
        "hi there",
        "hello there",
        "good morning",
        "good evening",
        "how are you",
        "thanks",
        "thank you",
        "bye",
        "goodbye",
        "hola",
        "buenos días",
        "buenas",
        "gracias",
        "adiós",
        "hallo",
        "guten morgen",
        "guten tag",
        "danke",
        "danke schön",
        "tschüss",
        "你好",
        "您好",
        "早上好",
        "谢谢",
        "再见",
        "halo",
        "hai",
        "selamat pagi",
        "selamat siang",
        "apa kabar",
        "terima kasih",
    ]
)
_SPEAKS_OF_MASK = re.compile("mask|máscara|topeng|遮罩|蒙版|掩码|面具", re.IGNORECASE)
_LENGTH = re.compile(
    r"\d|second|sekund|segund|detik|秒|minut|menit|分|frame|fotograma|帧|fps|hour|hora|stund|jam", re.I
)
_EMPTY = re.compile(r"\b0+ ?[x×*] ?\d+\b|\b\d+ ?[x×*] ?0+\b")
_SIDE = re.compile(
    r"wid|high|height|tall|side|breit|hoch|höhe|seite|anch|alt[oaur]|lado|lebar|tinggi|sisi|宽|高|边|[x×*]\s*\d",
    re.IGNORECASE,
)
_THANKS = frozenset(
    (
        "please",
        "thanks",
        "thank",
        "you",
        "very",
        "much",
        "so",
        "many",
        "gracias",
        "por",
        "favor",
        "muchas",
        "bitte",
        "danke",
        "schön",
        "sehr",
        "vielen",
        "dank",
        "tolong",
        "ya",
        "terima",
        "kasih",
        "makasih",
        "谢谢",
        "请",
        "谢谢你",
        "多谢",
    )
)
_SURE = 0.7
"""A confidence below which no word of a prompt is taken for framing."""
UNSURE = 0.5
"""A confidence below which a request is answered by the safest reading, and told what is unclear."""


def understood(
    settings: Settings,
    request: str,
    media: int | Sequence[Attached] = 0,
    turns: Sequence[str] = (),
    planner: Planner | None = None,
    **overrides: Any,
) -> Course:
    """What a request with attached media (so many pictures, or what they are) and the user's earlier requests
    is understood as, settled; any field of the plan can be overridden, of several steps in each.

    Raises RequestError with one sentence where it cannot be carried out.
    """
    unknown = set(overrides) - set(Plan.__dataclass_fields__)
    if unknown:
        raise RequestError(
            f"a plan has no field {sorted(unknown)[0]!r}; it has {', '.join(Plan.__dataclass_fields__)}"
        )
    if not request.strip():
        raise RequestError("the request is empty: say what to draw, to answer or to change")
    if len(request) > settings.max_text:
        raise RequestError(
            f"the request has {len(request)} characters, more than the {settings.max_text} that are read"
        )
    told = tuple(Attached(kind="picture") for _ in range(media)) if isinstance(media, int) else tuple(media)
    for what, text in (("request", request), *(("user's turn", turn) for turn in turns)):
        check_text(what, text)
    asked = Request(text=request, media=told, turns=tuple(turns))
    intent, notes = _intended(settings, asked, planner)
    task = overrides.pop("task", None)
    if task is None and planner is None and settings.words is not None:
        intent = _meant(settings, settings.words, intent, asked)
    if task is not None:
        intent = _retasked(intent, parse_task(task), asked)
    if task is None and settings.free and not told and _greets(request):
        intent = _retasked(intent, Task.ANSWER, asked)
    subjectless = intent.steps[0].task is Task.ANSWER and not intent.steps[0].inputs
    if not settings.free and subjectless and not intent.missing and not overrides.get("inputs"):
        intent = replace(intent, missing=("subject",))
        intent = replace(intent, question=question(intent))
    if settings.free and intent.missing == ("subject",):
        # where any text may be said, a question needs no picture
        intent = replace(intent, missing=(), question="")
    intent = replace(intent, steps=tuple(map(_fitted, intent.steps)))
    # what is overridden cannot be missing or in doubt
    doubts = tuple(name for name in intent.contradictions if name not in overrides)
    intent = replace(intent, contradictions=doubts)
    if "inputs" in overrides:
        intent = replace(intent, missing=())
        overrides.setdefault("media", ())
    check_said(intent)
    # a fresh seed where none is named: a fixed one would give every picture the same noise, and so much the
    # same background
    seed, plans = secrets.randbelow(SEEDS), []
    for number in range(len(intent.steps)):
        plan = plan_of(intent, number, settings, told, seed)
        plan = replace(plan, adjustments=(*notes, *plan.adjustments)) if number == 0 else plan
        plan = _reworded(plan, settings.of(plan.task).words, _whole(intent, asked))
        plans.append(settle(_overruled(plan, overrides, seed), settings))
    return Course(intent=intent, plans=tuple(plans))


def _greets(request: str) -> bool:
    """Whether a request is nothing but a greeting or thanks, which is talk and no picture."""
    return " ".join(re.findall(r"\w+", request.lower())) in _GREETINGS


def settled(settings: Settings, course: Course, **overrides: Any) -> Course:
    """A course that was settled before, for this model; what it settled then stays."""
    seed = secrets.randbelow(SEEDS)
    plans = tuple(settle(_overruled(plan, overrides, seed), settings) for plan in course.plans)
    return replace(course, plans=plans)


def _meant(settings: Settings, words: Words, intent: Intent, request: Request) -> Intent:
    """The intent, or the one task that the model's own words tell, where they cannot be the planned one."""
    planned = intent.steps[0].task
    # a planner that is sure, or has found more than one step, is believed
    if request.turns or len(request.media) > 1 or len(intent.steps) > 1 or intent.missing:
        return intent
    if planned not in (Task.TEXT_TO_IMAGE, Task.EDIT, Task.ANSWER) or intent.confidence >= _SURE:
        return intent
    tasks = (Task.EDIT, Task.ANSWER) if request.media else (Task.TEXT_TO_IMAGE,)
    told = [task for task in tasks if words.put(task, request.text, sure=True) is not None]
    if planned not in settings.tasks:
        told = told or [task for task in tasks[:1] if words.put(task, request.text) is not None]
    kept = planned is Task.EDIT and words.put(planned, request.text) is not None
    if not told or planned in told or kept:
        return intent
    whole = replace(_retasked(intent, told[0], request).steps[0], prompt=" ".join(request.text.split()))
    return replace(intent, steps=(whole,), missing=(), contradictions=(), confidence=1.0, question="")


def _whole(intent: Intent, request: Request) -> str:
    """A request that says nothing but what is to be drawn, changed or answered; else ''. What was taken for
    several pictures may be several things."""
    if len(intent.steps) > 1 or request.turns:
        return ""
    return request.text if _uncut(replace(intent, steps=(replace(intent.steps[0], count=None),))) else ""


def _reworded(plan: Plan, words: Words | None, whole: str) -> Plan:
    """A plan in the words that a model knows, which is told; as it is where they do not say it. `whole` is
    the request, which says more of places than a prompt that was cut out of it."""
    # what is inside a mask need not be named, and may be said of nothing else
    if words is None or Role.MASK in plan.inputs:
        return plan
    prompt = words.put(plan.task, whole) if whole else None
    if prompt is not None:
        plan = replace(plan, count=1, negative_prompt="")
    prompt = prompt or words.put(plan.task, plan.prompt)
    if prompt is None or prompt.lower() == plan.prompt.lower():
        return plan
    return replace(plan, prompt=prompt, adjustments=(*plan.adjustments, f"read as: {prompt}"))


def _overruled(plan: Plan, overrides: Mapping[str, Any], fresh: int) -> Plan:
    """A plan with what is overridden in it; `fresh` is the seed of an answer that gets a temperature."""
    # an answer that always takes the likeliest word has none, and one that is drawn has one as pictures have
    if overrides.get("temperature") and plan.task is Task.ANSWER and not plan.temperature:
        plan = replace(plan, seed=fresh)
    return Plan.checked({**vars(plan), **overrides})


def _intended(
    settings: Settings, request: Request, planner: Planner | None
) -> tuple[Intent, tuple[str, ...]]:
    """The intent, and what has to be said of it."""
    rules = RulePlanner(settings.free)
    own, planner = planner is not None, planner or _learned()
    if planner is None:
        return rules.plan(request), ()
    intent = planner.plan(request)
    # a model's own planner may know more languages than there are names for
    if intent.language == "und" and not own:
        intent = rules.plan(request)
        return intent, (f"the language of the request is not known, so it is taken as {_named(intent)}",)
    if not own:
        intent = _squared(_masked(_sound(settings, intent, request), request), request.text)
        intent = _unshortened(settings, intent, request) if len(intent.steps) == 1 else intent
    if intent.confidence < UNSURE and not (intent.missing or intent.contradictions):
        unclear = intent.question or "say it in other words if something else is meant"
        return intent, (f"not sure, so it is taken as {_named(intent)}: {unclear}",)
    return intent, ()


def _sound(settings: Settings, intent: Intent, request: Request) -> Intent:
    """Without a doubt about lengths where none is said. Raises RequestError for a size of no pixels, which
    is read as none."""
    if empty := _EMPTY.search(request.text):
        raise RequestError(f"width must be 1 to {settings.max_side} px, and so must height, got {empty[0]}")
    if _LENGTH.search(" ".join((*request.turns, request.text))):
        return intent
    doubts = tuple(name for name in intent.contradictions if name not in ("seconds", "fps", "frames"))
    question = intent.question if doubts or intent.missing else ""
    return replace(intent, contradictions=doubts, question=question)


def _masked(intent: Intent, request: Request) -> Intent:
    """With a picture of one shade as the mask that is spoken of: nothing else can be seen in it."""
    step = intent.steps[0]
    blank = [number for number, medium in enumerate(request.media) if medium.look is Look.BLANK]
    others = [number for number in range(len(request.media)) if number not in blank]
    fits = step.task in (Task.EDIT, Task.EDIT_CLIP) and len(blank) == len(others) == 1
    if not fits or not _SPEAKS_OF_MASK.search(request.text):
        return intent
    inputs = (Input(Role.SOURCE, others[0]), Input(Role.MASK, blank[0]))
    missing = tuple(name for name in intent.missing if name not in ("source", "mask", "reference"))
    question = intent.question if missing or intent.contradictions else ""
    steps = (replace(step, inputs=inputs), *intent.steps[1:])
    return replace(intent, steps=steps, missing=missing, question=question)


def _squared(intent: Intent, text: str) -> Intent:
    """With one number of pixels for both sides, where no side is named."""
    if _SIDE.search(text):
        return intent
    steps = []
    for step in intent.steps:
        side = step.width or step.height
        one = side is not None and None in (step.width, step.height) and step.aspect is None
        steps.append(replace(step, width=side, height=side) if one else step)
    return replace(intent, steps=tuple(steps))


def _unshortened(settings: Settings, intent: Intent, request: Request) -> Intent:
    """An intent of one step whose prompt has lost nothing that was meant."""
    (step,) = intent.steps
    facts, words = TASKS[step.task], " ".join(request.text.split())
    if settings.free and facts.writes:
        # what an answer shall be about is the user's own, to the letter; how many steps it tells of is no
        # number of steps of a sampler
        return replace(intent, steps=(replace(step, prompt=request.text, negative_prompt="", steps=None),))
    if not _uncut(intent) or request.turns or intent.missing:
        return intent
    if settings.free:
        return replace(intent, steps=(replace(step, prompt=request.text, negative_prompt=""),))
    if request.media or not facts.draws_from_words or step.negative_prompt:
        return intent
    start = words.lower().find(step.prompt.lower())
    if start < 0 or intent.confidence < _SURE:
        return replace(intent, steps=(replace(step, prompt=words),))
    # what stands before a prompt asks for it; what follows, but for thanks, is a part of it
    rest = re.findall(r"\w+", words[start + len(step.prompt) :].lower())
    if set(rest) <= _THANKS:
        return intent
    return replace(intent, steps=(replace(step, prompt=words[start:]),))


@functools.cache
def _learned() -> Planner | None:
    """The planner that ships, where its file is there."""
    try:
        from diptych.planning.learned import Learned
    except ImportError:
        return None
    return Learned.open()


def _fitted(step: Step) -> Step:
    """With no more media of a role than the task takes, where the further ones can be references."""
    roles = TASKS[step.task].fitted(one.role for one in step.inputs)
    return replace(
        step, inputs=tuple(replace(one, role=role) for one, role in zip(step.inputs, roles, strict=True))
    )


def _named(intent: Intent) -> str:
    return " and then ".join(repr(step.task.value) for step in intent.steps)


def _uncut(intent: Intent) -> bool:
    """Whether nothing but words is said."""
    step = intent.steps[0]
    kept = ("task", "prompt", "inputs", "control", "negative_prompt")
    return all(value is None for name, value in vars(step).items() if name not in kept)


def _retasked(intent: Intent, task: Task, request: Request) -> Intent:
    """The first step as another task: each medium keeps its role where that task takes it, and has its
    default one elsewhere. What is missing is known anew."""
    step = intent.steps[0]
    if step.task is task and len(intent.steps) == 1:
        return intent
    facts = TASKS[task]
    role_of = {one.medium: one.role for one in step.inputs}
    roles = [role_of.get(number, Role.UNUSED) for number in range(len(request.media))]
    roles = [role if role in facts.takes else facts.default_role for role in roles]
    inputs = tuple(Input(role, number) for number, role in enumerate(roles))
    wanted, missing = facts.default_role, tuple[Any, ...]()
    # a question is asked about something, though it may be about nothing where any text may be said
    if not roles and (task is Task.ANSWER or (wanted in facts.takes and facts.takes[wanted][0])):
        missing = (wanted.value,)
    if facts.writes:
        whole = Step(task=task, prompt=" ".join(request.text.split()), inputs=inputs)
        return replace(
            intent, steps=(whole,), missing=missing, contradictions=(), confidence=1.0, question=""
        )
    return replace(intent, steps=(replace(step, task=task, inputs=inputs),), missing=missing, confidence=1.0)


def sized(settings: Settings, plan: Plan, media: Sequence[Media]) -> tuple[Plan, list[Media]]:
    """An edit, of a picture or a clip, with the size of its source as the model reads it: tokens of both lie
    over one another, and what is not asked for stays in its place. A size that the plan names is given to the
    source, or drawn as it is where the model changes pictures at any size. All other plans as they are.

    Raises RequestError for a size at which the model reads no picture.
    """
    media, settings = list(media), settings.of(plan.task)
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


def looked_at(settings: Settings, images: Sequence[str | Path | np.ndarray]) -> list[Media | Path]:
    """What is attached to a request, opened, but for a clip in a file where the model neither looks at clips
    nor draws them. Raises PictureError or RequestError for what is neither picture nor clip."""
    frames = max(settings.clip_frames, settings.max_frames if settings.max_frames > 1 else 0)
    found: list[Media | Path] = []
    for image in images:
        if not frames and isinstance(image, (str, Path)) and _named_clip(Path(image)):
            found.append(Path(image))
        else:
            found.append(opened(image, frames))
    return found


def told(medium: Media | Path) -> Attached:
    """What a planner is told of a medium."""
    if isinstance(medium, Path):
        return Attached(kind="clip")
    # numpy is loaded already, with the pixels
    from diptych.planning.looks import look_of

    count, height, width = medium.frames.shape[:3]
    return Attached(
        kind="picture" if count == 1 else "clip",
        look=look_of(medium.frames),
        width=width,
        height=height,
        frames=count,
        seconds=medium.time(count - 1) if count > 1 else None,
    )


def given(
    settings: Settings,
    course: Course,
    number: int,
    attached: Sequence[Media | Path],
    made: Sequence[Media | None] = (),
) -> tuple[Plan, list[Media]]:
    """A step with its media, of what is attached and of what each earlier step made; an edit at the size of
    its source, see `sized`. A clip may be asked about, and changed or followed by a clip; of all else the
    first frame of an animation is used.

    Raises RequestError where something is not there, a clip stands where a picture is needed or the reverse,
    and for a mask that does not fit.
    """
    plan = course.plans[number]
    if len(course.plans) == 1 and not plan.media and len(attached) != len(plan.inputs):
        raise RequestError(f"the plan names {len(plan.inputs)} attached media, but there are {len(attached)}")
    found = course.media_of(number, attached, made)
    media = [_for_role(plan.task, role, medium) for role, medium in zip(plan.inputs, found, strict=True)]
    _check_mask(plan, media)
    return sized(settings, _no_longer(settings.of(plan.task), plan, media), media)


def _no_longer(settings: Settings, plan: Plan, media: Sequence[Media]) -> Plan:
    """A clip that is changed or followed, of no more frames than there are of it."""
    if TASKS[plan.task].makes is not Product.CLIP:
        return plan
    moving = (Role.SOURCE, Role.CONTROL)
    there = [len(one.frames) for one, role in zip(media, plan.inputs, strict=True) if role in moving]
    most = 1 + (min(there, default=1) - 1) // settings.frame_step * settings.frame_step
    if most > 1 and plan.frames > most:
        note = f"{plan.frames} frames -> {most} (the clip that is given has {min(there)})"
        plan = replace(plan, frames=most, adjustments=(*plan.adjustments, note))
    return _as_long(settings, plan, media)


def _as_long(settings: Settings, plan: Plan, media: Sequence[Media]) -> Plan:
    """A clip that is changed or followed lasts as long as it did, however many frames of it are looked at:
    for a model that draws at its own frames a second, with those that this takes."""
    pairs = zip(media, plan.inputs, strict=True)
    moving = [one for one, role in pairs if role in (Role.SOURCE, Role.CONTROL) and len(one.frames) > 1]
    if not (moving and settings.keeps_fps and plan.frames > 1 and plan.fps == settings.fps):
        return plan
    if not (moving[0].times or moving[0].fps):
        # frames alone, which say nothing of when they are shown
        return plan
    seconds = moving[0].time(len(moving[0].frames) - 1)
    fps = round((plan.frames - 1) / seconds, 3) if seconds else settings.fps
    if not 0 < fps <= MAX_FPS or abs(fps / settings.fps - 1) < 0.01:
        return plan
    note = f"{plan.frames} frames are spread over the {seconds:.3g} s that are given, {fps:g} a second"
    return replace(plan, fps=fps, adjustments=(*plan.adjustments, note))


def _for_role(task: Task, role: Role, medium: Media | Path | None) -> Media:
    if medium is None:
        raise RequestError(f"{role.value} is what an earlier step says, and a picture is needed")
    clip = task is Task.EDIT_CLIP and role is Role.SOURCE
    if isinstance(medium, Path):
        if role is Role.SUBJECT or clip:
            raise RequestError(f"{medium} is a clip by its name, and this model looks at no clips")
        raise RequestError(f"{medium} is a clip by its name, and a picture is needed here")
    if clip and len(medium.frames) == 1:
        raise RequestError(f"{medium.name} is a picture, and a clip is needed to change")
    moving = TASKS[task].makes is Product.CLIP and role in (Role.SOURCE, Role.MASK, Role.CONTROL)
    if len(medium.frames) == 1 or role in (Role.SUBJECT, Role.UNUSED) or moving:
        return medium
    if _named_clip(Path(medium.name)):
        raise RequestError(f"{medium.name} is a clip by its name, and a picture is needed here")
    return replace(medium, frames=medium.frames[:1], times=()) if medium.times else medium


def _check_mask(plan: Plan, media: Sequence[Media]) -> None:
    """Raises RequestError for a mask of another size than its source, or without any white."""
    if Role.MASK not in plan.inputs or Role.SOURCE not in plan.inputs:
        return
    mask, source = (media[plan.inputs.index(role)] for role in (Role.MASK, Role.SOURCE))
    sizes = [f"{one.frames.shape[2]}x{one.frames.shape[1]}" for one in (mask, source)]
    if sizes[0] != sizes[1]:
        raise RequestError(
            f"the mask {mask.name} is {sizes[0]} px, and its source {sizes[1]}: a mask has the size of its "
            "source"
        )
    if int(mask.frames.max()) < 128:
        raise RequestError(f"the mask {mask.name} is black all over: it is white where the source may change")


def opened(image: str | Path | np.ndarray, clip_frames: int = 0) -> Media:
    """A file or a uint8 array (height, width, 3), or of a clip (frames, height, width, 3), as media; of a
    clip in a file, at most so many frames. Raises PictureError or RequestError for what is none."""
    if not isinstance(image, (str, Path)):
        return Media(image, "clip") if image.ndim == 4 else Media.picture(image)
    # where nothing is attached, no decoder is loaded
    from diptych.data.clips import is_clip, open_clip
    from diptych.data.pictures import open_picture

    if clip_frames and is_clip(Path(image)):
        return open_clip(Path(image), clip_frames)
    if _named_clip(Path(image)):
        raise RequestError(f"{image} is a clip by its name, and a picture is needed here")
    return Media.picture(open_picture(image), str(image))


def _named_clip(path: Path) -> bool:
    from diptych.data.clips import VIDEOS

    return path.suffix.lower() in VIDEOS
