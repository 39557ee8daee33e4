"""The published signal tokens: the fourteen of Unison (arXiv 2512.07747, github.com/ali-vilab/Unison).

They say whether a picture or a clip is called for, a size, a number of frames, and roles of media, in any
order: `<BORES>768,480<EORES><BONF>72<EONF><CFV>`. Written, the call is last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from diptych.planning.schema import Attached, Input, Intent, Request, Step
from diptych.request import MARK, TASKS, Product, Role, Task

PUBLISHED = tuple(
    f"<{name}>"
    for name in (
        "CFI",
        "CFV",
        "BORES",
        "EORES",
        "BONF",
        "EONF",
        "BOFIDX",
        "EOFIDX",
        "REF",
        "CTRL",
        "BOEDIT",
        "EOEDIT",
        "IMGPAD",
        "VIDPAD",
    )
)
"""In the order in which they join a vocabulary."""
_FPS = 24
"""Frames a second that seconds are counted as."""
_MULTIPLE = 16
"""Sides that can be drawn are multiples of this, px."""
_SHORT, _ASPECT = 720, (4, 3)
"""The short side where only an aspect is said, and the aspect of a picture where only the short side is."""
_WHOLE = re.compile(
    r"<BO(?P<name>RES|NF|FIDX|EDIT)>(?P<value>[^<]*)<EO(?P=name)>|<(?P<flag>CFI|CFV|REF|CTRL)>"
)
_TAG = re.compile(r"<[^<>]*>")
_END_MARK = re.compile(r"(<\|\w+\|>\s*)+$")


def escaped(text: str) -> str:
    """A user's text in which nothing is read as a token; see `unescaped`."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def unescaped(text: str) -> str:
    """Inverse of `escaped`."""
    return text.replace("&lt;", "<").replace("&amp;", "&")


def padded(request: Request, tokens: Sequence[str] = PUBLISHED) -> str:
    """A request for a language model that sees no pixels: a placeholder for each medium, those without a mark
    behind the text. Where the user typed one of the tokens, it is escaped."""
    kinds = [f"<{'IMG' if medium.kind == 'picture' else 'VID'}PAD>" for medium in request.media]
    parts = request.text.split(MARK)
    placed = min(len(parts) - 1, len(kinds))
    # marks beyond the media are words of the user's
    words = [*parts[:placed], MARK.join(parts[placed:])]
    known = re.compile("|".join(map(re.escape, tokens)))
    words = [known.sub(lambda found: escaped(found[0]), part) for part in words]
    between = [word + kind for word, kind in zip(words[:-1], kinds[:placed], strict=True)]
    return "".join([*between, words[-1], *kinds[placed:]])


def read_fourteen(reply: str, media: Sequence[Attached], prompt: str = "") -> Intent:
    """The intent of a reply, with the prompt of the request. A reply in plain words is an answer, also where
    it speaks of a token. Raises ValueError for one that is malformed or contradicts itself, or names media
    that are not there."""
    text = _END_MARK.sub("", reply).strip()
    rest = _WHOLE.sub("", text)
    loose = _TAG.findall(rest)
    if (not loose and rest.strip()) or not text:
        subjects = tuple(Input(Role.SUBJECT, number) for number in range(len(media)))
        return Intent(steps=(Step(task=Task.ANSWER, prompt=prompt, inputs=subjects),))
    if loose:
        raise ValueError(f"the reply has {loose[0]!r} where a token, or the end of one's value, is expected")
    found: dict[str, str] = {}
    for match in _WHOLE.finditer(text):
        name = match["name"] or match["flag"]
        if name in found:
            raise ValueError(f"the reply says {name} twice")
        found[name] = match["value"] or ""
    if ("CFI" in found) == ("CFV" in found):
        raise ValueError("the reply must call for a picture (<CFI>) or for a clip (<CFV>), and for one only")
    said = _roles(found, media)
    if "RES" in found:
        said["width"], said["height"] = _numbers(found, "RES", 2)
        if any(side < 1 or side % _MULTIPLE for side in (said["width"], said["height"])):
            raise ValueError(f"RES must be multiples of {_MULTIPLE}, got {found['RES'].strip()}")
    # a picture has one frame, whatever is said
    if "NF" in found and "CFV" in found:
        (said["frames"],) = _numbers(found, "NF", 1)
        if said["frames"] < 1:
            raise ValueError("NF must be at least 1, got 0")
    return Intent(steps=(Step(prompt=prompt, **said),))


