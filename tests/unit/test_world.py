"""The emoji world: scenes, words, questions, edits and the exact checker."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.worlds.emoji import (
    CATEGORIES,
    EDIT_TYPES,
    QUESTION_TYPES,
    Checker,
    EmojiWorld,
    FontNotFoundError,
    Wanted,
    WorldConfig,
    captions,
)
from diptych.worlds.emoji.captions import (
    caption,
    parse_caption,
    prompt,
    sample_scene_facts,
    sample_wanted,
    swapped_binding,
)
from diptych.worlds.emoji.claims import shows, spoiled
from diptych.worlds.emoji.font import find_font
from diptych.worlds.emoji.names import LANGUAGES, full_kinds, pluralise
from diptych.worlds.emoji.questions import ask, judge_answer, scene_facts
from diptych.worlds.emoji.scene import Placed, Scene, held_out
from diptych.worlds.emoji.source import EmojiSource, random_edit


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_no_font_is_a_clear_message(tmp_path):
    with pytest.raises(FontNotFoundError, match="apt-get install fonts-noto-color-emoji"):
        find_font(tmp_path / "none.ttf")


def test_small_world_has_every_kind(world):
    assert len(world.names) == 35
    assert len(world.shapes) == 18


def test_names_of_the_full_world():
    kinds = full_kinds()
    assert len(kinds) > 3900
    assert len({kind.name for kind in kinds}) == len(kinds)
    assert dict(next(k for k in kinds if k.name == "carrot").local)["id"] == "wortel"
    assert [
        pluralise(n) for n in ("cat", "fish", "woman farmer", "fox", "cherry", "thumbs up: dark skin tone")
    ] == [
        "cats",
        "fish",
        "woman farmers",
        "foxes",
        "cherries",
        "thumbs up: dark skin tone",
    ]


@pytest.mark.parametrize("languages", [(), ("xx",), ("id", "de")])
def test_languages_without_words_are_refused(languages):
    with pytest.raises(ValueError, match="languages must be one or more of id, got"):
        WorldConfig(languages=languages)


def test_there_are_words_for_every_language():
    tables = (captions._FRAMES, captions._NUMBERS, captions._AND, captions._BACKGROUND, captions._RELATIONS)
    assert all(table.keys() == {"en", *LANGUAGES} for table in tables)


def test_the_font_draws_the_whole_list(world):
    full = EmojiWorld(WorldConfig(objects="full", lattice=1))
    assert len(full.names) > 3500
    wanted = sample_wanted(full, "position", rng())
    assert full.scene_for(wanted, rng()).counts() == dict(wanted.counts)


@pytest.mark.parametrize("category", CATEGORIES)
def test_scenes_show_what_was_wanted_and_the_checker_sees_it(world, category):
    checker, generator = Checker(world), rng()
    for _ in range(40):
        wanted = sample_wanted(world, category, generator)
        assert checker.satisfies(checker.detect(world.render(world.scene_for(wanted, generator))), wanted)


def test_checker_is_right_on_ground_truth_and_catches_planted_mistakes(world):
    """At least 99.5 % of true scenes accepted, at least 99 % of scenes with one planted mistake refused."""
    checker, generator = Checker(world), rng(1)
    accepted = caught = 0
    count = 400
    for _ in range(count):
        wanted = sample_scene_facts(world, generator)
        scene = world.scene_for(wanted, generator)
        accepted += checker.satisfies(
            checker.detect(world.render(scene)), Wanted(wanted.counts, wanted.relation, scene.background)
        )
        wrong = _planted(world, scene, wanted, generator)
        caught += not checker.satisfies(
            checker.detect(world.render(wrong)), Wanted(wanted.counts, wanted.relation, scene.background)
        )
    assert accepted >= 0.995 * count
    assert caught >= 0.99 * count


def _planted(world: EmojiWorld, scene: Scene, wanted: Wanted, generator: np.random.Generator) -> Scene:
    """The scene with one mistake: a glyph missing, exchanged, added, or the background changed."""
    items = list(scene.items)
    mistake = int(generator.integers(4))
    if mistake == 0:
        items.pop()
    elif mistake == 1:
        other = next(n for n in generator.permutation(world.names) if n != items[0].name)
        items[0] = Placed(str(other), items[0].x, items[0].y)
    elif mistake == 2:
        return Scene("mint" if scene.background != "mint" else "pink", scene.items)
    else:
        items.append(world.place([items[0].name], generator)[0])
        if any(max(abs(items[-1].x - i.x), abs(items[-1].y - i.y)) < world.config.box for i in items[:-1]):
            items = items[: len(items) - 2]
    return Scene(scene.background, tuple(items))


def test_checker_tolerates_noise_and_blur(world):
    checker, generator = Checker(world), rng(2)
    right = 0
    for _ in range(60):
        wanted = sample_scene_facts(world, generator)
        picture = world.render(world.scene_for(wanted, generator)).astype(np.float32)
        blurred = (
            picture + np.roll(picture, 1, 0) + np.roll(picture, 1, 1) + np.roll(picture, (1, 1), (0, 1))
        ) / 4
        noisy = np.clip(blurred + generator.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
        right += checker.satisfies(checker.detect(noisy), Wanted(wanted.counts, wanted.relation))
    assert right >= 57


def test_a_smear_is_an_unknown_object(world):
    checker = Checker(world)
    picture = world.render(Scene("white", (Placed("cat", 0, 0),)))
    picture[50:90, 50:90] = (10, 120, 90)
    assert checker.detect(picture).counts()["unknown"] == 1


def test_swapped_prompts_are_told_apart(world):
    checker, generator = Checker(world), rng(3)
    for category in ("position", "binding"):
        for _ in range(20):
            wanted = sample_wanted(world, category, generator)
            mirrored = wanted.swapped() if category == "position" else swapped_binding(world, wanted)
            found = checker.detect(world.render(world.scene_for(mirrored, generator)))
            assert checker.satisfies(found, mirrored)
            assert not checker.satisfies(found, wanted)


def test_captions_are_read_back(world):
    generator = rng(4)
    for _ in range(200):
        wanted = sample_scene_facts(world, generator)
        said = parse_caption(world, caption(world, wanted))
        assert said is not None
        assert dict(said.counts) == dict(wanted.counts)
        assert said.relation == wanted.relation
        assert said.background == wanted.background


def test_prompts_vary_and_come_in_two_languages(world):
    wanted = Wanted((("cat", 2), ("red heart", 1)), ("cat", "above", "red heart"))
    english = {prompt(world, wanted, rng(i)) for i in range(60)}
    assert len(english) >= 8
    assert "dua wajah kucing di atas satu hati merah" in {
        prompt(world, wanted, rng(i), "id") for i in range(40)
    }


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_questions_have_right_answers(world, seed):
    generator = rng(seed)
    scene = world.scene_for(sample_scene_facts(world, generator), generator)
    for type in QUESTION_TYPES:
        question = ask(world, scene, type, generator)
        if question is None:
            continue
        assert judge_answer(world, question, question.answer)
        assert not judge_answer(world, question, "forty-two")
        if type == "caption":
            assert parse_caption(world, question.answer) == scene_facts(world, scene)


@pytest.mark.parametrize("type", EDIT_TYPES)
def test_edits_are_judged_by_what_they_change_and_what_they_leave(world, type):
    checker, generator = Checker(world), rng(5)
    for _ in range(25):
        edit = random_edit(world, generator, type)
        assert checker.edited(checker.detect(world.render(edit.target)), edit)
        assert not checker.edited(checker.detect(world.render(edit.source)), edit)
        untouched = [item for item in edit.target.items if item in edit.source.items]
        if untouched:
            lost = Scene(edit.target.background, tuple(i for i in edit.target.items if i != untouched[0]))
            assert not checker.edited(checker.detect(world.render(lost)), edit)


@pytest.mark.parametrize("category", CATEGORIES)
def test_claims_are_true_exactly_where_the_checker_says_so(world, category):
    checker, generator = Checker(world), rng(1)
    said = []
    for _ in range(40):
        wanted = sample_wanted(world, category, generator)
        scene = world.scene_for(wanted, generator)
        found = checker.detect(world.render(scene))
        claim = spoiled(world, wanted, generator)
        assert shows(world, scene, wanted)
        assert not world.is_held_out(claim)
        said.append(shows(world, scene, claim))
        assert said[-1] == checker.satisfies(found, claim), (wanted, claim)
    # "above" and "left of" can both be true of two things, so that a few changed claims still hold
    assert sum(said) <= 8


def test_half_of_what_verification_asks_is_true(world):
    answers = [
        part
        for n in range(150)
        for turn in EmojiSource(world, "verify", 0).draw(n).turns
        if turn.role == "assistant"
        for part in turn.parts
    ]
    assert set(answers) == {"yes", "no"}
    assert 0.42 < answers.count("yes") / len(answers) < 0.62


def test_held_out_combinations_never_reach_training(world):
    assert held_out("pair", "a", "b") == held_out("pair", "b", "a")
    facts = []
    for task in ("generate", "edit", "understand", "verify"):
        source = EmojiSource(world, task, seed=0)
        facts += [t.parts for n in range(60) for t in source.draw(n).turns]
    checker = Checker(world)
    for parts in facts:
        for part in parts:
            if not isinstance(part, str):
                counts = checker.detect(part.pixels).counts()
                assert not world.is_held_out(Wanted(tuple(counts.items())))
    assert world.is_held_out(sample_wanted(world, "two", rng(), held=True))


def test_samples_are_a_function_of_seed_and_number(world):
    one, other = EmojiSource(world, "generate", 3), EmojiSource(world, "generate", 3)
    other.draw(5)
    assert one.draw(9).turns[0].parts == other.draw(9).turns[0].parts
    np.testing.assert_array_equal(one.draw(9).pictures[0].pixels, other.draw(9).pictures[0].pixels)


@pytest.mark.parametrize("bad", [{"objects": "none"}, {"glyph": 4}, {"lattice": 0}])
def test_world_config_refuses_nonsense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        WorldConfig(**bad)
