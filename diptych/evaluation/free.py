"""The emoji benchmark in free words: the same facts as in its plain words, said as people say things.

Families of wordings, told apart by what is unusual about them: no article, digits, other names, clauses,
inverted order, politeness, five languages. Nothing here is trained on. What is asked for goes the whole way:
it is planned as a request of its own, drawn or answered, and judged against the facts; beside it stands the
same in the words of the benchmark.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diptych import planning
from diptych.evaluation.emoji import Evaluation, EvaluationConfig, Progress, nothing, planned
from diptych.evaluation.requests import FOLDER
from diptych.evaluation.statistics import Score
from diptych.files.typed import read
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell
from diptych.request import Media, Message, Plan, Task
from diptych.worlds.emoji import CATEGORIES, EDIT_TYPES, QUESTION_TYPES, Checker, EmojiWorld
from diptych.worlds.emoji.captions import NUMBERS, caption, sample_scene_facts, sample_wanted
from diptych.worlds.emoji.edits import Edit
from diptych.worlds.emoji.names import BACKGROUNDS, tone_base
from diptych.worlds.emoji.questions import Asked, Question, choose, judge_answer, plain
from diptych.worlds.emoji.scene import Wanted
from diptych.worlds.emoji.source import random_edit

PLAIN = "plain words"


@dataclass(frozen=True)
class Wording:
    """Wordings of one class: by category, relation, type of edit or of question."""

    language: str
    say: dict[str, tuple[str, ...]]
    synonyms: bool = False
    """Whether things have other names than those of the world."""


@dataclass(frozen=True)
class Lexicon:
    """The world's things in five languages, and the wordings that they stand in."""

    nouns: dict[str, dict[str, dict[str, str]]]
    """Language -> kind -> 'a', 'the', 'many', and 'nom' where a subject has another form."""
    synonyms: dict[str, str]
    numbers: dict[str, tuple[str, ...]]
    colours: dict[str, dict[str, str]]
    backgrounds: dict[str, dict[str, str]]
    shapes: dict[str, dict[str, tuple[str, str]]]
    sides: dict[str, dict[str, str]]
    tones: dict[str, dict[str, str]]
    where: dict[str, dict[str, tuple[str, ...]]]
    """Language -> relation -> answers that name it."""
    yes_no: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    drawing: dict[str, Wording]
    edits: dict[str, Wording]
    questions: dict[str, Wording]


@functools.cache
def lexicon() -> Lexicon:
    return read(Lexicon, FOLDER / "free.json")


