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
from diptych.worlds.emoji.edits import Edit
from diptych.worlds.emoji.font import find_font
from diptych.worlds.emoji.guided import GUIDED, boxes, edges, sample_guided
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
        scene = world.scene_for(wanted, generator, main_axis=True)
        assert checker.satisfies(checker.detect(world.render(scene)), wanted)


def test_checker_is_right_on_ground_truth_and_catches_planted_mistakes(world):
    """At least 99.5 % of true scenes accepted, at least 99 % of scenes with one planted mistake refused."""
    checker, generator = Checker(world), rng(1)
    accepted = caught = 0
    count = 200
    for _ in range(count):
        wanted = sample_scene_facts(world, generator)
        scene = world.scene_for(wanted, generator, main_axis=True)
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
        picture = world.render(world.scene_for(wanted, generator, main_axis=True)).astype(np.float32)
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


def _smeared(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """With a soft spot of a colour of its own where nothing stands."""
    bare = np.median(picture.reshape(-1, 3), axis=0)
    while True:
        y, x, radius = (int(n) for n in generator.integers((10, 10, 6), (86, 86, 11)))
        if np.abs(picture[y - radius : y + radius, x - radius : x + radius] - bare).max() < 6:
            break
    distance = np.hypot(*(np.mgrid[:96, :96] - np.array([y, x])[:, None, None]))
    colour = generator.integers(0, 256, 3)
    while np.abs(colour - bare).max() < 60:
        colour = generator.integers(0, 256, 3)
    soft = 0.9 * np.exp(-((distance / (0.6 * radius)) ** 2))[:, :, None]
    return (picture + soft * (colour - picture)).astype(np.uint8)


def _halved(world: EmojiWorld, scene: Scene, generator: np.random.Generator) -> np.ndarray:
    """Without one half of one glyph."""
    picture, box = world.render(scene), world.config.box
    item = scene.items[int(generator.integers(len(scene.items)))]
    cut = slice(0, box // 2) if generator.random() < 0.5 else slice(box // 2, box)
    area = picture[item.y : item.y + box, item.x : item.x + box]
    # a view: either half of either axis
    area = area if generator.random() < 0.5 else area.swapaxes(0, 1)
    area[cut] = np.median(picture.reshape(-1, 3), axis=0)
    return picture


@pytest.mark.parametrize("mistake", ["smear", "half a glyph"])
def test_smears_and_half_glyphs_are_caught(world, mistake):
    """All but three in a hundred, of which the lenient checker passes more than a fifth."""
    checker, lenient, generator = Checker(world), Checker(world, lenient=True), rng(7)
    passed = {checker: 0, lenient: 0}
    for _ in range(100):
        wanted = sample_scene_facts(world, generator)
        scene = world.scene_for(wanted, generator, main_axis=True)
        picture = world.render(scene)
        wrong = _smeared(picture, generator) if mistake == "smear" else _halved(world, scene, generator)
        for judge in passed:
            passed[judge] += judge.satisfies(judge.detect(wrong), wanted)
    assert passed[checker] <= 3
    assert passed[lenient] > 20


def test_a_relation_is_that_of_the_main_axis(world):
    """A cat that is a little left of a dog and far above it is above it, and not left of it."""
    scene = Scene("white", (Placed("cat", 0, 0), Placed("dog", 32, 64)))
    counts = (("cat", 1), ("dog", 1))
    for checker, left in ((Checker(world), False), (Checker(world, lenient=True), True)):
        found = checker.detect(world.render(scene))
        assert checker.satisfies(found, Wanted(counts, ("cat", "above", "dog")))
        assert checker.satisfies(found, Wanted(counts, ("cat", "left of", "dog"))) is left


def test_what_was_moved_lies_within_twenty_px_of_its_place(world):
    source = Scene("white", (Placed("cat", 0, 32), Placed("dog", 64, 0)))
    to = Placed("cat", 0, 64)
    edit = Edit("move", "", source, Scene("white", (source.items[1], to)), subject=to, side="bottom")
    checker, lenient = Checker(world), Checker(world, lenient=True)
    for aside, strict in ((0, True), (18, True), (24, False)):
        moved = Scene("white", (source.items[1], Placed("cat", aside, 64)))
        found = checker.detect(world.render(moved))
        assert checker.edited(found, edit) is strict
        assert lenient.edited(found, edit)


@pytest.mark.parametrize("type", GUIDED)
def test_guided_pictures_are_judged_by_what_and_where(world, type):
    checker, generator = Checker(world), rng(6)
    for _ in range(20):
        guided = sample_guided(world, type, generator)
        assert not world.is_held_out(guided.wanted)
        assert checker.guided(checker.detect(world.render(guided.target)), guided)
        if not guided.target.items:
            continue
        first, *rest = guided.target.items
        others = [name for name in world.names if name not in guided.target.counts()]
        wrong = Placed(others[int(generator.integers(len(others)))], first.x, first.y)
        assert not checker.guided(
            checker.detect(world.render(Scene(guided.target.background, (wrong, *rest)))), guided
        )
        # the same things elsewhere: wrong where a mask, edges or boxes say where
        far = Placed(first.name, 64 - first.x if abs(64 - 2 * first.x) > 20 else 0, 64 - first.y)
        if guided.placed and not rest and max(abs(far.x - first.x), abs(far.y - first.y)) > 20:
            elsewhere = checker.detect(world.render(Scene(guided.target.background, (far,))))
            assert checker.satisfies(elsewhere, guided.wanted)
            assert not checker.guided(elsewhere, guided)


def test_only_what_lies_under_a_mask_changes(world):
    generator = rng(8)
    for _ in range(40):
        guided = sample_guided(world, "masked", generator)
        (_, source), (_, mask) = guided.given
        changed = (world.render(guided.target) != source).any(2)
        assert set(np.unique(mask)) == {0, 255}
        assert changed.any()
        assert not (changed & (mask[:, :, 0] == 0)).any()


def test_control_pictures_show_where_things_stand(world):
    scene = Scene("white", (Placed("red square", 16, 48),))
    for seed in range(8):
        for picture in (edges(world.render(scene), rng(seed)), boxes(world, scene, rng(seed))):
            line = picture != np.median(picture)
            rows, columns = np.flatnonzero(line.any((1, 2))), np.flatnonzero(line.any((0, 2)))
            assert (
                np.abs(np.array([rows[0], rows[-1], columns[0], columns[-1]]) - [48, 79, 16, 47]).max() <= 3
            )


def test_swapped_prompts_are_told_apart(world):
    checker, generator = Checker(world), rng(3)
    for category in ("position", "binding"):
        for _ in range(20):
            wanted = sample_wanted(world, category, generator)
            mirrored = wanted.swapped() if category == "position" else swapped_binding(world, wanted)
            found = checker.detect(world.render(world.scene_for(mirrored, generator, main_axis=True)))
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
@pytest.mark.parametrize("lenient", [False, True])
def test_claims_are_true_exactly_where_the_checker_says_so(world, category, lenient):
    checker, generator = Checker(world, lenient=lenient), rng(1)
    said = []
    for _ in range(40):
        wanted = sample_wanted(world, category, generator)
        scene = world.scene_for(wanted, generator, main_axis=not lenient)
        found = checker.detect(world.render(scene))
        claim = spoiled(world, wanted, generator)
        assert shows(world, scene, wanted, main_axis=not lenient)
        assert not world.is_held_out(claim)
        said.append(shows(world, scene, claim, main_axis=not lenient))
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
    wide = EmojiWorld(WorldConfig(words="wide"))
    for task in ("generate", "edit", "understand", "verify", "masked", "reference"):
        for source in (EmojiSource(world, task, seed=0), EmojiSource(wide, task, seed=0)):
            guided = task in ("masked", "reference")
            # masks and close views are no scenes
            facts += [p for n in range(30) for p in source.draw(n).pictures if p.drawn or not guided]
    checker = Checker(world)
    for picture in facts:
        counts = checker.detect(picture.pixels).counts()
        assert not world.is_held_out(Wanted(tuple(counts.items())))
    assert world.is_held_out(sample_wanted(world, "two", rng(), held=True))


def test_samples_are_a_function_of_seed_and_number(world):
    one, other = EmojiSource(world, "generate", 3), EmojiSource(world, "generate", 3)
    other.draw(5)
    assert one.draw(9).turns[0].parts == other.draw(9).turns[0].parts
    np.testing.assert_array_equal(one.draw(9).pictures[0].pixels, other.draw(9).pictures[0].pixels)


@pytest.mark.parametrize(
    "bad", [{"objects": "none"}, {"glyph": 4}, {"lattice": 0}, {"size": 64, "glyph": 20}]
)
def test_world_config_refuses_nonsense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        WorldConfig(**bad)
