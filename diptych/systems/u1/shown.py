"""What a model makes of samples of one's own while it trains: a sheet of pictures, a page of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diptych.clips import CLIP_ORDER
from diptych.contracts import AnswerLimits, BadSample, Picture, Sample, Source, Written
from diptych.files.whole import write_whole
from diptych.inference import draw
from diptych.inference.draw import prompt_of
from diptych.inference.sheet import Cell, contact_sheet
from diptych.planning.normalise import settle
from diptych.request import MARK, Media, Message, Plan, RequestError, Role, Task
from diptych.settings import check_shape
from diptych.systems.u1.conversation import CLIP_GUIDES
from diptych.systems.u1.system import U1System

PICTURES, ANSWERS = 4, 6
"""Samples that are shown of what a source trains on, and as many of what it keeps."""
MOST = 24
TRIED = 4
"""Samples looked at for each that is shown; those of several turns are passed over."""
STEPS, TOKENS = 12, 64
"""A sample says how far a run is, and need not be the best that the model can do."""


class Asked(NamedTuple):
    sample: Sample
    before: tuple[Message, ...]
    """The system text that the sample brings."""
    text: str
    media: list[Media]
    plan: Plan
    kept: bool
    """Whether it is never trained on."""

    @property
    def title(self) -> str:
        return f"kept: {self.text}" if self.kept else self.text


def show(sources: Sequence[tuple[Source, bool]], system: U1System, path: Path | None) -> None:
    """Draw and answer fixed samples of sources, each with whether it is one of kept samples, and write them
    as one sheet and one page beside it: what was asked, what the data have, what the model made. None: only
    draw and answer, with ranks that share the model."""
    found = [asked for source, kept in sources for asked in _asked(source, kept, system)]
    drawings = [asked for asked in found if _drawn(asked.sample)][:MOST]
    questions = [asked for asked in found if not _drawn(asked.sample)][:MOST]
    cells: list[Cell] = []
    if drawings:
        plans = [asked.plan for asked in drawings]
        prompts = [prompt_of(asked.plan, asked.before) for asked in drawings]
        pictures = draw(system, plans, [asked.media for asked in drawings], prompts=prompts)
        for asked, frames in zip(drawings, pictures, strict=True):
            cells += [Cell(_square(medium.frames), "given") for medium in asked.media[:1]]
            cells += [
                Cell(_square(_drawn(asked.sample)[0].frames), asked.title),
                Cell(_square(frames), "drawn"),
            ]
    lines: list[str] = []
    if questions:
        talks = [[*asked.before, Message("user", asked.text, tuple(asked.media))] for asked in questions]
        answers = system.answers(talks, AnswerLimits(max_tokens=TOKENS))
        for asked, answer in zip(questions, answers, strict=True):
            lines += [f"asked: {asked.title}", f"data:  {_told(asked.sample)}", f"model: {answer}", ""]
    if path is None:
        return
    if cells:
        contact_sheet(cells, path)
    if lines:
        write_whole(path.with_suffix(".txt"), "\n".join(lines))


def _asked(source: Source, kept: bool, system: U1System) -> list[Asked]:
    """The first samples of a source that ask once, and for no more than a request may."""
    found: list[Asked] = []
    for number in range(TRIED * max(PICTURES, ANSWERS)):
        try:
            sample = source.draw(number)
        except BadSample:
            # named, counted and bounded where it is trained on
            continue
        speakers = [turn.role for turn in sample.turns if turn.role != "system"]
        if speakers != ["user", "assistant"] or sample.task == "interleave":
            continue
        parts = next(turn.parts for turn in sample.turns if turn.role == "user")
        parts, roles = _named(parts) if sample.task in ("clip", "clip-edit") else (parts, ())
        pictures = [part for part in parts if isinstance(part, Picture)]
        # a free model has marks where pictures stand, and the others read words alone
        words = [
            part if isinstance(part, str) else MARK * (system.conversation.free and not roles)
            for part in parts
        ]
        text, media = "".join(words).strip(), [Media(picture.frames) for picture in pictures]
        said = [part for turn in sample.turns if turn.role == "system" for part in turn.parts]
        before = tuple(Message("system", part) for part in said if isinstance(part, str))
        try:
            plan = settle(_plan(sample, text, roles), system.settings)
            for picture in pictures:
                check_shape(picture.frames.shape[2], picture.frames.shape[1])
        except RequestError:
            # training has other limits than requests
            continue
        if len(system.template.write(sample)) > system.conversation.context:
            continue
        found.append(Asked(sample, before, text, media, plan, kept))
        if len(found) >= (PICTURES if _drawn(sample) else ANSWERS):
            break
    return found


def _drawn(sample: Sample) -> list[Picture]:
    return [picture for picture in sample.pictures if picture.drawn]


def _told(sample: Sample) -> str:
    return " ".join(part for part in sample.turns[-1].parts if isinstance(part, str))


def _named(
    parts: Sequence[str | Picture | Written],
) -> tuple[tuple[str | Picture | Written, ...], tuple[Role, ...]]:
    """The parts of a turn that asks for a clip without the names of roles, and these."""
    names = {f" {role.value}": role for role in CLIP_ORDER}
    kept, roles = list[str | Picture | Written](), list[Role]()
    role = Role.SOURCE
    for part in parts:
        if isinstance(part, str) and part in names:
            role = names[part]
            continue
        if isinstance(part, Picture):
            roles.append(role)
        kept.append(part)
        role = Role.SOURCE
    return tuple(kept), tuple(roles)


def _plan(sample: Sample, text: str, roles: Sequence[Role]) -> Plan:
    """A sample as a request, its words as they are: a caption that speaks of sizes or of numbers is none that
    asks for them. `roles` are of what is given for a clip."""
    given = len(sample.pictures) - len(_drawn(sample))
    if not _drawn(sample):
        return Plan(task=Task.ANSWER, prompt=text, inputs=(Role.SUBJECT,) * given)
    count, height, width = _drawn(sample)[0].frames.shape[:3]
    if count > 1:
        # what leads comes before what helps: a reference stands beside a source as well
        leading = (Role.CONTROL, Role.SOURCE, Role.FIRST, Role.LAST, Role.REFERENCE)
        task = next((CLIP_GUIDES[role] for role in leading if role in roles), Task.TEXT_TO_CLIP)
        inputs = tuple(roles)
    else:
        task = Task.EDIT if given else Task.TEXT_TO_IMAGE
        inputs = (Role.SOURCE, *(Role.REFERENCE,) * (given - 1)) if given else ()
    return Plan(
        task=task,
        prompt=text,
        inputs=inputs,
        frames=count,
        width=width,
        height=height,
        seed=1,
        steps=STEPS,
    )


def _square(frames: np.ndarray) -> np.ndarray:
    """A picture or clip (frames, height, width, 3) in the middle of a white square, so that a sheet shows its
    shape."""
    count, height, width = frames.shape[:3]
    side = max(height, width)
    canvas = np.full((count, side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[:, top : top + height, left : left + width] = frames
    return canvas if count > 1 else canvas[0]
