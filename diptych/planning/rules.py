"""The rule planner: a request in plain words to a plan, deterministically. The baseline for a learned
planner."""

from __future__ import annotations

import re
from typing import NamedTuple

from diptych.request import TASKS, Plan, RequestError, Role, Task
from diptych.settings import MAX_TEXT

_NUMBERS = {
    w: n
    for n, w in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
        ]
    )
}
# twelve digits at most: what is longer is no number that anyone means
_NUMBER = rf"(\d{{1,12}}|{'|'.join(_NUMBERS)})"
_QUESTION = re.compile(
    r"^(what|how many|how much|how|which|where|who|why|when|is|are|do|does|can you "
    r"see|count|describe|caption|tell me|name)\b|\?\s*$"
)
_DRAW = re.compile(
    r"^(please )?(draw|paint a|paint an|generate|create|sketch|show me|make (me "
    r")?(a|an|\d+|two|three|four|five) )\b"
)
# 'make the cat red' changes a picture, 'make a red cat' draws one: the article decides
_EDIT_SURE = re.compile(
    r"^(please )?((remove|delete|erase|replace|recolou?r|move|shift|swap)\b"
    r"|(make|paint|turn|change|give|use|colou?r|take) (the|its|it)\b|(make|use) .*\bbackground\b|take .* "
    r"away\b)"
)
_EDIT_MAYBE = re.compile(r"^(please )?(add|put|insert|also draw|use|turn|change|make|give|take|paint)\b")
_SEVERAL = re.compile(r"\b(both|these|the two|the three|two|three) (pictures|images|photos)\b|\bcompare\b")
_SHAPES = {
    "square": (1.0, 1.0),
    "wide": (4 / 3, 1.0),
    "landscape": (4 / 3, 1.0),
    "horizontal": (4 / 3, 1.0),
    "tall": (1.0, 4 / 3),
    "portrait": (1.0, 4 / 3),
    "vertical": (1.0, 4 / 3),
}
_SHAPE_BEFORE = re.compile(rf"\b({'|'.join(_SHAPES)}) (?=(?:picture|image|photo)\b)", re.IGNORECASE)
# ', square' at the end may be a thing to draw, so square needs its 'format'
_SHAPE_AFTER = re.compile(
    rf",? ?(?:\b(?:as|in) )?(?:\ba )?\b({'|'.join(_SHAPES)}) format\b|, "
    rf"?({'|'.join(k for k in _SHAPES if k != 'square')})$",
    re.IGNORECASE,
)


_LEAST_SIDE = 16
"""Smaller numbers with an x between them count rows and columns, unless they are called pixels or a size."""
_SIZE = re.compile(
    r"(?P<led>,? ?\b(?:at|in|of|with)(?= )|,)? ?(?P<called>\bsized? (?:of )?)?"
    # a minus sign is read along, so that the check can name the wrong value instead of drawing the right one
    r"(?<![\w.])(?P<width>-?\d{1,12}) ?(?:x|×|by) ?(?P<height>-?\d{1,12})(?![\w.]*\d)"
    r"(?P<px> ?(?:px|pixels)\b)?",
    re.IGNORECASE,
)


class _Size(NamedTuple):
    width: int
    height: int


def _meant(found: re.Match[str]) -> _Size | None:
    """The size of a picture that a match names; None for a grid, and for a thing with such a name."""
    size = _Size(int(found["width"]), int(found["height"]))
    least, most = min(size), max(size)
    # set off by a comma or a preposition, one side of a size is enough to tell it
    sure = bool(found["called"] or found["px"]) or least <= 0 or least >= _LEAST_SIDE
    return size if sure or (found["led"] and most >= _LEAST_SIDE) else None


_PURPOSES = {
    Role.SUBJECT: "to look at",
    Role.SOURCE: "to change",
    Role.CONTROL: "to draw along",
    Role.REFERENCE: "of what is to appear",
}


def _roles(task: Task, pictures: int) -> tuple[Role, ...]:
    """What attached pictures are for: as many as may be for what the task is about, the further ones show
    what is to appear, where the task takes such."""
    facts = TASKS[task]
    _, most = facts.takes.get(facts.default_role, (0, pictures))
    further = Role.REFERENCE if Role.REFERENCE in facts.takes else facts.default_role
    return tuple(facts.default_role if number < most else further for number in range(pictures))


