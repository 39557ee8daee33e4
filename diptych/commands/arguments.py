"""What several commands take."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_type_hints

import tyro
from rich.markup import escape
from tyro.conf import Positional as Positional

from diptych import planning
from diptych.commands.terminal import aside
from diptych.data.foreign import regular
from diptych.planning import Course, Planner
from diptych.request import TASKS, Media, Plan, Product, RequestError, Role, Task
from diptych.settings import Settings

Images = Annotated[tuple[Path, ...], tyro.conf.arg(aliases=["-i"]), tyro.conf.UseAppendAction]
Json = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]
Dtype = Literal["auto", "float32", "bfloat16"]
Settled = Annotated[Path | None, tyro.conf.arg(name="plan")]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
MAX_PLAN = 2**24
"""Bytes of a plan that is read."""
_DRAWN = {
    "width",
    "height",
    "frames",
    "count",
    "seed",
    "steps",
    "guidance_scale",
    "image_guidance_scale",
    "negative_prompt",
}
"""Fields of a plan that say how something is drawn."""
_WRITTEN = {"max_tokens", "temperature", "top_p", "stop"}
"""And how something is written."""


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Fields of the plan, where they should differ from what was understood."""

    task: Task | None = None
    prompt: str | None = None
    inputs: tuple[Role, ...] | None = None
    """Role of each attached picture, in order."""
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    count: int | None = None
    """Pictures to draw."""
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    negative_prompt: str | None = None
    think: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Let the model think in words before it draws, and show its thoughts."""
    think_tokens: int | None = None
    """Most tokens of its thoughts."""
    max_tokens: int | None = None
    """Most tokens of an answer."""
    temperature: float | None = None
    """Draw an answer's words at random, the more freely the higher; 0, unless given: always the likeliest."""
    top_p: float | None = None
    """Draw among the likeliest tokens that together have this probability."""
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT"), tyro.conf.UseAppendAction] = ()
    """Text before which an answer ends; may be given several times."""

    def given(self) -> dict[str, Any]:
        # None is 'not given' and no value of its own, so a seed or a scale of 0 goes through
        values = dataclasses.asdict(self).items()
        return {k: v for k, v in values if v is not None and v is not False and v != ()}


# tasks and roles by the words that plans and messages use, not by the names of their members
PlanOverrides = Annotated[Overrides, tyro.conf.arg(name=""), tyro.conf.EnumChoicesFromValues]


_SHORT = {"-i": "--image", "-o": "--output"}


def flags(arguments: Sequence[str]) -> Counter[str]:
    """How often each flag is given, by its whole name; --x and --no-x are one."""
    given = takewhile(lambda word: word != "--", arguments)
    words = [word.partition("=")[0].replace("_", "-") for word in given]
    named = [_SHORT.get(word[:2], word) for word in words]
    return Counter(re.sub(r"^--no-", "--", word) for word in named if word.startswith("--"))


def check_no_flag_twice(arguments: Sequence[str], kind: type) -> None:
    """Raises RequestError: of two values the parser would take the last, and say nothing. `kind` is the
    command's class, whose fields say which flags may be given several times."""
    many = _repeatable(kind)
    for flag, times in flags(arguments).items():
        if times > 1 and flag not in many:
            raise RequestError(f"{flag} is given {times} times: give it once, with all its values behind it")


def _repeatable(kind: type) -> set[str]:
    """Flags each of which adds one value."""
    found = set()
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if tyro.conf.UseAppendAction in getattr(hint, "__metadata__", ()):
            found.add(f"--{name.replace('_', '-')}")
        elif dataclasses.is_dataclass(part := next(iter(get_args(hint)), hint)):
            found |= _repeatable(cast(type, part))
    return found


def print_plan(plan: Plan) -> None:
    for key, value in plan.shown().items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        aside.print(f"  [dim]{key:<22}[/dim]{escape(text)}", highlight=False, soft_wrap=True)


def understood(
    settings: Settings,
    request: str,
    images: Sequence[Path],
    overrides: Overrides,
    settled: Path | None = None,
    turns: Sequence[str] = (),
    planner: Callable[[Sequence[Media | Path]], Planner | None] = lambda media: None,
    earlier: bool = False,
) -> tuple[Course, list[Media | Path]]:
    """A request, or a file of `diptych plan`, as settled plans, with what is attached; `planner` gives the
    planner of a model that plans itself; `earlier`: turns before it have media. Raises RequestError as
    `planning.understood`, and for an override without effect."""
    fields = overrides.given()
    found = planning.looked_at(settings, images)
    if settled is None:
        told = [planning.told(medium) for medium in found]
        own = planner(found) if settings.plans else None
        course = planning.understood(settings, request, told, turns, own, **fields)
    elif request:
        raise RequestError(f"the plan of a request is in {settled} already: leave out the words or --plan")
    else:
        course = planning.settled(settings, _read_plan(settled), **fields)
    for plan in course.plans:
        # pictures of earlier turns, and of the same answer, are guided by as attached ones are
        guided = earlier or TASKS[plan.task].makes is Product.STORY
        guided = guided or any(role is not Role.UNUSED for role in plan.inputs)
        without = set() if guided else {"image_guidance_scale"}
        if not TASKS[plan.task].writes:
            without |= _WRITTEN
        if TASKS[plan.task].makes is Product.TEXT:
            without = _DRAWN - {"seed"} if plan.temperature else _DRAWN
        if vain := sorted(without & set(fields)):
            raise RequestError(f"{vain[0]} has no effect on {plan.task.value!r}: leave it out")
    return course, found


def _read_plan(path: Path) -> Course:
    regular(path, MAX_PLAN)
    return Course.from_json(path.read_bytes(), str(path))
