"""The emoji benchmark in free words: what is asked, and which answers are right."""

import json

import numpy as np
import pytest

from diptych import cli
from diptych.evaluation import free
from diptych.evaluation.emoji import EvaluationConfig
from diptych.request import RequestError
from diptych.worlds.emoji import EDIT_TYPES, QUESTION_TYPES, EmojiWorld, Scene, Wanted
from diptych.worlds.emoji.captions import caption, sample_scene_facts
from diptych.worlds.emoji.edits import Edit
from diptych.worlds.emoji.questions import Asked, choose, plain
from diptych.worlds.emoji.scene import Placed
from diptych.worlds.emoji.source import random_edit


@pytest.fixture(scope="module")
def world() -> EmojiWorld:
    return EmojiWorld()


def test_everything_in_the_world_has_words_in_every_language(world):
    words = free.lexicon()
    for language, nouns in words.nouns.items():
        assert set(nouns) == set(world.names)
        # two things of one name could not be told apart
        assert len({one["a"] for one in nouns.values()}) == len(nouns), language
    assert set(words.synonyms) <= set(world.names)


@pytest.mark.parametrize("name", free.lexicon().drawing)
def test_drawings_are_asked_for_in_words_that_the_benchmark_has_not(world, name):
    wording, rng = free.lexicon().drawing[name], np.random.default_rng(3)
    for number in range(60):
        wanted = free.asked_for(world, wording, number, rng)
        text = free.drawing_request(world, wanted, wording, rng)
        assert text.strip() == text
        assert not set("{}") & set(text)
        assert text != caption(world, wanted)


def test_a_relation_turned_round_in_words_is_the_same_relation(world):
    """'under a crown, a cat' asks for the cat below the crown."""
    wanted = Wanted((("cat", 1), ("crown", 1)), ("cat", "below", "crown"))
    wording = free.lexicon().drawing["inverted"]
    texts = {free.drawing_request(world, wanted, wording, np.random.default_rng(n)) for n in range(20)}
    assert texts == {"under a crown, draw a cat", "bottom: a cat. top: a crown"}


@pytest.mark.parametrize("name", free.lexicon().edits)
def test_every_type_of_edit_can_be_said(world, name):
    wording, rng = free.lexicon().edits[name], np.random.default_rng(5)
    for type in EDIT_TYPES:
        texts = [free.edit_request(world, random_edit(world, rng, type), wording, rng) for _ in range(30)]
        said = [text for text in texts if text is not None]
        assert said
        assert not set("{}") & set("".join(said))


def test_an_edit_that_would_name_two_things_is_not_said(world):
    before = Scene("white", (Placed("thumbs up", 0, 0), Placed("thumbs up: dark skin tone", 64, 64)))
    after = Scene("white", (Placed("thumbs up: light skin tone", 0, 0), before.items[1]))
    edit = Edit("swap", "give the thumbs up a light skin tone", before, after)
    for wording in free.lexicon().edits.values():
        assert free.edit_request(world, edit, wording, np.random.default_rng(0)) is None


@pytest.mark.parametrize("name", free.lexicon().questions)
def test_answers_of_the_trained_words_are_right_in_free_ones(world, name):
    wording, rng = free.lexicon().questions[name], np.random.default_rng(7)
    for number in range(120):
        type = QUESTION_TYPES[number % len(QUESTION_TYPES)]
        scene = world.scene_for(sample_scene_facts(world, rng), rng)
        asked = choose(world, scene, type, rng)
        if asked is None or type not in wording.say:
            continue
        assert not set("{}") & set(free.question_text(world, asked, wording, rng))
        question = plain(world, asked, rng)
        assert free.is_right(world, asked, question, wording.language, question.answer)
        assert not free.is_right(world, asked, question, wording.language, "a zebra")


@pytest.mark.parametrize(
    ("asked", "language", "right", "wrong"),
    [
        (Asked("how many", "cat", count=2), "de", ("zwei", "2", "two", "Zwei Katzen."), ("drei", "one")),
        (Asked("how many", "dog", count=1), "es", ("uno", "un", "1"), ("dos",)),
        (Asked("is there", "cat"), "zh", ("有", "是的", "yes"), ("没有", "no")),
        (Asked("where", "cat", "dog", relation="left of"), "id", ("di kiri", "to the left"), ("di kanan",)),
        (Asked("colour", "red circle", count=1), "de", ("rot", "red"), ("blau",)),
        (Asked("what", wanted=Wanted((("cat", 3),))), "zh", ("三只猫", "3只猫"), ("两只猫",)),
    ],
)
def test_an_answer_may_be_in_the_language_of_its_question(world, asked, language, right, wrong):
    question = plain(world, asked, np.random.default_rng(0))
    for answer in right:
        assert free.is_right(world, asked, question, language, answer)
    for answer in wrong:
        assert not free.is_right(world, asked, question, language, answer)


class Asks:
    """A model that refuses to draw and answers nothing; what it was asked is kept."""

    def __init__(self) -> None:
        self.system, self.texts = self, []

    def plan(self, text: str, pictures: int = 0, **fields):
        self.texts.append(text)
        raise RequestError("no")

    def answers(self, conversations):
        return []


def test_what_is_refused_is_wrong_and_both_wordings_ask_for_the_same(world):
    model = Asks()
    result = free.evaluate_free(model, world, EvaluationConfig(prompts=6, split="drawing"))
    scores = [score for group in result.groups.values() for score in group.values()]
    assert {(score.right, score.total) for score in scores} == {(0, 6)}
    # of each class first the free wordings, then the plain ones of the same facts
    first, second = model.texts[:6], model.texts[6:12]
    for text, plain_text in zip(first, second, strict=True):
        assert text != plain_text
        assert plain_text.split()[-1] in text or "skin" in text


def test_a_world_without_words_is_named(world):
    class Other:
        names = ("zebra",)

    with pytest.raises(ValueError, match="zebra"):
        free.evaluate_free(Asks(), Other(), EvaluationConfig(wording="free"))
    with pytest.raises(ValueError, match="another split"):
        free.evaluate_free(Asks(), world, EvaluationConfig(wording="free", split="guided"))


def test_evaluate_asks_the_shipped_model_in_free_words(tmp_path):
    command = ["evaluate", "--wording", "free", "--split", "questions", "--prompts", "1", "-o", str(tmp_path)]
    assert cli.main(command) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"model", "config", "questions, free words", "questions, plain words"}
    assert results["questions, free words"]["by"]["de"]["n"] == 1