@dataclass
class FreeEvaluation(Evaluation):
    """Scores by part and class of wording."""

    groups: dict[str, dict[str, Score]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        out = {}
        for name, scores in self.groups.items():
            right, total = (sum(getattr(s, key) for s in scores.values()) for key in ("right", "total"))
            low, high = Score(right, total).interval
            out[name] = {
                "mean": round(right / total, 4),
                "plus_minus": round((high - low) / 2, 4),
                "by": {key: score.as_dict() for key, score in scores.items()},
            }
        return out


def evaluate_free(
    pipeline: Pipeline, world: EmojiWorld, config: EvaluationConfig, progress: Progress | None = None
) -> FreeEvaluation:
    """`config.prompts` of each class of wording. `progress(part, done, total)` is called as parts finish.

    Raises ValueError for a world with other things than there are words for, for guided pictures and for
    clips.
    """
    if config.split == "guided":
        raise ValueError("pictures drawn by given ones are not asked for in free words: choose another split")
    if config.split == "clips":
        raise ValueError("clips are not asked for in free words: choose another split")
    if unknown := [name for name in world.names if name not in lexicon().nouns["en"]]:
        raise ValueError(f"there are no free words for {unknown[0]!r}: only small worlds are asked in them")
    result, checker = FreeEvaluation(), Checker(world)
    parts: dict[str, tuple[Mapping[str, Wording], Callable[..., list[tuple[bool, Cell]]]]] = {
        "drawing": (lexicon().drawing, _drawing),
        "edits": (lexicon().edits, _edits),
        "questions": (lexicon().questions, _questions),
    }
    for part, (classes, judged) in parts.items():
        if config.split not in ("all", part):
            continue
        for done, (name, wording) in enumerate(classes.items()):
            if progress:
                progress(f"{part}: {name}", done, len(classes))
            for kind in ("free words", PLAIN):
                # the same stream for both: the same facts, in other words
                rng = np.random.default_rng([config.seed, zlib.crc32(f"free {part} {name}".encode())])
                found = judged(pipeline, world, checker, wording, kind == PLAIN, config, rng)
                scores = result.groups.setdefault(f"{part}, {kind}", {})
                scores[name] = Score(sum(right for right, _ in found), len(found))
                if kind != PLAIN:
                    result.cells.setdefault(f"{part}-free", []).extend(cell for _, cell in found[:6])
    return result


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def drawing_request(world: EmojiWorld, wanted: Wanted, wording: Wording, rng: np.random.Generator) -> str:
    """A request for what is wanted; of one or two kinds."""
    words, language = lexicon(), wording.language
    names = list(wanted.relation[::2] if wanted.relation else (name for name, _ in wanted.counts))
    nouns = words.nouns[language]
    slots: dict[str, str] = {}
    for name, (indefinite, bare, other, colour, shape) in zip(
        names, (("a", "x", "s", "c", "f"), ("b", "y", "t", "e", "g")), strict=False
    ):
        kind = world.kinds[name]
        slots |= {
            indefinite: nouns[name]["a"],
            bare: _bare(nouns[name]["a"], language),
            other: words.synonyms.get(name, nouns[name]["a"]),
            colour: kind.colour or "",
            shape: kind.shape or "",
        }
    count = wanted.counts[0][1]
    slots |= {"n": words.numbers[language][count], "d": str(count), "many": nouns[names[0]]["many"]}
    slots["background"] = words.backgrounds[language].get(wanted.background or "", "")
    key = wanted.relation[1] if wanted.relation else _category(world, wanted, wording)
    return _said(wording, key, slots, rng)


def _said(wording: Wording, key: str, slots: Mapping[str, str], rng: np.random.Generator) -> str:
    text = _pick(rng, wording.say[key]).format(**slots)
    # Spanish joins these two words
    return text.replace(" a el ", " al ").replace(" de el ", " del ") if wording.language == "es" else text


def _bare(noun: str, language: str) -> str:
    return noun.partition(" ")[2] if language == "en" else noun


def _category(world: EmojiWorld, wanted: Wanted, wording: Wording) -> str:
    names = [name for name, _ in wanted.counts]
    shapes = [bool(world.kinds[name].shape) for name in names]
    if len(names) == 1:
        return "counting" if wanted.counts[0][1] > 1 else "colours" if shapes[0] else "single"
    return "binding" if all(shapes) and "binding" in wording.say else "two"


def asked_for(world: EmojiWorld, wording: Wording, number: int, rng: np.random.Generator) -> Wanted:
    """Facts of a category that the class has words for, of the benchmark's six in turn."""
    chosen = [c for c in CATEGORIES if ("left of" if c == "position" else c) in wording.say]
    category = chosen[number % len(chosen)]
    while True:
        wanted = sample_wanted(world, category, rng)
        if wording.synonyms and not any(name in lexicon().synonyms for name, _ in wanted.counts):
            continue
        if any("{background}" in text for texts in wording.say.values() for text in texts):
            wanted = replace(wanted, background=_pick(rng, list(BACKGROUNDS)))
        return wanted


def _drawing(
    pipeline: Pipeline,
    world: EmojiWorld,
    checker: Checker,
    wording: Wording,
    as_plain: bool,
    config: EvaluationConfig,
    rng: np.random.Generator,
) -> list[tuple[bool, Cell]]:
    wanted, texts = [], []
    for number in range(config.prompts):
        wanted.append(asked_for(world, wording, number, rng))
        free = drawing_request(world, wanted[-1], wording, rng)
        texts.append(caption(world, wanted[-1]) if as_plain else free)
    plans = [planned(pipeline, text, 0, Task.TEXT_TO_IMAGE, config.seed + n) for n, text in enumerate(texts)]
    drawn = iter(draw(pipeline.system, [plan for plan in plans if plan]) if any(plans) else [])
    found = []
    for plan, text, one in zip(plans, texts, wanted, strict=True):
        picture = next(drawn)[0] if plan else nothing(world)
        right = plan is not None and checker.satisfies(checker.detect(picture), one)
        found.append((right, Cell(picture, text, right)))
    return found


def edit_request(world: EmojiWorld, edit: Edit, wording: Wording, rng: np.random.Generator) -> str | None:
    """An edit in words; None where they would not say which thing is meant."""
    words, language = lexicon(), wording.language
    before, after = edit.source.counts(), edit.target.counts()
    old = next(iter(before - after), edit.subject.name if edit.subject else "")
    new = next(iter(after - before), "")
    key, slots = edit.type, {"background": words.backgrounds[language][edit.target.background]}
    if old and before[old]:
        nouns = words.nouns[language][old]
        if before[old] > 1:
            if language != "en" or edit.type != "remove" or after[old]:
                return None
            slots |= {"old": nouns["many"], "the": f"the {nouns['many']}"}
        else:
            slots |= {"old": _bare(nouns["a"], language), "the": nouns["the"]}
    if new:
        slots |= {"a": words.nouns[language][new]["a"]}
    if edit.type == "recolour":
        slots["colour"] = words.colours[language][str(world.kinds[new].colour)]
    if edit.type == "move":
        slots["side"] = words.sides[language][str(edit.side)]
    if edit.type == "swap":
        (base, _), (_, tone) = tone_base(old), tone_base(new)
        # beside a second one of the same kind, 'the thumb' names neither
        if sum(tone_base(name)[0] == base for name in before) > 1:
            return None
        key = "tone" if tone else "gender"
        if tone:
            slots["tone"] = words.tones[language][tone.partition(" ")[0]]
    return _said(wording, key, slots, rng)


def _edits(
    pipeline: Pipeline,
    world: EmojiWorld,
    checker: Checker,
    wording: Wording,
    as_plain: bool,
    config: EvaluationConfig,
    rng: np.random.Generator,
) -> list[tuple[bool, Cell]]:
    edits: list[Edit] = []
    texts: list[str] = []
    while len(edits) < config.prompts:
        edit = random_edit(world, rng, EDIT_TYPES[len(edits) % len(EDIT_TYPES)])
        free = edit_request(world, edit, wording, rng)
        if free is not None:
            edits.append(edit)
            texts.append(edit.instruction if as_plain else free)
    jobs: list[tuple[Plan, list[Media]] | None] = []
    for number, (edit, text) in enumerate(zip(edits, texts, strict=True)):
        plan = planned(pipeline, text, 1, Task.EDIT, config.seed + number)
        source = Media.picture(world.render(edit.source))
        jobs.append(planning.sized(pipeline.system.settings, plan, [source]) if plan else None)
    sized = [job for job in jobs if job]
    drawn = iter(draw(pipeline.system, [p for p, _ in sized], [m for _, m in sized]) if sized else [])
    found = []
    for job, edit, text in zip(jobs, edits, texts, strict=True):
        picture = next(drawn)[0] if job else world.render(edit.source)
        right = job is not None and checker.edited(checker.detect(picture), edit)
        found.append((right, Cell(picture, text, right)))
    return found


def question_text(world: EmojiWorld, asked: Asked, wording: Wording, rng: np.random.Generator) -> str:
    """A question in words."""
    words, language = lexicon(), wording.language
    nouns = words.nouns[language]
    slots: dict[str, str] = {}
    key = "background" if asked.type == "colour" and not asked.name else asked.type
    for name, at in ((asked.name, ""), (asked.other, "2")):
        if name:
            one = nouns[name]
            slots |= {f"the{at}": one["the"], f"nom{at}": one.get("nom", one["the"])}
            slots |= {f"a{at}": one["a"], f"x{at}": _bare(one["a"], language), f"many{at}": one["many"]}
    if asked.type == "colour" and asked.name:
        shape = str(world.kinds[asked.name].shape)
        slots["shape"] = words.shapes[language][shape][asked.count > 1]
    return _said(wording, key, slots, rng)


def is_right(world: EmojiWorld, asked: Asked, question: Question, language: str, answer: str) -> bool:
    """Whether an answer is right, in the language of the question or in English; `question` is the same in
    plain words, with its answer."""
    if judge_answer(world, question, answer):
        return True
    words, given = lexicon(), answer.strip().lower().strip(".。!！ ")
    right: set[str] = set()
    for spoken in {language, "en"}:
        nouns = words.nouns[spoken]
        if asked.type == "how many":
            right |= {str(asked.count), words.numbers[spoken][asked.count], NUMBERS[asked.count]}
            right |= _ONE[spoken] if asked.count == 1 else set()
            right |= {f"{number} {nouns[asked.name]['many']}" for number in list(right)}
        elif asked.type == "colour":
            kind = world.kinds.get(asked.name)
            named = words.colours[spoken] if kind else words.backgrounds[spoken]
            right.add(named[question.answer])
        elif asked.type == "where":
            right |= set(words.where[spoken][asked.relation])
        elif asked.type == "is there":
            right |= set(words.yes_no[spoken][not asked.true])
        elif asked.type == "what" and asked.wanted:
            ((name, count),) = asked.wanted.counts
            noun = nouns[name]
            number = words.numbers[spoken][count]
            right |= {noun["a"], noun.get("nom", noun["a"])} if count == 1 else set()
            right |= {f"{n}{gap}{noun['many']}" for n in (number, str(count)) for gap in (" ", "")}
    return given in {one.lower() for one in right}


_ONE = {
    "en": {"one", "just one"},
    "de": {"ein", "eine", "einen", "eins"},
    "es": {"un", "una", "uno"},
    "zh": {"一", "一个"},
    "id": {"satu"},
}


def _questions(
    pipeline: Pipeline,
    world: EmojiWorld,
    checker: Checker,
    wording: Wording,
    as_plain: bool,
    config: EvaluationConfig,
    rng: np.random.Generator,
) -> list[tuple[bool, Cell]]:
    types = [type for type in QUESTION_TYPES if type in wording.say]
    rows: list[tuple[Asked, Question, str, np.ndarray]] = []
    while len(rows) < config.prompts:
        scene = world.scene_for(sample_scene_facts(world, rng), rng)
        asked = choose(world, scene, types[len(rows) % len(types)], rng)
        if asked is not None:
            question = plain(world, asked, rng)
            free = question_text(world, asked, wording, rng)
            rows.append((asked, question, question.text if as_plain else free, world.render(scene)))
    plans = [planned(pipeline, text, 1, Task.ANSWER, 0) for _, _, text, _ in rows]
    conversations = [
        [Message("user", plan.prompt, (Media.picture(row[3]),))]
        for plan, row in zip(plans, rows, strict=True)
        if plan
    ]
    said = iter(
        answer
        # fifty at once bounds the memory of their caches
        for start in range(0, len(conversations), 50)
        for answer in pipeline.system.answers(conversations[start : start + 50])
    )
    found = []
    for plan, (asked, question, text, picture) in zip(plans, rows, strict=True):
        answer = next(said) if plan else "(planned otherwise)"
        right = plan is not None and is_right(world, asked, question, wording.language, answer)
        found.append((right, Cell(picture, f"{text} {answer}", right)))
    return found
