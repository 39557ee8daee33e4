"""What a model makes of samples of one's own while it trains: a sheet of pictures, a page of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diptych.contracts import AnswerLimits, BadSample, Picture, Sample, Source
from diptych.files.whole import write_whole
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.request import MARK, Media, Message, Plan, Task
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
    text: str
    media: list[Media]
    kept: bool
    """Whether it is never trained on."""

    @property
    def title(self) -> str:
        return f"kept: {self.text}" if self.kept else self.text


def show(sources: Sequence[tuple[Source, bool]], system: U1System, path: Path | None) -> None:
    """Draw and answer fixed samples of sources, each with whether it is one of kept samples, and write them
    as one sheet and one page beside it: what was asked, what the data have, what the model made. None: only
    draw and answer, with ranks that share the model."""
    found = [asked for source, kept in sources for asked in _asked(source, kept, system.conversation.free)]
    drawings = [asked for asked in found if _drawn(asked.sample)][:MOST]
    questions = [asked for asked in found if not _drawn(asked.sample)][:MOST]
    cells: list[Cell] = []
    if drawings:
        plans = [_plan(system, asked) for asked in drawings]
        pictures = [frames[0] for frames in draw(system, plans, [asked.media for asked in drawings])]
        for asked, pixels in zip(drawings, pictures, strict=True):
            cells += [Cell(_square(medium.pixels), "given") for medium in asked.media[:1]]
            cells += [
                Cell(_square(_drawn(asked.sample)[0].pixels), asked.title),
                Cell(_square(pixels), "drawn"),
            ]
    lines: list[str] = []
    if questions:
        talks = [[Message("user", asked.text, tuple(asked.media))] for asked in questions]
        answers = system.answers(talks, AnswerLimits(max_tokens=TOKENS))
        for asked, answer in zip(questions, answers, strict=True):
            lines += [f"asked: {asked.title}", f"data:  {_told(asked.sample)}", f"model: {answer}", ""]
    if path is None:
        return
    if cells:
        contact_sheet(cells, path)
    if lines:
        write_whole(path.with_suffix(".txt"), "\n".join(lines))


def _asked(source: Source, kept: bool, free: bool) -> list[Asked]:
    """The first samples of a source that ask once."""
    found: list[Asked] = []
    for number in range(TRIED * max(PICTURES, ANSWERS)):
        try:
            sample = source.draw(number)
        except BadSample:
            # named, counted and bounded where it is trained on
            continue
        roles = [turn.role for turn in sample.turns if turn.role != "system"]
        if roles != ["user", "assistant"] or sample.task == "interleave":
            continue
        parts = next(turn.parts for turn in sample.turns if turn.role == "user")
        pictures = [part for part in parts if isinstance(part, Picture)]
        # a free model has marks where pictures stand, and the others read words alone
        words = [part if isinstance(part, str) else MARK * free for part in parts]
        media = [Media.picture(picture.pixels) for picture in pictures]
        found.append(Asked(sample, "".join(words).strip(), media, kept))
        if len(found) >= (PICTURES if _drawn(sample) else ANSWERS):
            break
    return found


def _drawn(sample: Sample) -> list[Picture]:
    return [picture for picture in sample.pictures if picture.drawn]


def _told(sample: Sample) -> str:
    return " ".join(part for part in sample.turns[-1].parts if isinstance(part, str))


def _plan(system: U1System, asked: Asked) -> Plan:
    height, width = _drawn(asked.sample)[0].pixels.shape[:2]
    task = Task.EDIT if asked.media else Task.TEXT_TO_IMAGE
    return Pipeline(system).plan(
        asked.text, len(asked.media), task=task, width=width, height=height, seed=1, steps=STEPS
    )


def _square(pixels: np.ndarray) -> np.ndarray:
    """A picture in the middle of a white square, so that a sheet shows its shape."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    canvas = np.full((side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return canvas
