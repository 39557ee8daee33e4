"""Questions about a scene with exact answers: what, how many, which colour, where, is there, caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.worlds.emoji.captions import NUMBERS, caption, counted, parse_caption, with_article
from diptych.worlds.emoji.scene import OPPOSITE, RELATIONS, EmojiWorld, Scene, Wanted, stands

QUESTION_TYPES = ("what", "how many", "colour", "where", "is there", "caption")
PLACES = ("is so", "beside")
"""Further questions about places, in wide words alone: is it so, and what stands there."""
WHERE = {"left of": "to the left", "right of": "to the right", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Question:
    type: str
    text: str
    answer: str
    language: str = "en"


@dataclass(frozen=True)
class Asked:
    """What is asked of a scene, before it is put into words, and what is true of it."""

    type: str
    name: str = ""
    """The kind that is asked about; of 'colour', '' for the background."""
    other: str = ""
    """The kind that it is compared with."""
    count: int = 0
    relation: str = ""
    """How the first stands to the other: of 'where' and 'beside' as it is, of 'is so' as it is asked."""
    true: bool = True
    wanted: Wanted | None = None
    """What a description has to say."""


def ask(world: EmojiWorld, scene: Scene, type: str, rng: np.random.Generator) -> Question | None:
    """A plain question of the type about the scene, or None where the scene gives it no single right
    answer."""
    asked = choose(world, scene, type, rng)
    return None if asked is None else plain(world, asked, rng)


def choose(world: EmojiWorld, scene: Scene, type: str, rng: np.random.Generator) -> Asked | None:
    """What a question of the type may ask of the scene; None where nothing of it has a single right
    answer."""
    counts = scene.counts()

    def pick(*options: str) -> str:
        return options[int(rng.integers(len(options)))]

    if type == "what":
        if len(counts) != 1:
            return None
        return Asked(type, wanted=Wanted(tuple(counts.items())))
    if type == "how many":
        # some of what is not there, so that 'zero' is an answer; few, or it would be the commonest
        name = pick(*counts) if rng.random() < 0.85 else pick(*world.names)
        return Asked(type, name, count=counts[name])
    if type == "colour":
        shapes = [world.kinds[name] for name in counts if world.kinds[name].shape]
        # 'the circle' names one kind: of two colours of circles there is no single answer
        single = [kind for kind in shapes if [k.shape for k in shapes].count(kind.shape) == 1]
        if not single or rng.random() < 0.2:
            return Asked(type, wanted=Wanted((), None, scene.background))
        kind = single[int(rng.integers(len(single)))]
        return Asked(type, kind.name, count=counts[kind.name])
    if type in ("where", "is so", "beside"):
        return _compared(scene, type, rng)
    if type == "is there":
        name = pick(*counts) if rng.random() < 0.5 else pick(*world.names)
        return Asked(type, name, true=bool(counts[name]))
    if type == "caption":
        return Asked(type, wanted=scene_facts(world, scene))
    raise ValueError(f"question type must be one of {', '.join(QUESTION_TYPES)}, got {type!r}")


def plain(world: EmojiWorld, asked: Asked, rng: np.random.Generator) -> Question:
    """What is asked, in the benchmark's words."""

    def put(answer: str, *options: str) -> Question:
        return Question(asked.type, options[int(rng.integers(len(options)))], answer)

    if asked.type == "what":
        assert asked.wanted is not None
        ((name, count),) = asked.wanted.counts
        answer = counted(world.kinds[name], count)
        return put(answer, "what is this?", "what is in the picture?", "what do you see?")
    if asked.type == "how many":
        plural = world.kinds[asked.name].plural
        return put(
            NUMBERS[asked.count],
            f"how many {plural} are there?",
            f"how many {plural} do you see?",
            f"count the {plural}",
        )
    if asked.type == "colour":
        if asked.wanted is not None:
            return put(
                str(asked.wanted.background),
                "what colour is the background?",
                "which colour does the background have?",
            )
        kind = world.kinds[asked.name]
        noun, verb = (f"{kind.shape}", "is") if asked.count == 1 else (f"{kind.shape}s", "are")
        return put(str(kind.colour), f"what colour {verb} the {noun}?", f"which colour {verb} the {noun}?")
    if asked.type == "where":
        return put(
            WHERE[asked.relation],
            f"where is the {asked.name}, seen from the {asked.other}?",
            f"where is the {asked.name} relative to the {asked.other}?",
        )
    if asked.type == "is there":
        thing = with_article(asked.name)
        return put("yes" if asked.true else "no", f"is there {thing}?", f"do you see {thing}?")
    assert asked.wanted is not None
    return put(
        caption(world, asked.wanted),
        "describe the picture",
        "caption this picture",
        "what does the picture show?",
    )


def _compared(scene: Scene, type: str, rng: np.random.Generator) -> Asked | None:
    counts = scene.counts()
    singles = [item for item in scene.items if counts[item.name] == 1]
    # what stands beside the other must be the one thing that does
    if len(singles) < 2 or (type == "beside" and len(scene.items) > 2):
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
    if type != "is so":
        return Asked(type, first.name, second.name, relation=word)
    true = bool(rng.random() < 0.5)
    return Asked(type, first.name, second.name, relation=word if true else OPPOSITE[word], true=true)


def scene_facts(world: EmojiWorld, scene: Scene) -> Wanted:
    """Counts, in the order of the world's list of kinds, and the background."""
    counts = scene.counts()
    return Wanted(
        tuple((name, counts[name]) for name in world.names if name in counts), None, scene.background
    )


def judge_answer(world: EmojiWorld, question: Question, answer: str) -> bool:
    """Whether an answer is right: the same words, or, for a caption, the same facts in whatever order."""
    given = answer.strip().lower().rstrip(".。")
    if given == question.answer:
        return True
    # these two have many right wordings, which are read in English; all other answers are one word or phrase
    if question.language != "en" or question.type not in ("caption", "what"):
        return False
    said, true = parse_caption(world, given), parse_caption(world, question.answer)
    if said is None or true is None:
        return False
    return dict(said.counts) == dict(true.counts) and said.background in (
        None if question.type == "what" else true.background,
        true.background,
    )
