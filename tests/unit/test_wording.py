"""The emoji world in wide words: five languages, families held out, and nothing that says another thing."""

import itertools
import re

import numpy as np
import pytest

from diptych.worlds.emoji import EDIT_TYPES, QUESTION_TYPES, EmojiWorld, Wanted, WorldConfig, wording
from diptych.worlds.emoji.captions import sample_scene_facts
from diptych.worlds.emoji.guided import GUIDED, sample_guided
from diptych.worlds.emoji.questions import PLACES, choose, judge_answer
from diptych.worlds.emoji.scene import OPPOSITE, RELATIONS, Placed, Scene
from diptych.worlds.emoji.source import EmojiSource, random_edit
from diptych.worlds.emoji.words import TONGUES
from diptych.worlds.emoji.words.grammar import Frames, Thing


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def all_frames(tongue) -> list[Frames]:
    tables = [tongue.edits, tongue.questions, tongue.masked, tongue.this]
    return [
        *(tongue.draw, tongue.on, tongue.related, tongue.sentences, tongue.within, tongue.along),
        *(frames for table in tables for frames in table.values()),
    ]


@pytest.mark.parametrize("code", TONGUES)
def test_a_language_has_words_for_every_fact_of_the_small_world(world, code):
    tongue = TONGUES[code]
    assert all(wording._nouns(tongue, world, name) for name in world.names)
    assert tongue.stands.keys() == tongue.sides.keys() == RELATIONS.keys()
    assert tongue.questions.keys() == {*QUESTION_TYPES, *PLACES}
    assert tongue.edits.keys() == {*EDIT_TYPES, "tone", "gender"} - {"swap"}
    assert {"yes", "no", *RELATIONS} <= tongue.answers.keys()
    assert len(tongue.numbers) == 6


@pytest.mark.parametrize("code", TONGUES)
def test_no_words_name_two_kinds(world, code):
    """Else nobody could tell what is asked for; in either number."""
    named: dict[str, str] = {}
    for name in world.names:
        kind = world.kinds[name]
        for noun in wording._nouns(TONGUES[code], world, name):
            # of a coloured shape, each of the words for its colour
            colours = ("",) if name in TONGUES[code].nouns else TONGUES[code].colours[str(kind.colour)]
            for colour, one in itertools.product(colours, {noun.one, noun.many}):
                assert named.setdefault(f"{one} {colour}", name) == name


@pytest.mark.parametrize("code", TONGUES)
def test_what_is_held_out_is_trained_on_nowhere(code):
    for frames in all_frames(TONGUES[code]):
        assert frames.trained
        assert frames.held
        assert not set(frames.trained) & set(frames.held)


@pytest.mark.parametrize("held", [False, True])
def test_wordings_are_whole(world, held):
    generator = rng(int(held))
    said = []
    for n in range(250):
        facts = sample_scene_facts(world, generator)
        said.append(wording.request(world, facts, generator, held))
        edit = random_edit(world, generator, EDIT_TYPES[n % len(EDIT_TYPES)])
        said.append(wording.instruction(world, edit, generator, held))
        type = (*QUESTION_TYPES, *PLACES)[n % 8]
        asked = choose(world, world.scene_for(facts, generator), type, generator)
        if asked is not None:
            question = wording.question(world, asked, generator, held)
            assert judge_answer(world, question, question.answer)
            said += [question.text, question.answer]
        said.append(sample_guided(world, GUIDED[n % len(GUIDED)], generator, held).text)
    for text in said:
        assert text == text.strip()
        assert text == text.lower()
        assert not re.search(r"[{}]|  | [,.?!]|[?？][.,!]", text), text


def named(world: EmojiWorld, code: str, name: str, count: int, spec: str, colour: str = "") -> str:
    """By the plainest noun, with an article."""
    noun = wording._nouns(TONGUES[code], world, name)[0]
    noun = type(noun)(noun.one, noun.many, noun.gender, noun.oblique, noun.measures, colour)
    return format(Thing(TONGUES[code], noun, count, wording._PLAIN), spec)


