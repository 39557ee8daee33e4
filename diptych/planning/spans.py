"""From words that were marked in a request to what they say: the fields of a step.

Planner and planning data share it, so that a duration means the same in both. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diptych.planning import words
from diptych.request import MARK, TASKS, Product, Task

KINDS = (
    "prompt",
    "negative",
    "width",
    "height",
    "side",
    "aspect",
    "res",
    "seconds",
    "fps",
    "frames",
    "count",
    "seed",
    "steps",
    "guidance",
)
"""What words of a request can say."""
_LARGEST = 10**12
"""What is longer is no number that anyone means; see `schema.LARGEST`."""
_OF_CLIPS = ("seconds", "fps", "frames")


class Span(NamedTuple):
    """Words of a request that say something."""

    start: int
    end: int
    """In characters of the request."""
    kind: str
    step: int = 0


def fields(text: str, spans: Sequence[Span], task: Task) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the words of one step say: fields of a `Step` without its task and inputs, and the names of those
    that are given two values. `spans` are in their order in the text."""
    values: dict[str, Any] = {"prompt": prompt(text, spans, task)}
    contradictions: list[str] = []
    for span in spans:
        for name, value in _said(span.kind, text[span.start : span.end]):
            if values.get(name, value) != value:
                contradictions.append(name)
            values.setdefault(name, value)
    if negative := [text[s.start : s.end] for s in spans if s.kind == "negative"]:
        values["negative_prompt"] = ", ".join(trimmed(part) for part in negative)
    contradictions += _shapes(values)
    if all(name in values for name in _OF_CLIPS):
        # a frame more or less is rounding
        clash = abs(values["seconds"] * values["fps"] - values["frames"]) > 1
        contradictions += ["frames"] if clash else []
    if TASKS[task].makes is Product.PICTURE:
        contradictions += [name for name in _OF_CLIPS if name in values]
    return values, tuple(dict.fromkeys(contradictions))


def _said(kind: str, text: str) -> list[tuple[str, Any]]:
    value: Any
    match kind:
        case "width" | "height" | "frames" | "count" | "seed" | "steps":
            value = words.whole(text)
        case "side":
            value = words.whole(text)
            return [] if value is None or abs(value) >= _LARGEST else [("width", value), ("height", value)]
        case "seconds":
            value = words.seconds(text)
        case "fps" | "guidance":
            value = words.number(text)
        case "aspect":
            shape = words.aspect(text)
            return [("aspect", shape)] if shape and max(shape) < 10**5 else []
        case "res":
            value = words.resolution(text)
            return [] if value is None else [("resolution", value)]
        case _:
            return []
    if value is None or abs(value) >= (10**19 if kind == "seed" else _LARGEST):
        return []
    return [("guidance_scale" if kind == "guidance" else kind, value)]


def _shapes(values: Mapping[str, Any]) -> list[str]:
    """Fields of shape that say something else than the size in px beside them."""
    width, height = values.get("width"), values.get("height")
    found: list[str] = []
    if not width or not height or min(width, height) <= 0:
        return found
    if shape := values.get("aspect"):
        # words such as 'wide' say which side is longer, and no more
        sides = (width > height) - (width < height), (shape[0] > shape[1]) - (shape[0] < shape[1])
        if sides[0] != sides[1]:
            found.append("aspect")
    if (short := values.get("resolution")) and short != min(width, height):
        found.append("resolution")
    return found


_EDGES = " \t\r\n,.;:!，。；：！、-–—|"
_OPEN, _CLOSE = "\"'“”„«»「」『』‘’(（", "\"'“”«»「」『』‘’)）"


def trimmed(text: str) -> str:
    """Without what stands around words, and without quotes that enclose them all."""
    text = " ".join(text.split()).strip(_EDGES)
    if (
        len(text) > 2
        and text[0] in _OPEN
        and text[-1] in _CLOSE
        and not set(text[1:-1]) & set(_OPEN + _CLOSE)
    ):
        text = text[1:-1].strip(_EDGES)
    return text


_CHINESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def prompt(text: str, spans: Sequence[Span], task: Task) -> str:
    """The words that say what is to be drawn, changed or answered. Of a question all that is asked, marks of
    media and its question mark included; of all else the marks are left out."""
    parts = [(s.start, s.end) for s in spans if s.kind == "prompt"]
    if not parts:
        return ""
    if TASKS[task].writes:
        end = parts[-1][1]
        tail = re.match(r"\s*([?？])", text[end:])
        return trimmed(text[parts[0][0] : end]) + (tail[1] if tail else "")
    joined, last = "", 0
    for start, end in parts:
        if joined and not re.search(r"\w", between := text[last:start].replace(MARK, " ")):
            # nothing but points and spaces: they belong to what is said
            joined += between.rstrip() + (" " if between[-1:].isspace() else "") + text[start:end].strip()
            last = end
            continue
        last = end
        part = trimmed(text[start:end].replace(MARK, " "))
        if part:
            touching = _CHINESE.match(part) and _CHINESE.match(joined[-1:])
            joined += part if touching or not joined else f" {part}"
    return trimmed(joined.replace(MARK, " "))
