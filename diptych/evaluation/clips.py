"""The clips of the emoji benchmark: twelve tasks less those of pictures, one sample each, judged by the exact
checker of clips.

Each part asks for so many clips in all, its types in turn. Beside the verdicts stand the mistakes by name,
how much flickers that should stay, and how many of the given frames are kept.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diptych import planning
from diptych.evaluation.statistics import Score, mean_of
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell
from diptych.request import Media, Message, Plan, RequestError, Task
from diptych.worlds.emoji import motion_wording, motion_words
from diptych.worlds.emoji.motion import (
    FPS,
    FRAMES,
    STORIES,
    MovingWorld,
    film_for,
    moving_world,
    sample_story,
)
from diptych.worlds.emoji.motion_checker import ClipChecker, distance
from diptych.worlds.emoji.motion_words import CLIP_QUESTIONS, judge_clip_answer
from diptych.worlds.emoji.questions import Question
from diptych.worlds.emoji.scene import EmojiWorld
from diptych.worlds.emoji.shots import CLIP_EDITS, CONTROLS, GIVEN_FRAMES, SHOTS, Plain, Shot, sample_shot

PARTS: dict[str, tuple[tuple[str, ...], bool]] = {
    "text to clip": (STORIES, False),
    "text to clip, held-out": (STORIES, True),
    "picture to clip": (tuple(GIVEN_FRAMES), False),
    "picture to clip, held-out": (tuple(GIVEN_FRAMES), True),
    "reference to clip": (("reference",), False),
    "clip edits": (CLIP_EDITS, False),
    "controlled clip": (CONTROLS, False),
}
"""Part -> types of its shots (of text alone: of its stories), and whether these are held out of training."""
WITHIN = 2
"""Levels of 255 that a frame may miss the one that was given by, for it to count as the same."""
STRIPS = 4
"""Film strips of right clips a part, and as many of wrong ones."""
Progress = Callable[[str, int, int], Any]


@dataclass
class ClipScores:
    questions: dict[str, Score] = field(default_factory=dict)
    drawn: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Part -> type -> share of right clips."""
    faults: dict[str, Counter[str]] = field(default_factory=dict)
    """Part -> how many clips have each mistake."""
    flicker: dict[str, float] = field(default_factory=dict)
    """Part -> the worst step's mean change of what should stay, in levels of 255, averaged over clips."""
    given: dict[str, Score] = field(default_factory=dict)
    """Part -> share of given frames that the clip has within `WITHIN` levels everywhere."""
    cells: dict[str, list[Cell]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for part, scores in {"questions about clips": self.questions, **self.drawn}.items():
            if scores:
                mean, half = mean_of(scores.values())
                out[part] = {
                    "mean": round(mean, 4),
                    "plus_minus": round(half, 4),
                    "by": {name: score.as_dict() for name, score in scores.items()},
                }
        if self.given:
            out["given frames kept"] = {part: score.as_dict() for part, score in self.given.items()}
        return out

    def notes(self) -> dict[str, Any]:
        """What is no share of right ones: mistakes by name, and flicker."""
        return {
            "mistakes": {part: dict(found.most_common()) for part, found in self.faults.items()},
            "flicker": {part: round(value, 3) for part, value in self.flicker.items()},
        }


def stream(seed: int, part: str) -> np.random.Generator:
    """A stream for each part, by its name: one split alone, or a part that is added, changes no other."""
    return np.random.default_rng([seed, zlib.crc32(part.encode())])


def evaluate_clips(
    pipeline: Pipeline,
    world: EmojiWorld,
    prompts: int,
    seed: int,
    wide: bool = False,
    held: bool = False,
    progress: Progress | None = None,
) -> ClipScores:
    """Judge a model's clips of a world's things: `prompts` a question's type, and a part. In wide words, or
    plain ones; `held`: wide ones in ways of saying that no training has. What the model does not do is left
    out.

    Raises RequestError for a model that draws no clips.
    """
    if pipeline.system.settings.max_frames < FRAMES:
        raise RequestError(
            f"the model draws no clips of {FRAMES} frames (at most "
            f"{pipeline.system.settings.max_frames}): judge another split"
        )
    moving, result = moving_world(world.config), ClipScores()
    checker = ClipChecker(moving)
    parts = [("questions", type) for type in CLIP_QUESTIONS] + [("drawn", part) for part in PARTS]
    for done, (kind, part) in enumerate(parts):
        if progress:
            progress(f"clips: {part}", done, len(parts))
        words = stream(seed, f"words of clips {part}")
        rng = stream(seed, f"clips {part}")
        if kind == "questions":
            if pipeline.system.settings.clip_frames:
                _questions(pipeline, moving, part, prompts, rng, words if wide else None, held, result)
            continue
        types, unseen = PARTS[part]
        if SHOTS.get(types[0], Task.TEXT_TO_CLIP) not in pipeline.system.settings.tasks:
            continue
        shots = [
            _shot(moving, types[n % len(types)], rng, words if wide else None, held, unseen)
            for n in range(prompts)
        ]
        clips = draw(pipeline.system, *_planned(pipeline, shots, seed))
        _judged(checker, part, types, shots, clips, result)
    return result


def _shot(
    world: MovingWorld,
    type: str,
    rng: np.random.Generator,
    words: np.random.Generator | None,
    held: bool,
    unseen: bool,
) -> Shot:
    # words from a stream of their own, so that plain and wide ones tell of the same things
    said = Plain(world, rng) if words is None else motion_wording.Wide(world, words, held)
    story = type if type in STORIES else None
    return sample_shot(world, "text" if story else type, rng, said, unseen, story)


def _planned(
    pipeline: Pipeline, shots: Sequence[Shot], seed: int
) -> tuple[list[Plan], list[Sequence[Media]]]:
    """Settled plans, and the media of each."""
    plans: list[Plan] = []
    media: list[Sequence[Media]] = []
    for n, shot in enumerate(shots):
        given = [
            Media(pixels if pixels.ndim == 4 else pixels[None], role.value, FPS if pixels.ndim == 4 else None)
            for role, pixels in shot.given
        ]
        plan = Plan(
            task=shot.task,
            prompt=shot.text,
            inputs=tuple(role for role, _ in shot.given),
            frames=FRAMES,
            fps=FPS,
            seed=seed + n,
        )
        plan = planning.settle(plan, pipeline.system.settings)
        sized, found = planning.sized(pipeline.system.settings, plan, given) if given else (plan, given)
        plans.append(sized)
        media.append(found)
    return plans, media


def _judged(
    checker: ClipChecker,
    part: str,
    types: Sequence[str],
    shots: Sequence[Shot],
    clips: Sequence[np.ndarray],
    result: ClipScores,
) -> None:
    verdicts = [checker.judge(clip, shot) for clip, shot in zip(clips, shots, strict=True)]
    found = [verdict.faults for verdict in verdicts]
    result.drawn[part] = {
        type: Score(sum(not faults for faults in mine), len(mine))
        for number, type in enumerate(types)
        if (mine := found[number :: len(types)])
    }
    result.faults[part] = Counter(fault for faults in found for fault in faults)
    result.flicker[part] = float(np.mean([verdict.flicker for verdict in verdicts]))
    kept = [
        distance(clip[at], checker.world.film(shot.film)[at]).max() <= WITHIN
        for clip, shot in zip(clips, shots, strict=True)
        for at in shot.pinned
    ]
    if kept:
        result.given[part] = Score(sum(map(bool, kept)), len(kept))
    cells = result.cells.setdefault(f"clips-{part.replace(', ', '-').replace(' ', '-')}", [])
    for right in (True, False):
        rows = zip(clips, shots, found, strict=True)
        for clip, shot, faults in [row for row in rows if (not row[2]) is right][:STRIPS]:
            cells += [Cell(pixels, role.value) for role, pixels in shot.given]
            told = f"{shot.text} ({', '.join(faults)})" if faults else shot.text
            cells.append(Cell(clip, told, right))


def _questions(
    pipeline: Pipeline,
    world: MovingWorld,
    type: str,
    prompts: int,
    rng: np.random.Generator,
    words: np.random.Generator | None,
    held: bool,
    result: ClipScores,
) -> None:
    questions: list[Question] = []
    clips: list[np.ndarray] = []
    # not every story has a single right answer for every type
    while len(questions) < prompts:
        story = sample_story(world, rng)
        asked = motion_words.choose(story, type, rng)
        if asked is None:
            continue
        clips.append(world.film(film_for(world, story, rng)))
        said = motion_words.plain(world, asked, rng)
        questions.append(said if words is None else motion_wording.question(world, asked, words, held))
    conversations = [
        [Message("user", question.text, (Media(clip, "clip", FPS),))]
        for question, clip in zip(questions, clips, strict=True)
    ]
    answers = [
        answer
        # fifty at once bounds the memory of their caches
        for start in range(0, prompts, 50)
        for answer in pipeline.system.answers(conversations[start : start + 50])
    ]
    right = [judge_clip_answer(world, q, a) for q, a in zip(questions, answers, strict=True)]
    result.questions[type] = Score(sum(right), len(right))
    shown = list(zip(clips, questions, answers, right, strict=True))[:3]
    cells = result.cells.setdefault("clips-questions", [])
    cells += [Cell(clip, f"{q.text} {a}", verdict) for clip, q, a, verdict in shown]
