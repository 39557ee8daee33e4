"""What a request needs and does not have, and the one question that would settle it. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from diptych.planning.schema import MISSING, Attached, Intent, Missing, Step
from diptych.request import TASKS, Role, Task

WANTS = ("mask", "reference", "first", "last", "subject", "clip", "prompt")
"""What the words of a request may speak of whether it is there or not; prompt: they do not say what is to be
drawn or changed; clip: what they speak of is a clip."""
_ROLES = {
    "source": Role.SOURCE,
    "mask": Role.MASK,
    "reference": Role.REFERENCE,
    "control": Role.CONTROL,
    "first": Role.FIRST,
    "last": Role.LAST,
    "subject": Role.SUBJECT,
}
_CLIPS = (Task.EDIT_CLIP, Task.ANSWER)


def missing(steps: Sequence[Step], wants: Collection[str], media: Sequence[Attached]) -> tuple[Missing, ...]:
    """What the steps need beyond what is attached, in the order of `schema.MISSING`."""
    first = steps[0]
    takes = TASKS[first.task].takes
    needed = {name for name, role in _ROLES.items() if takes.get(role, (0, 0))[0]}
    needed |= {name for name in wants if name in _ROLES and _ROLES[name] in takes}
    if first.task is Task.IMAGE_TO_CLIP and not needed & {"first", "last"}:
        needed.add("first")
    lacking = {name for name in needed if not any(found.role is _ROLES[name] for found in first.inputs)}
    if not media and "source" in lacking:
        # one thing is asked for at a time: what is to be changed first
        lacking.discard("reference")
    looked_at = [
        media[found.medium]
        for found in first.inputs
        if found.medium is not None and found.role in (Role.SOURCE, Role.SUBJECT)
    ]
    spoken = first.task in _CLIPS and "clip" in wants and looked_at
    if spoken and all(medium.kind == "picture" for medium in looked_at):
        lacking.add("clip")
    if "prompt" in wants:
        lacking.add("prompt")
    return tuple(name for name in MISSING if name in lacking)  # type: ignore[misc]


_ASK = {
    "source": "Which picture or clip shall be changed? Please attach it.",
    "mask": "Where may the picture change? Please attach the mask, white where it may.",
    "reference": "Which picture shall it be like? Please attach it.",
    "control": "What shall the drawing follow? Please attach the edges, the sketch or the pose as a picture.",
    "first": "Which picture shall the clip begin with? Please attach it.",
    "last": "Which picture shall the clip end with? Please attach it.",
    "subject": "Which picture or clip is the question about? Please attach it.",
    "prompt": "What shall be drawn or changed?",
    "clip": "A picture is attached, and a clip is spoken of: shall the picture be used, or which clip?",
}


def question(intent: Intent, unsure: bool = False) -> str:
    """One question that would settle what is missing, contradicts itself, or was not understood (`unsure`);
    '' where nothing is unclear."""
    if intent.contradictions:
        field = intent.contradictions[0].replace("_", " ")
        made = TASKS[intent.steps[0].task].makes
        if intent.contradictions[0] in ("seconds", "fps", "frames") and made == "picture":
            return f"A still picture has no {field}: shall it be a picture or a clip?"
        return f"The request gives two values for {field}: which one is meant?"
    if intent.missing:
        return _ASK[intent.missing[0]]
    if unsure:
        task = intent.steps[0].task.value.replace("-", " ")
        return f"This was understood as {task!r}, which is not sure: is that what is meant?"
    return ""
