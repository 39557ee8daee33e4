"""Carrying out plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from diptych.contracts import AnswerLimits, HandsOn, Prompt, System
from diptych.data.pictures import names, save_picture
from diptych.files.whole import write_whole
from diptych.inference.converse import Converses, Plans, limits_of
from diptych.inference.draw import check_media, draw, prompt_of, stack_of
from diptych.inference.story import tell
from diptych.planning import Course, Planner, given, looked_at, sized, told, understood
from diptych.request import (
    MARK,
    TASKS,
    Media,
    Message,
    Plan,
    Product,
    RequestError,
    Role,
    Task,
)


@dataclass(frozen=True, eq=False)
class Result:
    plan: Plan
    text: str = ""
    """What was said; a mark <image> stands where a picture of an answer belongs."""
    media: tuple[Media, ...] = ()
    """What was drawn, one for each seed, or in the order of the answer."""
    thought: str = ""
    """What the model thought before it drew, where the plan asked for it."""
    parts: tuple[str | Media, ...] = ()
    """Text and pictures in their order."""
    before: tuple[Result, ...] = ()
    """What the earlier steps of the request made."""

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", (*(self.text,) * bool(self.text), *self.media))

    @classmethod
    def of(cls, plan: Plan, pieces: Iterable[str | Media]) -> Result:
        """An answer of text and pictures, as it came."""
        parts: list[str | Media] = []
        for piece in pieces:
            if isinstance(piece, str) and parts and isinstance(parts[-1], str):
                parts[-1] += piece
            else:
                parts.append(piece)
        text = "".join(part if isinstance(part, str) else MARK for part in parts)
        media = tuple(part for part in parts if isinstance(part, Media))
        return cls(plan, text, media, parts=tuple(parts))

    @property
    def images(self) -> tuple[np.ndarray, ...]:
        """The pictures among it: uint8 RGB (height, width, 3) each."""
        return tuple(drawn.pixels for drawn in self.media if len(drawn.frames) == 1)

    @property
    def clips(self) -> tuple[np.ndarray, ...]:
        """The clips among it: uint8 RGB (frames, height, width, 3) each."""
        return tuple(drawn.frames for drawn in self.media if len(drawn.frames) > 1)

    def save(self, path: str | Path) -> list[Path]:
        """Write what was drawn: `path`, or path-0, path-1 ... for several. An answer of text and pictures is
        a Markdown file, `path` with .md, with its pictures beside it, path-0.png, path-1.png ..."""
        path = Path(path)
        if TASKS[self.plan.task].makes is not Product.STORY:
            paths = names(path, len(self.media))
        else:
            paths = [path.with_name(f"{path.stem}-{number}.png") for number in range(len(self.media))]
        for name, drawn in zip(paths, self.media, strict=True):
            save_picture(drawn.frames, name, drawn.fps)
        if TASKS[self.plan.task].makes is not Product.STORY:
            return paths
        shown = (f"![]({quote(name.name)})" for name in paths)
        page = "".join(part if isinstance(part, str) else next(shown) for part in self.parts)
        write_whole(path.with_suffix(".md"), page + "\n")
        return [path.with_suffix(".md"), *paths]


class Pipeline:
    """A loaded model with its planner: what `diptych.load()` returns."""

    def __init__(self, system: System) -> None:
        self.system = system

    def planner(self, media: Sequence[Media | Path] = ()) -> Planner | None:
        """The model's own planner of a request with these media; None where it has none."""
        if self.system.settings.plans and isinstance(self.system, Plans):
            return self.system.planner(media)
        return None

    def carrier(self, task: Task) -> System:
        """What carries out a task: the model itself, or one that it hands the task to."""
        return self.system.carrier(task) if isinstance(self.system, HandsOn) else self.system

    def course(self, request: str, pictures: int = 0, **overrides: Any) -> Course:
        """What a request is understood as, step by step: see `planning.understood`."""
        overrides.setdefault("planner", self.planner())
        return understood(self.system.settings, request, pictures, **overrides)

    def plan(self, request: str, pictures: int = 0, **overrides: Any) -> Plan:
        """What a request of one step is understood as, settled. Raises RequestError for one of several."""
        plans = self.course(request, pictures, **overrides).plans
        if len(plans) > 1:
            raise RequestError(f"the request has {len(plans)} steps: `course` plans them, `run` does them")
        return plans[0]

    def run(
        self,
        request: str,
        images: Sequence[str | Path | np.ndarray] = (),
        on_step: Callable[[int], Any] | None = None,
        history: Sequence[Message] = (),
        **overrides: Any,
    ) -> Result:
        """Carry out a request about or with pictures and clips (files or uint8 arrays; one of four axes is a
        clip), behind earlier turns; overrides are fields of the plan. Of several steps, the result is the
        last one's, with the others in `before`."""
        found = looked_at(self.system.settings, images)
        turns = [turn.text for turn in history if turn.role == "user"]
        overrides.setdefault("planner", self.planner(found))
        course = understood(
            self.system.settings, request, [told(medium) for medium in found], turns, **overrides
        )
        return self.follow(course, found, on_step, history)

    def follow(
        self,
        course: Course,
        found: Sequence[Media | Path] = (),
        on_step: Callable[[int], Any] | None = None,
        history: Sequence[Message] = (),
    ) -> Result:
        """Carry out one step after the other, with what is attached and what the steps before made."""
        done: list[Result] = []
        for number in range(len(course.plans)):
            made = [result.media[0] if result.media else None for result in done]
            plan, media = given(self.system.settings, course, number, found, made)
            done.append(self.carry_out(plan, media, on_step, history))
        return replace(done[-1], before=tuple(done[:-1]))

    def carry_out(
        self,
        plan: Plan,
        media: Sequence[Media] = (),
        on_step: Callable[[int], Any] | None = None,
        history: Sequence[Message] = (),
    ) -> Result:
        """Carry out a settled plan."""
        if TASKS[plan.task].writes:
            return Result.of(plan, self.stream(plan, media, on_step, history))
        plan, media = sized(self.system.settings, plan, media)
        prompt = prompt_of(plan, history)
        thought = ""
        if plan.think:
            prompt, thought = self._thought(plan, prompt, media)
        # a picture of several is that of its own seed, so that any one of them can be drawn again alone
        plans = [replace(plan, seed=plan.seed + i, count=1) for i in range(plan.count)]
        system = self.carrier(plan.task)
        drawn = draw(system, plans, [media] * plan.count, on_step, [prompt] * plan.count)
        return Result(plan, media=tuple(Media(frames, fps=plan.fps) for frames in drawn), thought=thought)

    def _thought(self, plan: Plan, prompt: Prompt, media: Sequence[Media]) -> tuple[Prompt, str]:
        """The prompt with what the model thinks about it, which only the pass with the text sees."""
        assert isinstance(self.system, Converses)
        thoughts = self.system.thoughts(
            prompt, stack_of(plan, media), AnswerLimits(max_tokens=plan.think_tokens)
        )
        pieces = []
        while True:
            try:
                pieces.append(next(thoughts))
            except StopIteration as end:
                return replace(prompt, thought=end.value), "".join(pieces)

    def stream(
        self,
        plan: Plan,
        media: Sequence[Media] = (),
        on_step: Callable[[int], Any] | None = None,
        history: Sequence[Message] = (),
    ) -> Iterator[str | Media]:
        """An answer as it comes, about the media that the plan does not leave unused: pieces of text, and the
        pictures of one that draws. Raises RequestError for other media than the plan names."""
        check_media(plan, media)
        if TASKS[plan.task].makes is Product.STORY:
            return tell(self.system, plan, media, history, on_step)
        seen = [medium for medium, role in zip(media, plan.inputs, strict=True) if role is not Role.UNUSED]
        return self.system.answer([*history, Message("user", plan.prompt, tuple(seen))], limits_of(plan))
