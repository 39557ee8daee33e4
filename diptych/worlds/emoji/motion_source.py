"""The moving world as sources of training samples."""

from __future__ import annotations

import zlib

import numpy as np

from diptych.clips import clip_turn
from diptych.contracts import Picture, Sample, Turn
from diptych.worlds.emoji import motion_wording, motion_words
from diptych.worlds.emoji.motion import film_for, moving_world, sample_story
from diptych.worlds.emoji.motion_words import CLIP_QUESTIONS
from diptych.worlds.emoji.questions import Question
from diptych.worlds.emoji.scene import EmojiWorld
from diptych.worlds.emoji.shots import CLIP_EDITS, CONTROLS, Plain, Words, sample_shot
from diptych.worlds.emoji.source import PLAIN_SHARE

CLIP_TASKS = ("clip-understand", "clip", "clip-first", "clip-reference", "clip-edit", "clip-control")
_SHOTS = {
    "clip": {"text": 1.0},
    "clip-first": {"first": 0.6, "last": 0.25, "both": 0.15},
    "clip-reference": {"reference": 1.0},
    "clip-edit": dict.fromkeys(CLIP_EDITS, 1 / len(CLIP_EDITS)),
    "clip-control": dict.fromkeys(CONTROLS, 1 / len(CONTROLS)),
}
"""Task -> shares of the types of its shots."""
_QUESTIONS = 3
"""At most, about one clip."""


class MotionSource:
    """Sample `number` of one task, made from (seed, task, number), of the kinds and the words of a world of
    pictures. Never of what is held out."""

    def __init__(self, world: EmojiWorld, task: str, seed: int) -> None:
        if task not in CLIP_TASKS:
            raise ValueError(f"task must be one of {', '.join(CLIP_TASKS)}, got {task!r}")
        self.world, self.name, self.seed = moving_world(world.config), task, seed
        self.wide = world.config.words == "wide"

    def draw(self, number: int) -> Sample:
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), number])
        origin = f"emoji world, seed {self.seed}, {self.name} {number}"
        if self.name == "clip-understand":
            return Sample(self._asked(rng), "understand", origin)
        shares = _SHOTS[self.name]
        type = str(rng.choice(list(shares), p=list(shares.values())))
        words: Words = motion_wording.Wide(self.world, rng) if self._words(rng) else Plain(self.world, rng)
        shot = sample_shot(self.world, type, rng, words)
        drawn = Picture(self.world.film(shot.film), drawn=True)
        turns = Turn("user", clip_turn(shot.text, shot.given)), Turn("assistant", (drawn,))
        return Sample(turns, "clip-edit" if shot.given else "clip", origin)

    def _words(self, rng: np.random.Generator) -> bool:
        """Whether the next words are wide."""
        return self.wide and rng.random() >= PLAIN_SHARE

    def _asked(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        story = sample_story(self.world, rng)
        clip = Picture(self.world.film(film_for(self.world, story, rng)))
        questions: list[Question] = []
        wide = self._words(rng)
        for type in rng.permutation(CLIP_QUESTIONS):
            asked = motion_words.choose(story, str(type), rng)
            if asked is not None and len(questions) < _QUESTIONS:
                put = motion_wording.question if wide else motion_words.plain
                questions.append(put(self.world, asked, rng))
        turns: list[Turn] = []
        for question in questions:
            media: tuple[str | Picture, ...] = () if turns else (clip,)
            turns += [Turn("user", (*media, question.text)), Turn("assistant", (question.answer,))]
        return tuple(turns)


def motion_texts(world: EmojiWorld, seed: int, count: int) -> list[str]:
    """Requests, questions and answers about clips to learn a vocabulary from."""
    sources = [MotionSource(world, task, seed) for task in CLIP_TASKS]
    return [
        part
        for number in range(count)
        for source in sources
        for turn in source.draw(number).turns
        for part in turn.parts
        if isinstance(part, str)
    ]