@pytest.mark.parametrize(
    ("code", "name", "count", "spec", "colour", "said"),
    [
        ("de", "dog", 1, "acc", "", "einen hund"),
        ("de", "red circle", 1, "acc", "rot", "einen roten kreis"),
        ("de", "red circle", 1, "the-dat", "rot", "dem roten kreis"),
        ("de", "red heart", 1, "", "rot", "ein rotes herz"),
        ("de", "tree", 2, "dat", "", "zwei bäumen"),
        ("de", "purple square", 3, "the", "lila", "die lila quadrate"),
        ("de", "man farmer", 1, "dat", "", "einem bauern"),
        ("es", "star", 2, "", "", "dos estrellas"),
        ("es", "blue heart", 3, "", "azul", "tres corazones azules"),
        ("es", "house", 1, "the", "", "la casa"),
        ("zh", "cat", 2, "", "", "两只猫"),
        ("zh", "red heart", 1, "", "红", "一颗红色的心"),
        ("id", "fish", 1, "", "", "seekor ikan"),
        ("id", "green square", 4, "", "hijau", "empat persegi hijau"),
        ("en", "apple", 1, "", "", "an apple"),
        ("en", "thumbs up: dark skin tone", 2, "", "", "two thumbs up: dark skin tone"),
    ],
)
def test_grammar(world, code, name, count, spec, colour, said):
    assert named(world, code, name, count, spec, colour) == said


def test_a_relation_is_said_either_way_and_never_swapped(world):
    """Every English request that names both with nothing but a relation between them says the true one."""
    words = {phrase: relation for relation, phrases in TONGUES["en"].stands.items() for phrase in phrases}
    between = "|".join(sorted(words, key=len, reverse=True))
    wanted = Wanted((("banana", 1), ("carrot", 1)), ("banana", "left of", "carrot"))
    seen = set()
    for seed in range(600):
        text = wording.request(world, wanted, rng(seed)).replace("orange carrot", "carrot")
        found = re.search(
            rf"\b(banana|carrot) ({between}) (?:a|an|one|1|a single|that|the)? ?(banana|carrot)", text
        )
        if found:
            first, phrase, _ = found.groups()
            relation = words[phrase]
            assert (relation if first == "banana" else OPPOSITE[relation]) == "left of", text
            seen.add((first, relation))
    assert seen == {("banana", "left of"), ("carrot", "right of")}


def test_an_answer_is_in_the_language_of_its_question(world):
    scene = Scene("mint", (Placed("cat", 0, 0), Placed("red heart", 64, 0), Placed("red heart", 64, 64)))
    answers = {
        "how many": {"en": "two", "es": "dos", "de": "zwei", "id": "dua", "zh": "二"},
        "caption": {
            "en": "a cat and two red hearts on a mint background",
            "es": "un gato y dos corazones rojos sobre un fondo menta",
            "de": "eine katze und zwei rote herzen, hintergrund mintgrün",
            "id": "seekor kucing dan dua hati merah dengan latar hijau mint",
            "zh": "一只猫和两颗红色的心，薄荷色背景",
        },
    }
    seen = set()
    for seed in range(300):
        for type, expected in answers.items():
            asked = choose(world, scene, type, rng(seed))
            assert asked is not None
            if type == "caption" or asked.name == "red heart":
                question = wording.question(world, asked, rng(seed + 1))
                assert question.answer == expected[question.language]
                seen.add((type, question.language))
    assert len(seen) == 10


def test_a_reference_is_not_named(world):
    for seed in range(120):
        guided = sample_guided(world, "reference", rng(seed))
        others = {name for name, _ in guided.wanted.counts}
        text = wording.request(world, guided.wanted, rng(seed), shown=next(iter(others)))
        assert text
        if others == {"banana"}:
            assert not re.search("banan|plátano|pisang|香蕉", text)


def test_a_wide_world_asks_in_both_ways_and_a_plain_one_as_before(world):
    wide = EmojiWorld(WorldConfig(words="wide"))
    plain = {EmojiSource(world, "generate", 0).draw(n).turns[0].parts[0] for n in range(80)}
    texts = {str(EmojiSource(wide, "generate", 0).draw(n).turns[0].parts[0]) for n in range(200)}
    assert not any(re.search("[一-鿿ñáéíóú]|zeichne", str(text)) for text in plain)
    assert any(re.search("[一-鿿]", text) for text in texts)
    assert any(text.startswith("dibuja") for text in texts)


def test_words_of_another_width_are_refused():
    with pytest.raises(ValueError, match="words must be plain or wide, got 'narrow'"):
        WorldConfig(words="narrow")
