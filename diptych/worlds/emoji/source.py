"""The embedded emoji world as sources of training samples."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from diptych.contracts import VERIFY, Picture, Sample, Turn
from diptych.request import Role
from diptych.worlds.emoji import CATEGORIES, EDIT_TYPES, QUESTION_TYPES, EmojiWorld, Scene, Wanted, wording
from diptych.worlds.emoji.captions import caption, prompt, sample_scene_facts, sample_wanted
from diptych.worlds.emoji.claims import shows, spoiled
from diptych.worlds.emoji.edits import Edit, sample_edit
from diptych.worlds.emoji.guided import sample_guided
from diptych.worlds.emoji.names import BACKGROUNDS, gender_partner, tone_base
from diptych.worlds.emoji.questions import PLACES, Question, ask, choose

TASKS = ("understand", "verify", "generate", "edit", "interleave", "text", "masked", "reference", "control")
_CATEGORY_SHARES = {
    "plain": dict(zip(CATEGORIES, (0.1, 0.2, 0.25, 0.05, 0.28, 0.12), strict=True)),
    "wide": dict(zip(CATEGORIES, (0.08, 0.18, 0.34, 0.05, 0.25, 0.1), strict=True)),
}
"""Shares follow what a trained model still gets wrong: positions and counts most, colours least."""
_EDIT_SHARES = dict(zip(EDIT_TYPES, (0.16, 0.14, 0.16, 0.14, 0.16, 0.1, 0.14), strict=True))
_QUESTION_SHARES = dict(
    zip((*QUESTION_TYPES, *PLACES), (0.08, 0.16, 0.12, 0.28, 0.1, 0.1, 0.08, 0.08), strict=True)
)
"""Of wide questions: places most."""
PLAIN_SHARE = 0.3
"""Of samples of a wide world that are in plain words, so that these are kept."""


class EmojiSource:
    """Sample `number` of one task, made from (seed, task, number). Never a held-out combination."""

    def __init__(self, world: EmojiWorld, task: str, seed: int) -> None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        self.world, self.name, self.seed = world, task, seed
        self.wide = world.config.words == "wide"

    def draw(self, number: int) -> Sample:
        # a stream for each sample: nothing needs to be kept for a run to go on at any number
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), number])
        turns = getattr(self, "_" + self.name)(rng)
        # what is drawn by given pictures is laid out as an edit is
        task = "edit" if self.name in ("masked", "reference", "control") else self.name
        return Sample(turns, task, origin=f"emoji world, seed {self.seed}, {self.name} {number}")

    def _words(self, rng: np.random.Generator) -> bool:
        """Whether the next words are wide; draws nothing in a plain world."""
        return self.wide and rng.random() >= PLAIN_SHARE

    def _scene(self, wanted: Wanted, rng: np.random.Generator) -> Scene:
        return self.world.scene_for(wanted, rng, main_axis=self.wide)

    def _picture(self, scene: Scene, drawn: bool = False) -> Picture:
        return Picture(self.world.render(scene), drawn)

    def _wanted(self, rng: np.random.Generator) -> Wanted:
        if rng.random() < 0.65:
            category = str(rng.choice(CATEGORIES, p=list(_CATEGORY_SHARES[self.world.config.words].values())))
            wanted = sample_wanted(self.world, category, rng)
            if rng.random() < 0.15:
                wanted = Wanted(wanted.counts, wanted.relation, str(rng.choice(list(BACKGROUNDS))))
            return wanted
        return sample_scene_facts(self.world, rng)

    def _request(self, rng: np.random.Generator) -> tuple[str, Scene]:
        wanted = self._wanted(rng)
        if self._words(rng):
            return wording.request(self.world, wanted, rng), self._scene(wanted, rng)
        language = "en" if rng.random() < 0.92 else str(rng.choice(self.world.config.languages))
        return prompt(self.world, wanted, rng, language), self._scene(wanted, rng)

    def _generate(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        text, scene = self._request(rng)
        return Turn("user", (text,)), Turn("assistant", (self._picture(scene, drawn=True),))

    def _understand(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        facts = sample_scene_facts(self.world, rng)
        if self.wide and rng.random() < 0.5:
            # places are asked of what stands alone of its kind
            facts = replace(facts, counts=tuple((name, 1) for name, _ in facts.counts))
        scene = self._scene(facts, rng)
        turns: list[Turn] = []
        wide = self._words(rng)
        asked = self._asked(scene, rng, 6) if wide else several_questions(self.world, scene, rng, 5)
        for question in asked:
            media: tuple[str | Picture, ...] = () if turns else (self._picture(scene),)
            turns += [Turn("user", (*media, question.text)), Turn("assistant", (question.answer,))]
        return tuple(turns)

    def _asked(self, scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
        """So many questions in wide words, of any type as often as it comes; at least one."""
        shares = list(_QUESTION_SHARES.values())
        asked: list[Question] = []
        while not asked:
            for type in rng.choice(list(_QUESTION_SHARES), size=count, p=shares):
                fact = choose(self.world, scene, str(type), rng)
                if fact is not None:
                    asked.append(wording.question(self.world, fact, rng))
        return asked

    def _verify(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        """Does the picture show what was asked for? Half the claims are true, the others miss by one
        mistake."""
        wanted = self._wanted(rng)
        # three claims about one picture, so that the picture alone does not tell the answer
        scene = self._scene(wanted, rng)
        turns: list[Turn] = []
        for _ in range(3):
            claim = wanted if rng.random() < 0.5 else spoiled(self.world, wanted, rng)
            media: tuple[str | Picture, ...] = () if turns else (self._picture(scene),)
            words = caption(self.world, claim) if rng.random() < 0.5 else prompt(self.world, claim, rng)
            question = VERIFY.format(words)
            turns += [
                Turn("user", (*media, question)),
                Turn("assistant", ("yes" if shows(self.world, scene, claim, self.wide) else "no",)),
            ]
        return tuple(turns)

    def _edit(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        edit = random_edit(self.world, rng)
        if self._words(rng):
            edit = replace(edit, instruction=wording.instruction(self.world, edit, rng))
        source, target = self._picture(edit.source), self._picture(edit.target, drawn=True)
        return Turn("user", (source, edit.instruction)), Turn("assistant", (target,))

    def _masked(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        return self._guided("masked", rng)

    def _reference(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        return self._guided("reference", rng)

    def _control(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        return self._guided("edges" if rng.random() < 0.5 else "boxes", rng)

    def _guided(self, type: str, rng: np.random.Generator) -> tuple[Turn, ...]:
        guided = sample_guided(self.world, type, rng)
        parts: list[str | Picture] = []
        for role, pixels in guided.given:
            # what a picture is for stands before it, as a model is told it when it draws
            parts += [role.value] * (role is not Role.SOURCE) + [Picture(pixels)]
        drawn = self._picture(guided.target, drawn=True)
        return Turn("user", (*parts, guided.text)), Turn("assistant", (drawn,))

    def _interleave(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        text, scene = self._request(rng)
        turns = [Turn("user", (text,)), Turn("assistant", (self._picture(scene, drawn=True),))]
        for question in several_questions(self.world, scene, rng, 2):
            turns += [Turn("user", (question.text,)), Turn("assistant", (question.answer,))]
        return tuple(turns)

    def _text(self, rng: np.random.Generator) -> tuple[Turn, ...]:
        text, _ = self._request(rng)
        # the assistant's turn alone: text that is learnt as text, with nothing to condition on
        return (Turn("assistant", (text,)),)


def several_questions(
    world: EmojiWorld, scene: Scene, rng: np.random.Generator, count: int
) -> list[Question]:
    """Up to `count` questions of different types that the scene allows, at least one."""
    asked = []
    for type in rng.permutation(QUESTION_TYPES):
        question = ask(world, scene, str(type), rng)
        if question is not None:
            asked.append(question)
    return asked[:count]


def random_edit(world: EmojiWorld, rng: np.random.Generator, type: str | None = None) -> Edit:
    """An edit, of the type if given, whose source and target hold no held-out combination."""
    while True:
        chosen = type or str(rng.choice(EDIT_TYPES, p=list(_EDIT_SHARES.values())))
        wanted = sample_scene_facts(world, rng)
        if chosen == "swap":
            wanted = _with_person(world, wanted, rng)
        edit = sample_edit(world, world.scene_for(wanted, rng), chosen, rng)
        # an edit may make a held-out combination of one that is not
        if edit is not None and not any(
            world.is_held_out(_counts(scene)) for scene in (edit.source, edit.target)
        ):
            return edit


def _with_person(world: EmojiWorld, wanted: Wanted, rng: np.random.Generator) -> Wanted:
    """The same facts with the first kind exchanged for one person, since few scenes have one by chance."""
    people = [
        n
        for n in world.names
        if tone_base(n)[1] or gender_partner(n) in world.kinds or f"{n}: dark skin tone" in world.kinds
    ]
    person = people[int(rng.integers(len(people)))]
    rest = [(name, count) for name, count in wanted.counts[1:] if name != person]
    return Wanted(((person, 1), *rest), None, wanted.background)


def _counts(scene: Scene) -> Wanted:
    return Wanted(tuple(scene.counts().items()))


def world_texts(world: EmojiWorld, seed: int, count: int) -> list[str]:
    """Prompts, questions, answers and instructions to learn a vocabulary from."""
    sources = [
        EmojiSource(world, task, seed) for task in ("generate", "understand", "edit", "masked", "reference")
    ]
    texts = [
        part
        for n in range(count)
        for s in sources
        for t in s.draw(n).turns
        for part in t.parts
        if isinstance(part, str)
    ]
    return texts + [
        text for kind in world.kinds.values() for text in (kind.name, kind.plural, *dict(kind.local).values())
    ]
