"""Questions about a scene with exact answers: what, how many, which colour, where, is there, caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.worlds.emoji.captions import NUMBERS, caption, counted, parse_caption, with_article
from diptych.worlds.emoji.scene import RELATIONS, EmojiWorld, Scene, Wanted, stands

QUESTION_TYPES = ("what", "how many", "colour", "where", "is there", "caption")
_WHERE = {"left of": "to the left", "right of": "to the right", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Question:
    type: str
    text: str
    answer: str


def ask(world: EmojiWorld, scene: Scene, type: str, rng: np.random.Generator) -> Question | None:
    """A question of the type about the scene, or None where the scene gives it no single right answer."""
    counts = scene.counts()

    def pick(*options: str) -> str:
        return options[int(rng.integers(len(options)))]

    if type == "what":
        if len(counts) != 1:
            return None
        ((name, count),) = counts.items()
        return Question(
            type,
            pick("what is this?", "what is in the picture?", "what do you see?"),
            counted(world.kinds[name], count),
        )
    if type == "how many":
        # some of what is not there, so that 'zero' is an answer; few, or it would be the commonest
        name = pick(*counts) if rng.random() < 0.85 else pick(*world.names)
        plural = world.kinds[name].plural
        text = pick(f"how many {plural} are there?", f"how many {plural} do you see?", f"count the {plural}")
        return Question(type, text, NUMBERS[counts[name]])
    if type == "colour":
        shapes = [world.kinds[name] for name in counts if world.kinds[name].shape]
        # 'the circle' names one kind: of two colours of circles there is no single answer
        single = [kind for kind in shapes if [k.shape for k in shapes].count(kind.shape) == 1]
        if not single or rng.random() < 0.2:
            return Question(
                type,
                pick("what colour is the background?", "which colour does the background have?"),
                scene.background,
            )
        kind = single[int(rng.integers(len(single)))]
        noun, verb = (f"{kind.shape}", "is") if counts[kind.name] == 1 else (f"{kind.shape}s", "are")
        return Question(
            type,
            pick(f"what colour {verb} the {noun}?", f"which colour {verb} the {noun}?"),
            str(kind.colour),
        )
    if type == "where":
        return _where(world, scene, rng)
    if type == "is there":
        name = pick(*counts) if rng.random() < 0.5 else pick(*world.names)
        thing = with_article(name)
        return Question(
            type, pick(f"is there {thing}?", f"do you see {thing}?"), "yes" if counts[name] else "no"
        )
    if type == "caption":
        return Question(
            type,
            pick("describe the picture", "caption this picture", "what does the picture show?"),
            scene_caption(world, scene),
        )
    raise ValueError(f"question type must be one of {', '.join(QUESTION_TYPES)}, got {type!r}")


def _where(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> Question | None:
    counts = scene.counts()
    singles = [item for item in scene.items if counts[item.name] == 1]
    if len(singles) < 2:
        return None
    first, second = (singles[i] for i in rng.choice(len(singles), size=2, replace=False))
    dx, dy = abs(first.x - second.x), abs(first.y - second.y)
    # a diagonal has two right answers, so it is not asked about
    if max(dx, dy) < 1.5 * min(dx, dy):
        return None
    axis = 0 if dx > dy else 1
    word = next(
        w for w, d in RELATIONS.items() if d[axis] and stands(w, (first.x, first.y), (second.x, second.y), 1)
    )
    phrasings = (
        f"where is the {first.name}, seen from the {second.name}?",
        f"where is the {first.name} relative to the {second.name}?",
    )
    return Question("where", phrasings[int(rng.integers(2))], _WHERE[word])


def scene_facts(world: EmojiWorld, scene: Scene) -> Wanted:
    """Counts, in the order of the world's list of kinds, and the background."""
    counts = scene.counts()
    return Wanted(
        tuple((name, counts[name]) for name in world.names if name in counts), None, scene.background
    )


def scene_caption(world: EmojiWorld, scene: Scene) -> str:
    return caption(world, scene_facts(world, scene))


def judge_answer(world: EmojiWorld, question: Question, answer: str) -> bool:
    """Whether an answer is right: the same words, or, for a caption, the same facts in whatever order."""
    given = answer.strip().lower().rstrip(".")
    if given == question.answer:
        return True
    # these two have many right wordings; all other answers are one word or phrase
    if question.type not in ("caption", "what"):
        return False
    said, true = parse_caption(world, given), parse_caption(world, question.answer)
    if said is None or true is None:
        return False
    return dict(said.counts) == dict(true.counts) and said.background in (
        None if question.type == "what" else true.background,
        true.background,
    )
