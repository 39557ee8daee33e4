"""Carrying out plans."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from diptych.contracts import AnswerLimits, Prompt, System
from diptych.data.clips import VIDEOS, is_clip, open_clip
from diptych.data.pictures import open_picture, resize, save_picture
from diptych.files.whole import write_whole
from diptych.inference.converse import Converses
from diptych.inference.draw import draw, prompt_of, stack_of
from diptych.inference.story import tell
from diptych.planning import Limits, RulePlanner, settle
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
    parse_task,
)

SEEDS = 2**32
"""A fresh seed is below this."""


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


def names(path: Path, count: int) -> list[Path]:
    """Where so many pictures are written: `path`, or path-0, path-1 ... for several."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(count)]


class Pipeline:
    """A loaded model with its planner: what `diptych.load()` returns."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.planner = RulePlanner(system.native)
        if isinstance(system, Converses) and system.free:
            self.planner = RulePlanner(system.native, True, system.max_text)

    @property
    def limits(self) -> Limits:
        sampler = self.system.sampler
        more: dict[str, Any] = {}
        if isinstance(self.system, Converses):
            more = {"think_tokens": self.system.think_tokens, "sizes_free": self.system.sizes_free}
        return Limits(
            max_text=self.planner.max_text,
            **more,
            width=self.system.native,
            height=self.system.native,
            max_side=self.system.max_side,
            round_size=self.system.space.round_size,
            steps=sampler.num_steps,
            guidance_scale=sampler.guidance_scale,
            image_guidance_scale=sampler.image_guidance_scale,
            tasks=self.system.capabilities,
            max_frames=self.system.max_frames,
            max_media=self.system.max_media,
            control=self.system.control,
        )

    def plan(self, request: str, pictures: int = 0, **overrides: Any) -> Plan:
        """What a request is understood as, settled; any field of the plan can be overridden.

        Raises RequestError with one sentence where it cannot be carried out.
        """
        unknown = set(overrides) - set(Plan.__dataclass_fields__)
        if unknown:
            raise RequestError(
                f"a plan has no field {sorted(unknown)[0]!r}; it has {', '.join(Plan.__dataclass_fields__)}"
            )
        # the task goes to the planner: missing media and roles depend on it. All else overrules what was
        # understood
        task = overrides.pop("task", None)
        # a fresh seed where none is named: a fixed one would give every picture the same noise, and so much
        # the same background
        plan = self.planner.plan(
            request, pictures, None if task is None else parse_task(task), secrets.randbelow(SEEDS)
        )
        return settle(Plan.checked({**vars(plan), **overrides}), self.limits)

    def sized(self, plan: Plan, media: Sequence[Media]) -> tuple[Plan, list[Media]]:
        """An edit with the size of its source as the system reads it: tokens of both lie over one another,
        and what is not asked for stays in its place. A size that the plan names is given to the source, or
        drawn as it is where the system changes pictures at any size. All other plans as they are.

        Raises RequestError for a size at which the system reads no picture.
        """
        media = list(media)
        if plan.task is not Task.EDIT:
            return plan, media
        place = plan.inputs.index(Role.SOURCE)
        height, width = self.system.fit(media[place].pixels).shape[:2]
        asked = (plan.width or width, plan.height or height)
        if self.limits.sizes_free:
            return self._within(replace(plan, width=asked[0], height=asked[1])), media
        if asked != (width, height):
            # the other media are left alone: a system brings them to the size of what is drawn itself
            media[place] = Media.picture(resize(media[place].pixels, *asked), media[place].name)
            height, width = self.system.fit(media[place].pixels).shape[:2]
        if asked != (width, height):
            raise RequestError(
                f"this model cannot change a picture at {asked[0]}x{asked[1]}, which it reads at "
                f"{width}x{height}: ask for that size, or for none"
            )
        return replace(plan, width=width, height=height), media

    def _within(self, plan: Plan) -> Plan:
        """A long strip is read at a size that is drawn by no model."""
        if max(plan.width or 0, plan.height or 0) <= self.system.max_side:
            return plan
        raise RequestError(
            f"the picture is read at {plan.width}x{plan.height} px, and this model draws at most "
            f"{self.system.max_side} px a side: name a size"
        )

    def run(
        self,
        request: str,
        images: Sequence[str | Path | np.ndarray] = (),
        on_step: Callable[[int], Any] | None = None,
        history: Sequence[Message] = (),
        limits: AnswerLimits = AnswerLimits(),
        **overrides: Any,
    ) -> Result:
        """Carry out a request about or with pictures and clips (files or uint8 arrays; one of four axes is a
        clip), behind earlier turns; `limits` say how text is written, overrides are fields of the plan."""
        plan = self.plan(request, len(images), **overrides)
        return self.carry_out(plan, self.attached(plan, images), on_step, history, limits)

    def carry_out(
        self,
        plan: Plan,
        media: Sequence[Media] = (),
        on_step: Callable[[int], Any] | None = None,
        history: Sequence[Message] = (),
        limits: AnswerLimits = AnswerLimits(),
    ) -> Result:
        """Carry out a settled plan."""
        if TASKS[plan.task].writes:
            return Result.of(plan, self.stream(plan, media, on_step, history, limits))
        plan, media = self.sized(plan, media)
        prompt = prompt_of(plan, history)
        thought = ""
        if plan.think:
            prompt, thought = self._thought(plan, prompt, media)
        # a picture of several is that of its own seed, so that any one of them can be drawn again alone
        plans = [replace(plan, seed=plan.seed + i, count=1) for i in range(plan.count)]
        drawn = draw(self.system, plans, [media] * plan.count, on_step, [prompt] * plan.count)
        return Result(plan, media=tuple(Media(frames) for frames in drawn), thought=thought)

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
        limits: AnswerLimits = AnswerLimits(),
    ) -> Iterator[str | Media]:
        """An answer as it comes: pieces of text, and the pictures of one that draws."""
        if TASKS[plan.task].makes is Product.STORY:
            return tell(self.system, plan, media, history, limits, on_step)
        return self.system.answer([*history, Message("user", plan.prompt, tuple(media))], limits)

    def attached(self, plan: Plan, images: Sequence[str | Path | np.ndarray]) -> list[Media]:
        """What is attached to a request, for its roles: a clip may be asked about, where the model looks at
        clips; for all else, and of all else, the first frame of an animation is used. Raises as `open`."""
        if len(images) != len(plan.inputs):
            raise RequestError(
                f"the plan names {len(plan.inputs)} attached media, but there are {len(images)}"
            )
        pairs = zip(images, plan.inputs, strict=True)
        return [self.open(image, self.clip_frames * (role is Role.SUBJECT)) for image, role in pairs]

    @property
    def clip_frames(self) -> int:
        """Most frames of a clip that the model looks at."""
        return self.system.clip_frames if isinstance(self.system, Converses) else 0

    @staticmethod
    def open(image: str | Path | np.ndarray, clip_frames: int = 0) -> Media:
        """A file or a uint8 array (height, width, 3), or of a clip (frames, height, width, 3), as media; of a
        clip in a file, at most so many frames. Raises PictureError or RequestError for what is none."""
        if isinstance(image, np.ndarray):
            return Media(image, "clip") if image.ndim == 4 else Media.picture(image)
        if clip_frames and is_clip(Path(image)):
            return open_clip(Path(image), clip_frames)
        if Path(image).suffix.lower() in VIDEOS:
            raise RequestError(f"{image} is a clip by its name, and a picture is needed here")
        return Media.picture(open_picture(image), str(image))