class RulePlanner:
    """`native` is the size, px, that words such as 'wide' are measured against. `free`: the prompt keeps its
    letters and lines, and a question needs no picture, see `settings.Settings`."""

    def __init__(self, native: int, free: bool = False, max_text: int = MAX_TEXT) -> None:
        self.native, self.free, self.max_text = native, free, max_text

    def plan(self, request: str, pictures: int = 0, task: Task | None = None, seed: int = 0) -> Plan:
        """What a request with `pictures` attached pictures asks for; `task` overrules the rules, `seed` is
        taken where the request names none.

        Raises RequestError for a request that is empty, too long, or contradicts itself.
        """
        if not request.strip():
            raise RequestError("the request is empty: say what to draw, to answer or to change")
        if len(request) > self.max_text:
            raise RequestError(
                f"the request has {len(request)} characters, more than the {self.max_text} that are read"
            )
        line = re.sub(r"\s+", " ", request).strip()
        # words are understood in small letters; the prompt keeps its own, which a model may have been taught
        plain, text = line.lower(), request if self.free else line
        understood, confidence = self._task(plain, pictures)
        if task is None:
            task = understood
        elif task is not understood:
            confidence = 1.0
        missing = self._missing(plain, task, pictures)
        inputs = _roles(task, pictures)
        # a question is passed on whole: what looks like a setting in it is part of the question
        if TASKS[task].writes:
            return Plan(
                task=task,
                prompt=text,
                inputs=inputs,
                seed=0 if task is Task.ANSWER else seed,
                confidence=confidence,
                missing=missing,
            )
        # each setting is cut out of the prompt, or the model would be asked to draw it; the negative prompt
        # comes last, since it takes all that is left up to the end
        text, width, height = self._size(text)
        text, named = self._setting(text, r"(?:,? ?(?:with |and |use )?seed (?:of |= ?)?)(-?\d+)", "seed")
        text, steps = self._setting(text, r",? ?(?:in |with |using |and )?(-?\d{1,12}) steps", "steps")
        text, guidance = self._setting(
            text, r",? ?(?:with |and )?guidance(?: scale)?(?: of| =)? (-?\d+(?:\.\d+)?)", "guidance"
        )
        text, count = self._count(text)
        # in a text of many words 'without' is a part of what is to be seen
        text, negative = (text, "") if self.free else self._negative(text)
        return Plan(
            task=task,
            # what is cut out leaves its comma; a prompt that nothing was cut out of is the user's own
            prompt=text if self.free and text == request else text.strip(" ,.!"),
            inputs=inputs,
            width=width,
            height=height,
            count=count,
            seed=seed if named is None else int(named),
            steps=int(steps) if steps is not None else None,
            guidance_scale=float(guidance) if guidance is not None else None,
            negative_prompt=negative,
            confidence=confidence,
            missing=missing,
        )

    @staticmethod
    def _task(text: str, pictures: int) -> tuple[Task, float]:
        # the first that fits wins, so the surest stand first; an attached picture decides what words leave
        # open
        if _EDIT_SURE.search(text):
            return Task.EDIT, 1.0 if pictures else 0.8
        if _QUESTION.search(text):
            return Task.ANSWER, 1.0 if pictures else 0.8
        if _DRAW.search(text):
            return Task.TEXT_TO_IMAGE, 0.9 if pictures else 1.0
        if pictures and _EDIT_MAYBE.search(text):
            return Task.EDIT, 1.0
        return (Task.EDIT, 0.5) if pictures else (Task.TEXT_TO_IMAGE, 0.9)

    def _missing(self, text: str, task: Task, pictures: int) -> tuple[str, ...]:
        role = TASKS[task].default_role
        # a subject may be absent (a question without a picture), but the rules only mean that where any text
        # may be said
        asked = role is Role.SUBJECT and task is Task.ANSWER and not self.free
        if not pictures and (asked or TASKS[task].takes.get(role, (0, 0))[0]):
            return (f"a picture {_PURPOSES[role]} (attach one)",)
        if not self.free and role is not Role.UNUSED and pictures < 2 and _SEVERAL.search(text):
            return (f"two pictures, but {pictures} is attached",)
        return ()

    def _size(self, text: str) -> tuple[str, int | None, int | None]:
        found = [size for match in _SIZE.finditer(text) if (size := _meant(match))]
        if len(set(found)) > 1:
            sizes = " and ".join(f"{size.width}x{size.height}" for size in found)
            raise RequestError(f"the request names two sizes, {sizes}: keep one")
        if found:
            return _SIZE.sub(lambda match: "" if _meant(match) else match[0], text), *found[0]
        named = [word.lower() for word in _SHAPE_BEFORE.findall(text)]
        named += [(a or b).lower() for a, b in _SHAPE_AFTER.findall(text)]
        if len({_SHAPES[word] for word in named}) > 1:
            raise RequestError(f"the request names two shapes of picture, {' and '.join(named)}: keep one")
        if named:
            w, h = _SHAPES[named[0]]
            return (
                _SHAPE_AFTER.sub("", _SHAPE_BEFORE.sub("", text)),
                round(self.native * w),
                round(self.native * h),
            )
        return text, None, None

    @staticmethod
    def _setting(text: str, pattern: str, name: str) -> tuple[str, str | None]:
        values = re.findall(pattern, text, re.IGNORECASE)
        if len(set(values)) > 1:
            raise RequestError(f"the request names two values for {name}, {' and '.join(values)}: keep one")
        return (re.sub(pattern, "", text, flags=re.IGNORECASE), values[0]) if values else (text, None)

    @staticmethod
    def _count(text: str) -> tuple[str, int]:
        match = re.search(
            rf"\b{_NUMBER} (?:different )?(?:pictures|images|versions|variations|drawings) of ",
            text,
            re.IGNORECASE,
        )
        if not match:
            return text, 1
        value = int(match[1]) if match[1].isdigit() else _NUMBERS[match[1].lower()]
        return text[: match.start()] + text[match.end() :], value

    @staticmethod
    def _negative(text: str) -> tuple[str, str]:
        match = re.search(r",? (?:but )?(?:without|but no) (.+)$", text, re.IGNORECASE)
        return (text[: match.start()], match[1].strip(" .!")) if match else (text, "")
