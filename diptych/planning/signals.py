"""Intents as text of signal tokens, and back: what a language model writes as its plan.

It says all that an intent holds, with the tokens of the published dialect (`fourteen`) where there is one. A
value stands between a begin and an end token, and a call ends a step: `<BOTASK>text-to-image<EOTASK><CFI>`.
The grammar reads plans, and tells what may follow a beginning, so that no decoder need write an invalid one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar, get_args

from diptych.planning.fourteen import PUBLISHED, escaped, read_fourteen, unescaped
from diptych.planning.schema import (
    MISSING,
    SAID,
    STEPS,
    Attached,
    Control,
    Input,
    Intent,
    Language,
    Step,
)
from diptych.request import TASKS, Product, Role, Task

T = TypeVar("T")
CALLS = {Product.PICTURE: "<CFI>", Product.CLIP: "<CFV>", Product.TEXT: "<CFT>", Product.STORY: "<CFS>"}
"""What ends a step: a call for a picture, a clip, text, or text and pictures."""
END = "<EOPLAN>"
TEXT = "text without <"
"""Stands among the pieces that may follow for any text without '<'."""


class _Value(NamedTuple):
    """How a field of a step is written."""

    name: str
    token: str
    kind: str


_VALUES = (
    _Value("aspect", "ASP", "pair"),
    _Value("resolution", "SIDE", "whole"),
    _Value("seconds", "SEC", "number"),
    _Value("fps", "FPS", "number"),
    _Value("frames", "NF", "whole"),
    _Value("count", "COUNT", "whole"),
    _Value("seed", "SEED", "seed"),
    _Value("steps", "STEPS", "whole"),
    _Value("guidance_scale", "SCALE", "number"),
    _Value("negative_prompt", "NEG", "text"),
    _Value("prompt", "TEXT", "text"),
)
_PAIRED = ("TASK", "IN", "OF", "KIND", "RES", "WIDTH", "HEIGHT", *(value.token for value in _VALUES))
_PAIRED_LAST = ("LANG", "CONF", "MISS", "TWO", "ASK")
_OURS = [f"<{end}O{name}>" for name in (*_PAIRED, *_PAIRED_LAST) for end in "BE"]
TOKENS = tuple(dict.fromkeys((*PUBLISHED, *_OURS, "<CFT>", "<CFS>", END)))
"""Every token of both dialects, the fourteen first."""


def read(text: str, media: Sequence[Attached] = (), prompt: str = "") -> Intent:
    """The intent that a plan in signals, or in the fourteen, says of a request with these media; the fourteen
    say no prompt, so that it is given. Raises ValueError for what is no plan."""
    if text.startswith("<BOTASK>"):
        return Grammar(len(media)).read(text)
    return read_fourteen(text, media, prompt)


def write(intent: Intent) -> str:
    """An intent in signals; `read` gives it back, numbers to six decimals."""
    return "".join([*map(_step, intent.steps), *_last(intent), END])


def _step(step: Step) -> str:
    said = [_pair("TASK", step.task.value)]
    for found in step.inputs:
        if found.step is None:
            said.append(_pair("IN", f"{found.role.value},{found.medium}"))
        else:
            said.append(_pair("OF", f"{found.role.value},{found.step}"))
    if step.control is not None:
        said.append(_pair("KIND", step.control.value))
    if step.width is not None and step.height is not None:
        said.append(_pair("RES", f"{step.width},{step.height}"))
    elif step.width is not None:
        said.append(_pair("WIDTH", str(step.width)))
    elif step.height is not None:
        said.append(_pair("HEIGHT", str(step.height)))
    for value in _VALUES:
        if (found := getattr(step, value.name)) not in (None, ""):
            said.append(_pair(value.token, _written(value.kind, found)))
    return "".join([*said, CALLS[TASKS[step.task].makes]])


def _last(intent: Intent) -> list[str]:
    said = [_pair("LANG", intent.language), _pair("CONF", _written("number", intent.confidence))]
    said += [_pair("MISS", name) for name in intent.missing]
    said += [_pair("TWO", name) for name in intent.contradictions]
    return [*said, _pair("ASK", escaped(intent.question))] if intent.question else said


def _pair(name: str, value: str) -> str:
    return f"<BO{name}>{value}<EO{name}>"


def _written(kind: str, value: Any) -> str:
    if kind == "text":
        return escaped(value)
    if kind == "pair":
        return f"{value[0]},{value[1]}"
    # f and not repr: no exponents
    return f"{value:.6f}".rstrip("0").rstrip(".") if kind == "number" else str(value)


# what a piece of the grammar is told: the pieces that may follow; it is sent the one that does
_Part = Generator[frozenset[str], str, T]
_DIGITS = frozenset("0123456789")


class Grammar:
    """The plans that may be written about so many media, for decoding that cannot leave them.

    Pieces are tokens, single characters of numbers, names, and any text without '<' (`TEXT`).
    """

    def __init__(self, media: int) -> None:
        self.media = media

    def allowed(self, text: str) -> frozenset[str]:
        """What may follow a beginning of a plan; nothing after its end. Raises ValueError for what begins
        none."""
        return self._followed(text)[0]

    def begins(self, text: str) -> bool:
        """Whether a plan begins with this text, which may end within a piece."""
        try:
            allowed, rest, _ = self._followed(text, whole=False)
        except ValueError:
            return False
        return not rest or any(piece.startswith(rest) for piece in allowed)

    def ended(self, text: str) -> str:
        """The beginning of a plan with a short end. Raises ValueError for what begins none."""
        while not text.endswith(END):
            allowed, rest, _ = self._followed(text, whole=False)
            fits = [piece for piece in allowed if piece != TEXT and piece.startswith(rest)]
            if not fits:
                raise ValueError(f"the text {text[-24:]!r} begins no plan")
            # ends of values and calls first: what is left open is closed, and nothing else begins
            text += min(fits, key=lambda piece: (not piece.startswith(("<E", "<C")), piece))[len(rest) :]
        return text

    def read(self, text: str) -> Intent:
        """The intent that a whole plan says. Raises ValueError for any other text."""
        allowed, _, intent = self._followed(text)
        if intent is None:
            raise ValueError(f"the plan breaks off where one of {_some(allowed)} is expected")
        return intent

    def _followed(self, text: str, whole: bool = True) -> tuple[frozenset[str], str, Intent | None]:
        """The pieces that may follow, what is left of the text, and the intent at its end."""
        walk = _plan(self.media)
        allowed, rest = next(walk), text
        while rest:
            # a part of a longer piece: 'edit' of 'edit-clip'
            if not whole and any(piece.startswith(rest) and piece != rest for piece in allowed):
                return allowed, rest, None
            if fits := [piece for piece in allowed if rest.startswith(piece)]:
                taken = max(fits, key=len)
            elif TEXT in allowed and (free := rest.partition("<")[0]):
                taken = free
            else:
                raise ValueError(f"the plan has {rest[:24]!r} where one of {_some(allowed)} is expected")
            rest = rest[len(taken) :]
            try:
                allowed = walk.send(taken)
            except StopIteration as end:
                if rest:
                    raise ValueError(f"the plan goes on after its end: {rest[:24]!r}") from end
                return frozenset(), "", end.value
        return allowed, "", None


def _some(pieces: frozenset[str]) -> str:
    shown = sorted(pieces)
    return ", ".join(shown[:8]) + (" ..." if len(shown) > 8 else "")


def _plan(media: int) -> _Part[Intent]:
    steps: list[Step] = []
    piece = yield frozenset({"<BOTASK>"})
    while piece == "<BOTASK>":
        steps.append((yield from _one_step(media, len(steps))))
        after = {f"<BO{name}>" for name in _PAIRED_LAST} | {END}
        piece = yield frozenset(after | ({"<BOTASK>"} if len(steps) < STEPS else set()))
    told: dict[str, Any] = {"missing": (), "contradictions": ()}
    left = list(_PAIRED_LAST)
    while piece != END:
        name = piece[3:-1]
        left = left[left.index(name) + (name not in ("MISS", "TWO")) :]
        if name == "LANG":
            told["language"] = yield from _name(get_args(Language), "<EOLANG>")
        elif name == "CONF":
            told["confidence"] = yield from _confidence()
        elif name == "ASK":
            told["question"] = yield from _text("<EOASK>")
        else:
            field, names = ("missing", MISSING) if name == "MISS" else ("contradictions", SAID)
            rest = [other for other in names if other not in told[field]]
            told[field] += ((yield from _name(rest, f"<EO{name}>")),)
            if len(rest) == 1:
                left.remove(name)
        piece = yield frozenset({*(f"<BO{name}>" for name in left), END})
    return Intent(steps=tuple(steps), **told)


def _one_step(media: int, number: int) -> _Part[Step]:
    task = Task((yield from _name([task.value for task in Task], "<EOTASK>")))
    said: dict[str, Any] = {}
    inputs: list[Input] = []
    call = CALLS[TASKS[task].makes]
    roles = (*TASKS[task].takes, Role.UNUSED)
    # pairs of the media, then of what earlier steps made, then the values in their order
    left = ["IN", "OF", "KIND", "RES", "WIDTH", "HEIGHT", *(value.token for value in _VALUES)]
    kinds = {value.token: value for value in _VALUES}
    while True:
        free = {
            "IN": [(role, at) for role in roles for at in range(media) if Input(role, at) not in inputs],
            "OF": [
                (role, at) for role in roles for at in range(number) if Input(role, step=at) not in inputs
            ],
        }
        piece = yield frozenset({call, *(f"<BO{name}>" for name in left if free.get(name, True))})
        if piece == call:
            return Step(task=task, inputs=tuple(inputs), **{"prompt": "", **said})
        name = piece[3:-1]
        left = left if name in free else left[left.index(name) + 1 :]
        if name in free:
            role = Role((yield from _name(list(dict.fromkeys(r.value for r, _ in free[name])), ",")))
            at = int((yield from _name([str(at) for r, at in free[name] if r is role], f"<EO{name}>")))
            inputs.append(Input(role, at) if name == "IN" else Input(role, step=at))
        elif name == "KIND":
            said["control"] = Control((yield from _name([kind.value for kind in Control], "<EOKIND>")))
        elif name == "RES":
            said["width"] = yield from _number(",", int)
            said["height"] = yield from _number("<EORES>", int)
            left = left[2:]
        elif name in ("WIDTH", "HEIGHT"):
            said[name.lower()] = yield from _number(f"<EO{name}>", int)
            left = [other for other in left if other != "HEIGHT"]
        else:
            said[kinds[name].name] = yield from _value(kinds[name].kind, f"<EO{name}>")


def _value(kind: str, end: str) -> _Part[Any]:
    if kind == "text":
        return (yield from _text(end))
    if kind == "pair":
        return ((yield from _number(",", int, 4, least=1)), (yield from _number(end, int, 4, least=1)))
    if kind == "number":
        return (yield from _number(end, float))
    return (yield from _number(end, int, 19 if kind == "seed" else 12))


def _name(names: Sequence[str], end: str) -> _Part[str]:
    name = yield frozenset(names)
    yield frozenset({end})
    return name


def _text(end: str) -> _Part[str]:
    said = ""
    while (piece := (yield frozenset({TEXT, end}))) != end:
        said += piece
    return unescaped(said)


def _number(end: str, kind: Callable[[str], T], digits: int = 12, least: int | None = None) -> _Part[T]:
    """A number up to `end`, with at most so many digits before the point and six behind it."""
    said = yield (_DIGITS - {"0"}) if least else (_DIGITS | {"-"})
    if said == "-":
        said += yield _DIGITS
    whole, point, part = said.lstrip("-"), "", ""
    while True:
        more = _DIGITS if (len(part) < 6 if point else len(whole) < digits) else frozenset()
        dot = frozenset({"."}) if kind is float and not point else frozenset()
        # a point wants a digit behind it
        stop = frozenset({end}) if not point or part else frozenset()
        piece = yield more | dot | stop
        if piece == end:
            return kind(said)
        said += piece
        if piece == ".":
            point = piece
        elif point:
            part += piece
        else:
            whole += piece


def _confidence() -> _Part[float]:
    said = yield frozenset("01")
    point = frozenset({".", "<EOCONF>"}) if said == "0" else frozenset({"<EOCONF>"})
    if (yield point) == ".":
        said += "." + (yield _DIGITS)
        while (
            piece := (yield frozenset({"<EOCONF>"}) | (_DIGITS if len(said) < 8 else frozenset()))
        ) != "<EOCONF>":
            said += piece
    return float(said)