def _numbers(found: dict[str, str], name: str, count: int) -> list[int]:
    values = [value.strip() for value in found[name].split(",")]
    if len(values) != count or not all(re.fullmatch(r"\d{1,12}", value, re.ASCII) for value in values):
        raise ValueError(f"{name} must be {count} whole numbers, got {found[name].strip()!r}")
    return [int(value) for value in values]


def _roles(found: dict[str, str], media: Sequence[Attached]) -> dict[str, Any]:
    """The task, and the media with their roles."""
    clip = "CFV" in found
    leading: list[str] = [name for name in ("FIDX", "EDIT", "CTRL") if name in found]
    if len(leading) > 1 or (leading == ["FIDX"] and (not clip or "REF" in found)):
        raise ValueError(f"the reply says {' and '.join(found)}, which are for different tasks")
    if not media and (leading or "REF" in found):
        raise ValueError(f"{(leading or ['REF'])[0]} is said, and no medium is attached")
    inputs: list[Input] = []
    task = Task.TEXT_TO_CLIP if clip else Task.TEXT_TO_IMAGE
    if leading == ["FIDX"]:
        (index,) = _numbers(found, "FIDX", 1)
        if index > 1:
            raise ValueError(f"FIDX must be 0 (first frame) or 1 (last), got {index}")
        task, inputs = Task.IMAGE_TO_CLIP, [Input(Role.LAST if index else Role.FIRST, 0)]
    elif leading == ["EDIT"]:
        mask, source = _numbers(found, "EDIT", 2)
        if mask == source or max(mask, source) >= len(media):
            raise ValueError(f"EDIT names the media {mask} and {source}, but there are {len(media)}")
        task = Task.EDIT_CLIP if clip else Task.EDIT
        inputs = [Input(Role.MASK, mask), Input(Role.SOURCE, source)]
    elif leading == ["CTRL"]:
        task = Task.CONTROL_TO_CLIP if clip else Task.CONTROL_TO_IMAGE
        # a clip is followed, the pictures beside it are of what appears
        clips = [number for number, medium in enumerate(media) if medium.kind == "clip"]
        inputs = [Input(Role.CONTROL, clips[0] if clips else 0)]
    elif "REF" in found:
        task = Task.REFERENCE_TO_CLIP if clip else Task.REFERENCE_TO_IMAGE
    if "REF" in found:
        taken = {one.medium for one in inputs}
        free = [number for number in range(len(media)) if number not in taken]
        inputs += [Input(Role.REFERENCE, number) for number in free or [0]]
    return {"task": task, "inputs": tuple(inputs)}


def fourteen(intent: Intent) -> str:
    """An intent in the fourteen, the call last; '' for an answer, which is written in words. Seconds are
    counted as 24 frames, a size in words as px. Raises ValueError for what the fourteen cannot say: several
    steps, an edit without a mask, a first and a last frame."""
    (step, *others) = intent.steps
    roles = {one.role: one.medium for one in step.inputs}
    makes = TASKS[step.task].makes
    if others or makes is Product.STORY or any(one.step is not None for one in step.inputs):
        raise ValueError("the fourteen tokens say one picture, one clip or one answer")
    if makes is Product.TEXT:
        return ""
    said = []
    if size := _size(step):
        said.append(f"<BORES>{size[0]},{size[1]}<EORES>")
    frames = step.frames if step.frames or not step.seconds else round(step.seconds * _FPS)
    if frames and makes is Product.CLIP:
        said.append(f"<BONF>{frames}<EONF>")
    if TASKS[step.task].changes:
        if Role.MASK not in roles or Role.SOURCE not in roles:
            raise ValueError(
                "the fourteen tokens say an edit by its mask and its source, and there is no mask"
            )
        said.append(f"<BOEDIT>{roles[Role.MASK]},{roles[Role.SOURCE]}<EOEDIT>")
    if step.task is Task.IMAGE_TO_CLIP:
        if len(step.inputs) != 1:
            raise ValueError("the fourteen tokens say a first frame or a last one")
        said.append(f"<BOFIDX>{int(Role.LAST in roles)}<EOFIDX>")
    said += ["<CTRL>"] * (Role.CONTROL in roles) + ["<REF>"] * (Role.REFERENCE in roles)
    return "".join([*said, "<CFV>" if makes is Product.CLIP else "<CFI>"])


def _size(step: Step) -> tuple[int, int] | None:
    if step.width and step.height:
        return step.width, step.height
    if not (step.aspect or step.resolution):
        return None
    wide, high = step.aspect or ((16, 9) if TASKS[step.task].makes is Product.CLIP else _ASPECT)
    short = (step.resolution or _SHORT) / min(wide, high)
    width, height = (max(_MULTIPLE, round(side * short / _MULTIPLE) * _MULTIPLE) for side in (wide, high))
    return width, height
