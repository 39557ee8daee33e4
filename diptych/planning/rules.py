"""The rule planner: a request in plain English words to an intent, deterministically. The baseline of the
learned planner, and what is left where a request's language is unknown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from diptych.planning.schema import Attached, Control, Input, Intent, Language, Look, Missing, Request, Step
from diptych.request import TASKS, Product, Role, Task

_WORDS = (
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
)
_NUMBERS = {word: number for number, word in enumerate(_WORDS)}
# twelve digits at most: what is longer is no number that anyone means
_NUMBER = rf"(\d{{1,12}}|{'|'.join(_NUMBERS)})"
_DONT = re.compile(
    r"^(?:please )?(?:do not|don't|dont) (?:edit|change|touch|alter|draw)[^,.;:]{0,60}[,.;:] ?"
)
_POLITE = re.compile(
    r"^(?:(?:hi|hello|hey)[ ,!]+)?"
    r"(?:(?:can|could|would|will) you (?:please |kindly )?|i(?:'d| would) like you to |i want you to )"
    r"(?=(?:draw|paint|sketch|generate|create|make|show me|add|remove|delete|erase|replace|turn|change|"
    r"colou?r|recolou?r|put|swap|move|animate)\b)"
)
_QUESTION = re.compile(
    r"^(?:please )?(what|how many|how much|how|which|where|who|why|when|is|are|do|does|can you see|count|"
    r"describe|caption|tell me|name|read|transcribe|"
    r"(?:give|write)(?: me)? an? (?:caption|description|summary))\b"
    r"|\?\s*$"
)
_DRAW = re.compile(
    r"^(please )?(draw|paint a|paint an|generate|create|sketch|show me|make (me )?(a|an|\d+|two|three|four|"
    r"five) )\b"
)
# 'make the cat red' changes a picture, 'make a red cat' draws one: the article decides
_EDIT_SURE = re.compile(
    r"^(please )?((remove|delete|erase|replace|recolou?r|move|shift|swap|get rid of)\b"
    r"|(make|paint|turn|change|give|use|colou?r|take) (the|its|it)\b|(make|use) .*\bbackground\b|take .* "
    r"away\b)"
)
_EDIT_MAYBE = re.compile(r"^(please )?(add|put|insert|also draw|use|turn|change|make|give|take|paint)\b")
_CLIP = re.compile(
    r"\b(videos?|clips?|animation|animated?|animate|gif|movie|footage|film of|bring (?:\w+ )?to life|"
    r"\d+(?:\.\d+)?[ -]?(?:s|sec|seconds?))\b"
)
_LAST = re.compile(r"\b(?:end(?:s|ing)? (?:with|on|in)|last frame|final frame)\b")
_REFERENCE = re.compile(
    r"\b(?:like (?:this|the|these) (?:one|ones|picture|image|photo)|"
    r"th(?:is|ese) (?:characters?|logos?|person|people|style)|same (?:style|character|person) as|"
    r"in the style of (?:this|the attached)|as (?:a )?reference)\b"
)
_MASKED = re.compile(r"\bmask(?:ed)?\b|\bwhere (?:it|the \w+) is white\b|\bwhite (?:area|part|region)\b")
_CONTROLS = {
    Control.EDGES: r"edges?|canny|outlines?|contours?",
    Control.LINES: r"sketch|scribble|line ?art|line drawing|doodle",
    Control.DEPTH: r"depth",
    Control.POSE: r"poses?|skeleton|posture",
    Control.BOXES: r"boxes|layout",
    Control.SEGMENTS: r"segmentation|segments",
}
_FOLLOWS = re.compile(
    r"\b(?:follow(?:s|ing)?|along|according to|based on|guided by|match(?:es|ing)?|fits?|from|with|using) "
    r"(?:this|these|the|that|my) (?:attached |given )?"
    + "(?:"
    + "|".join(f"(?P<{kind}>{words})" for kind, words in _CONTROLS.items())
    + r")\b"
)
_THEN = re.compile(
    r"^(?P<first>.{3,400}?)(?:,| and|, and|\.|;) ?then "
    r"(?P<then>(?:animate|bring|make|turn) (?:it|that|this|the result)\b.*)$",
    re.IGNORECASE,
)
_AGAIN = re.compile(r"^(?:and |now |please )*(?:another(?: one)?|again|one more|once more)\b[ .!]*$")
_SAME = re.compile(
    r"^(?:and |now |please )*the same(?: (?:one|thing|picture|again))?,?(?: but)?,? +(?P<change>.+)$"
)
_RESHAPE = re.compile(
    r"^(?:and |now |please )*make (?:it|that) (?P<shape>wider|taller|square|vertical|horizontal)\b"
)
_SEVERAL = re.compile(r"\b(both|these|the two|the three|two|three) (pictures|images|photos)\b|\bcompare\b")
_SHAPES = {
    "square": (1, 1),
    "wide": (4, 3),
    "wider": (4, 3),
    "landscape": (16, 9),
    "widescreen": (16, 9),
    "horizontal": (16, 9),
    "tall": (3, 4),
    "taller": (3, 4),
    "portrait": (9, 16),
    "vertical": (9, 16),
    "phone": (9, 16),
}
_NAMES = "|".join(_SHAPES)
_SHAPE_BEFORE = re.compile(
    rf"\b({_NAMES}) (?=(?:picture|image|photo|video|clip)\b)|\b(phone) (?=wallpaper\b)", re.IGNORECASE
)
# ', square' at the end may be a thing to draw, so square needs its 'format'
_SHAPE_AFTER = re.compile(
    rf",? ?(?:\b(?:as|in) )?(?:\ba )?\b({_NAMES}) format\b"
    rf"|, ?({'|'.join(word for word in _SHAPES if word != 'square')})$",
    re.IGNORECASE,
)
# a time of day has a colon as well, so that only shapes of screens and prints count
_RATIO = re.compile(
    r",? ?(?:\b(?:in|at|as) )?\b(16:9|9:16|4:3|3:4|3:2|2:3|1:1|21:9|9:21|5:4|4:5)(?: format)?\b"
)
_SHORT = {"4k": 2160, "uhd": 2160, "2k": 1440, "full hd": 1080, "hd": 720}
_RESOLUTION = re.compile(
    r",? ?(?:\b(?:in|at) )?\b(?:(480|720|1080|1440|2160)p|(4k|uhd|2k|full hd|hd))(?: resolution| quality)?\b",
    re.IGNORECASE,
)
_PIXELS = re.compile(r",? ?(?:\b(?:in|at|of|with) )?\b(\d{1,6}) ?(?:px|pixels)\b", re.IGNORECASE)
_SECONDS = (
    r",? ?(?:\b(?:for|of|lasting|in) )?(?<![\w.])(-?\d{1,6}(?:\.\d+)?)[ -]?(?:s|secs?|seconds?)\b(?: long)?"
)
_FPS = r",? ?(?:\b(?:at|with) )?(?<![\w.])(-?\d{1,6}(?:\.\d+)?) ?(?:fps|frames (?:a|per) second)\b"
_FRAMES = r",? ?(?:\b(?:with|of) )?(?<![\w.])(-?\d{1,6}) frames\b"

_LEAST_SIDE = 16
"""Smaller numbers with an x between them count rows and columns, unless they are called pixels or a size."""
_SIZE = re.compile(
    r"(?P<led>,? ?\b(?:at|in|of|with)(?= )|,)? ?(?P<called>\bsized? (?:of )?)?"
    # a minus sign is read along, so that the check can name the wrong value instead of drawing the right one
    r"(?<![\w.])(?P<width>-?\d{1,12}) ?(?:x|×|by|\*) ?(?P<height>-?\d{1,12})(?![\w.]*\d)"
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


class RulePlanner:
    """`free`: the prompt keeps its letters and lines, and a question needs no picture, see
    `settings.Settings`."""

    def __init__(self, free: bool = False) -> None:
        self.free = free

    def plan(self, request: Request) -> Intent:
        """What a request asks for."""
        line = re.sub(r"\s+", " ", request.text).strip()
        if request.turns and not request.media and (again := self._again(line, request)):
            return again
        found = _THEN.match(line)
        if (
            found
            and not self.free
            and self._task(found["first"].lower(), request.media)[0] is not Task.ANSWER
        ):
            return self._two(request, found["first"], found["then"])
        return self._one(request, line)

    def _two(self, request: Request, first: str, then: str) -> Intent:
        """A picture, and then a clip that begins with it."""
        intent = self._one(replace(request, text=first), first)
        settings, saying = _Settings(then), Step(task=Task.IMAGE_TO_CLIP, prompt="")
        step = replace(
            saying,
            inputs=(Input(Role.FIRST, step=0),),
            **settings.said(clip=True, negative=False),
            prompt=settings.text.strip(" ,.!"),
        )
        both = (*intent.contradictions, *settings.doubled)
        return replace(intent, steps=(*intent.steps, step), contradictions=tuple(dict.fromkeys(both)))

    def _again(self, line: str, request: Request) -> Intent | None:
        """What was asked for before, with a change; None where the request is a new one."""
        plain, before = line.lower(), replace(request, text=request.turns[-1], turns=request.turns[:-1])
        if _AGAIN.match(plain):
            return self.plan(before)
        if found := _SAME.match(plain):
            return self.plan(
                replace(before, text=f"{before.text.rstrip(' .!')}, {line[found.start('change') :]}")
            )
        if found := _RESHAPE.match(plain):
            intent = self.plan(before)
            last = replace(intent.steps[-1], aspect=_SHAPES[found["shape"]], width=None, height=None)
            return replace(intent, steps=(*intent.steps[:-1], last))
        return None

    def _one(self, request: Request, line: str) -> Intent:
        # words are understood in small letters; the prompt keeps its own, which a model may have been taught
        polite = _POLITE.match(line.lower())
        plain = line.lower()[polite.end() :].rstrip("? ") if polite else line.lower()
        text = request.text if self.free else line
        task, confidence = self._task(plain, request.media)
        inputs, control = _roles(task, plain, request.media)
        language: Language = "en" if line.isascii() else "und"
        missing, question = self._missing(plain, task, inputs, request.media)
        asked: dict[str, Any] = {"task": task, "inputs": inputs, "control": control}
        # a question is passed on whole: what looks like a setting in it is part of the question
        if TASKS[task].writes:
            steps = (Step(prompt=text, **asked),)
            return Intent(
                steps=steps, language=language, confidence=confidence, missing=missing, question=question
            )
        settings = _Settings(text[polite.end() :].rstrip("? ") if polite and not self.free else text)
        clip = task in _CLIPS
        # in a text of many words 'without' is a part of what is to be seen, and so it is of a change
        said = settings.said(clip, negative=not self.free and not TASKS[task].changes)
        cut = settings.text
        # what is cut out leaves its comma; a prompt that nothing was cut out of is the user's own
        prompt = cut if self.free and cut == request.text else cut.strip(" ,.!")
        return Intent(
            steps=(Step(prompt=prompt, **asked, **said),),
            language=language,
            confidence=confidence,
            missing=missing,
            contradictions=tuple(dict.fromkeys(settings.doubled)),
            question=question or settings.question,
        )

    @staticmethod
    def _task(text: str, media: Sequence[Attached]) -> tuple[Task, float]:
        # the first that fits wins, so the surest stand first; an attached picture decides what words leave
        # open
        text = _DONT.sub("", text)
        clips = any(medium.kind == "clip" for medium in media)
        edit = Task.EDIT_CLIP if clips else Task.EDIT
        moving = bool(_CLIP.search(text))
        if media and _QUESTION.search(text) is None:
            if not clips and moving and not _REFERENCE.search(text) and not _FOLLOWS.search(text):
                return Task.IMAGE_TO_CLIP, 0.9
            if _FOLLOWS.search(text):
                return (Task.CONTROL_TO_CLIP if clips or moving else Task.CONTROL_TO_IMAGE), 0.9
            if _REFERENCE.search(text) and not _EDIT_SURE.search(text):
                return (Task.REFERENCE_TO_CLIP if moving else Task.REFERENCE_TO_IMAGE), 0.9
            if _MASKED.search(text) and len(media) > 1:
                return edit, 1.0
        if _EDIT_SURE.search(text):
            return edit, 1.0 if media else 0.8
        if _QUESTION.search(text):
            return Task.ANSWER, 1.0 if media else 0.8
        if _DRAW.search(text):
            return (Task.TEXT_TO_CLIP if moving else Task.TEXT_TO_IMAGE), 0.9 if media else 1.0
        if media and _EDIT_MAYBE.search(text):
            return edit, 1.0
        if media:
            return edit, 0.5
        return (Task.TEXT_TO_CLIP if moving else Task.TEXT_TO_IMAGE), 0.9

    def _missing(
        self, text: str, task: Task, inputs: Sequence[Input], media: Sequence[Attached]
    ) -> tuple[tuple[Missing, ...], str]:
        """What the request needs and does not have, and a question about it."""
        role = TASKS[task].default_role
        there = [one for one in inputs if one.role is not Role.UNUSED]
        # a subject may be absent (a question without a picture), but the rules only mean that where any text
        # may be said
        asked = role is Role.SUBJECT and task is Task.ANSWER and not self.free
        if not there and (asked or TASKS[task].takes.get(role, (0, 0))[0]):
            return (_NAMED[role],), ""
        if not self.free and role is not Role.UNUSED and len(media) < 2 and _SEVERAL.search(text):
            said = f"the request speaks of two pictures, but {len(media)} is attached: which is the other?"
            return (_NAMED[role],), said
        if TASKS[task].changes and _MASKED.search(text) and not any(one.role is Role.MASK for one in inputs):
            return ("mask",), ""
        return (), ""


_CLIPS = frozenset(task for task, facts in TASKS.items() if facts.makes is Product.CLIP)
_NAMED: dict[Role, Missing] = {
    Role.SUBJECT: "subject",
    Role.SOURCE: "source",
    Role.CONTROL: "control",
    Role.REFERENCE: "reference",
    Role.FIRST: "first",
}


def _roles(task: Task, text: str, media: Sequence[Attached]) -> tuple[tuple[Input, ...], Control | None]:
    """What each medium is for, and what the one that is followed holds."""
    roles = [TASKS[task].default_role] * len(media)
    control = None
    if TASKS[task].changes and len(media) > 1 and _MASKED.search(text):
        masks = [number for number, medium in enumerate(media) if medium.look is Look.MASK]
        for number in masks or [1]:
            roles[number] = Role.MASK
    elif task is Task.IMAGE_TO_CLIP and media:
        # of two, one begins and one ends the clip
        roles[-1] = Role.LAST if _LAST.search(text) or len(media) == 2 else Role.FIRST
        roles[0] = Role.FIRST if len(media) > 1 else roles[0]
    elif task in (Task.CONTROL_TO_IMAGE, Task.CONTROL_TO_CLIP):
        followed = _FOLLOWS.search(text)
        control = Control(followed.lastgroup) if followed and followed.lastgroup else None
        plans = [number for number, medium in enumerate(media) if medium.look is not Look.PHOTO] or [0]
        roles = [Role.CONTROL if number == plans[0] else Role.REFERENCE for number in range(len(media))]
    return tuple(Input(role, number) for number, role in enumerate(TASKS[task].fitted(roles))), control


class _Settings:
    """Settings cut out of a text, one after the other, or the model would be asked to draw them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.doubled: list[str] = []
        self.question = ""

    def said(self, clip: bool, negative: bool) -> dict[str, Any]:
        """Fields of a step. The negative prompt comes last, since it takes all that is left up to the end."""
        found: dict[str, Any] = {}
        found["width"], found["height"] = self._size()
        found["aspect"] = self._aspect()
        found["resolution"] = self._resolution()
        if clip:
            for name, pattern, kind in (
                ("fps", _FPS, float),
                ("seconds", _SECONDS, float),
                ("frames", _FRAMES, int),
            ):
                value = self._value(pattern, name)
                found[name] = None if value is None else kind(value)
        seed = self._value(r"(?:,? ?(?:with |and |use )?seed (?:of |= ?)?)(-?\d{1,19})(?!\d)", "seed")
        found["seed"] = None if seed is None else int(seed)
        steps = self._value(r",? ?(?:in |with |using |and )?(-?\d{1,11}) steps", "steps")
        found["steps"] = None if steps is None else int(steps)
        scale = self._value(
            r",? ?(?:with |and )?guidance(?: scale)?(?: of| =)? (-?\d{1,9}(?:\.\d+)?)", "guidance_scale"
        )
        found["guidance_scale"] = None if scale is None else float(scale)
        found["count"] = self._count()
        found["negative_prompt"] = self._negative() if negative else ""
        return found

    def _size(self) -> tuple[int | None, int | None]:
        found = [size for match in _SIZE.finditer(self.text) if (size := _meant(match))]
        if len(set(found)) > 1:
            self._doubt(
                ("width", "height"), "sizes", [f"{size.width}x{size.height}" for size in dict.fromkeys(found)]
            )
        if found:
            self.text = _SIZE.sub(lambda match: "" if _meant(match) else match[0], self.text)
            return found[0]
        if pixels := _PIXELS.search(self.text):
            self.text = _PIXELS.sub("", self.text)
            return int(pixels[1]), int(pixels[1])
        return None, None

    def _aspect(self) -> tuple[int, int] | None:
        named = [word.lower() for pair in _SHAPE_BEFORE.findall(self.text) for word in pair if word]
        named += [(a or b).lower() for a, b in _SHAPE_AFTER.findall(self.text)]
        ratios = _RATIO.findall(self.text)
        shapes = [_SHAPES[word] for word in named] + [_pair(ratio) for ratio in ratios]
        if len(set(shapes)) > 1:
            self._doubt(("aspect",), "shapes of picture", [*named, *ratios])
        self.text = _RATIO.sub("", _SHAPE_AFTER.sub("", _SHAPE_BEFORE.sub("", self.text)))
        return shapes[0] if shapes else None

    def _resolution(self) -> int | None:
        sides = [int(a) if a else _SHORT[b.lower()] for a, b in _RESOLUTION.findall(self.text)]
        if len(set(sides)) > 1:
            self._doubt(("resolution",), "resolutions", [f"{side}p" for side in dict.fromkeys(sides)])
        self.text = _RESOLUTION.sub("", self.text)
        return sides[0] if sides else None

    def _value(self, pattern: str, name: str) -> str | None:
        values = re.findall(pattern, self.text, re.IGNORECASE)
        if len(set(values)) > 1:
            self._doubt((name,), f"values for {name}", values)
        if values:
            self.text = re.sub(pattern, "", self.text, flags=re.IGNORECASE)
        return values[0] if values else None

    def _count(self) -> int | None:
        match = re.search(
            rf"\b{_NUMBER} (?:different )?(?:pictures|images|versions|variations|drawings) of ",
            self.text,
            re.IGNORECASE,
        )
        if not match:
            return None
        self.text = self.text[: match.start()] + self.text[match.end() :]
        return int(match[1]) if match[1].isdigit() else _NUMBERS[match[1].lower()]

    def _negative(self) -> str:
        match = re.search(r",? (?:but )?(?:without|but no) (.+)$", self.text, re.IGNORECASE)
        if not match:
            return ""
        self.text = self.text[: match.start()]
        return match[1].strip(" .!")

    def _doubt(self, fields: tuple[str, ...], what: str, values: Sequence[str]) -> None:
        self.doubled += fields
        self.question = f"the request names two {what}, {' and '.join(values)}: which one?"


def _pair(ratio: str) -> tuple[int, int]:
    width, _, height = ratio.partition(":")
    return int(width), int(height)
