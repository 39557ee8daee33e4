"""What a planner's labels may be together: tasks that fit what is attached, one role for each medium.

No torch here. Scores are logits, or sums of logarithms of probabilities: higher is likelier.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diptych.planning.labels import ROLES, TASKS
from diptych.planning.schema import Attached, Look
from diptych.request import TASKS as FACTS
from diptych.request import Product, Role, Task

if TYPE_CHECKING:
    import numpy as np

_OF_CLIPS = {Task.EDIT: Task.EDIT_CLIP, Task.CONTROL_TO_IMAGE: Task.CONTROL_TO_CLIP}
"""Task on a picture -> the same on a clip."""
_FOLLOWED = (Look.EDGES, Look.DEPTH, Look.POSE, Look.BOXES)
_CONTROLS = (Task.CONTROL_TO_IMAGE, Task.CONTROL_TO_CLIP)
_AFTER = {
    Product.PICTURE: (Task.IMAGE_TO_CLIP, Task.EDIT, Task.ANSWER),
    Product.CLIP: (Task.EDIT_CLIP, Task.ANSWER),
}
"""What is done with what a step before made."""
_TOGETHER = 4
"""Media whose roles are weighed against one another; of more, each has its likeliest."""
_SOON = 25
"""Characters after 'then' within which it is said what is made."""
_SPOKEN = 4.0
"""Logits that words of motion are worth."""
_ABSENT = 1.0
"""Logits that it costs to need a medium where none is attached: people rarely forget it."""
_TOO_MANY, _TOO_FEW, _STRANGE = 6.0, 3.0, 2.0
"""Logits that it costs to give a role to more media than a task takes, to leave one that it needs without a
medium, and to see a mask in what is none."""


def fitting(scores: np.ndarray, media: Sequence[Attached], clip_meant: bool) -> np.ndarray:
    """Scores of tasks (len(TASKS),), for these media. A task on a picture is one on a clip where all that is
    attached are clips, and the reverse, but where the words call a clip what is a picture: that is asked
    about."""
    import numpy as np

    out = np.array(scores, np.float32)
    if not media:
        needing = [any(least for least, _ in FACTS[task].takes.values()) for task in TASKS]
        needing[TASKS.index(Task.IMAGE_TO_CLIP)] = True
        out[needing] -= _ABSENT
        return out
    clips = [medium.kind == "clip" for medium in media]
    looks = {medium.look for medium in media}
    moving = all(clips) or (clip_meant and not any(clips))
    for still, clip in _OF_CLIPS.items():
        if any(clips) and not all(clips):
            continue
        if clip is Task.CONTROL_TO_CLIP and not all(clips):
            # a picture may be followed by a clip
            continue
        kept, gone = (clip, still) if moving else (still, clip)
        kept_at, gone_at = TASKS.index(kept), TASKS.index(gone)
        out[kept_at] = np.logaddexp(out[kept_at], out[gone_at])
        out[gone_at] = -1e9
    if looks & {Look.POSE, Look.BOXES}:
        for task in _CONTROLS:
            out[TASKS.index(task)] += 1.0
    if Look.MASK in looks:
        out[[TASKS.index(Task.EDIT), TASKS.index(Task.EDIT_CLIP)]] += 1.0
    return out


_MOVES = re.compile(
    r"\ban[ií]m|\bvid[eé]o|\bclips?\b|\bfilm|\bgif\b|\bmotion|\bmov(e|ing)\b|to life|\bbeweg|lebendig|\bmuev"
    r"|\bmovim|cobr\w+ vida|dale vida|\w*gerak|\bhidup|\bklip|动起来|活起来|动画|视频|短片|影片|动图",
    re.IGNORECASE,
)


_NEXT = re.compile(
    r"\b(?:and |und |y |dan )?(?:then|afterwards|after that|finally|dann|danach|anschließend|luego|después"
    r"|lalu|kemudian|setelah itu)\b|然后|接着|再(?=把|让|将)",
    re.IGNORECASE,
)
_MADE = re.compile(
    r"\b(?:an[ií]m|turn|convert|transform|make (?:it|that|a|the)|bring|mach|verwandl|convi|haz|jadikan"
    r"|dijadikan|ubah|buat)|做成|转成|变成|动起来",
    re.IGNORECASE,
)


def moved_after(text: str) -> int | None:
    """Where a request, after something else that makes a picture, goes on to have it moved; None: nowhere."""
    for found in _NEXT.finditer(text):
        before, after = text[: found.start()], text[found.end() :]
        told = _MADE.search(after, 0, _SOON)
        if told and _MOVES.search(after, told.start(), told.start() + 2 * _SOON):
            return found.start() if before.strip() and not _MOVES.search(before) else None
    return None


def leading(scores: np.ndarray, first: str, rest: str) -> np.ndarray:
    """Scores of tasks of the first of two steps: where only the second one's words are of motion, the first
    makes a picture."""
    import numpy as np

    out = np.array(scores, np.float32)
    if _MOVES.search(rest) and not _MOVES.search(first):
        for place, task in enumerate(TASKS):
            if FACTS[task].makes is Product.CLIP:
                out[place] -= _SPOKEN
    return out


def following(scores: np.ndarray, before: Task, text: str) -> np.ndarray:
    """Scores of tasks of a step that goes on from what `before` makes, by its own words: few things are done
    with a picture, and words of motion tell them apart."""
    import numpy as np

    allowed = _AFTER.get(FACTS[before].makes, (Task.ANSWER,))
    out = np.where([task in allowed for task in TASKS], scores, -1e9)
    out[TASKS.index(Task.IMAGE_TO_CLIP)] += _SPOKEN if _MOVES.search(text) else -_SPOKEN
    return out


def roles(scores: np.ndarray, task: Task, media: Sequence[Attached]) -> list[Role]:
    """The likeliest role of each medium (media, len(ROLES)), with no more of one than the task takes. What a
    medium is for depends on no other's number, so another order gives the same."""
    takes = FACTS[task].takes
    options = [role for role in ROLES if role in takes or role is Role.UNUSED]
    places = [ROLES.index(role) for role in options]
    weights = [
        [float(row[place]) + _look(role, medium) for role, place in zip(options, places, strict=True)]
        for row, medium in zip(scores, media, strict=True)
    ]
    if len(media) > _TOGETHER:
        return [options[row.index(max(row))] for row in weights]

    def worth(given: tuple[int, ...]) -> float:
        total = sum(row[pick] for row, pick in zip(weights, given, strict=True))
        chosen: list[Role] = [options[pick] for pick in given]
        for role, (least, most) in takes.items():
            count = chosen.count(role)
            total -= _TOO_MANY * max(0, count - most) + _TOO_FEW * max(0, least - count)
        if task is Task.IMAGE_TO_CLIP and not {Role.FIRST, Role.LAST} & set(chosen):
            total -= _TOO_FEW
        return total

    best = max(itertools.product(range(len(options)), repeat=len(media)), key=worth)
    return [options[pick] for pick in best]


def _look(role: Role, medium: Attached) -> float:
    """What a medium's look says of a role."""
    masked = medium.look is Look.MASK
    if role is Role.MASK:
        return 1.0 if masked else -_STRANGE
    if role is Role.CONTROL and medium.look in _FOLLOWED:
        return 1.0
    return -1.0 if role is Role.SOURCE and (masked or medium.look is Look.POSE) else 0.0


_FOREIGN = re.compile(r"[\u0370-\u03ff\u0400-\u052f\u0590-\u08ff\u0900-\u0dff\u0e00-\u0fff\uac00-\ud7af]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_HAN = re.compile(r"[\u3400-\u9fff]")


def written(text: str, guess: Any) -> Any:
    """The language of a text, of one that was guessed: letters of scripts that none of them uses are of
    another language, and Chinese is written with its own."""
    letters = sum(c.isalpha() for c in text)
    foreign, kana, han = (len(script.findall(text)) for script in (_FOREIGN, _KANA, _HAN))
    if 2 * foreign > letters or 5 * kana > kana + han > 0:
        return "und"
    if 2 * han > letters:
        return "zh"
    return "und" if guess == "zh" and not han else guess


NEGATION = re.compile(
    r"\b(without|w/o|no|not|don'?t|avoid|exclude|leave|keep|free of|minus|neg\w*|ohne|kein\w*|nicht|vermeide"
    r"|lass\w*|weg|sin|nada|ning\w+|evita|fuera|tanpa|jangan|tidak|bukan|hindari|hilangkan|kecualikan)\b"
    r"|[不没无無别勿]|避免|排除|负面|反向",
    re.IGNORECASE,
)
"""Words before what must not be drawn."""
