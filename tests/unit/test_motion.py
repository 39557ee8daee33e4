"""The moving world: films, words for them, questions, requests by given pictures, and the exact checker."""

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from diptych.contracts import Picture
from diptych.request import TASKS, Role, check_roles
from diptych.worlds.emoji import WorldConfig, motion_wording, motion_words
from diptych.worlds.emoji.motion import (
    FRAMES,
    MOST_JUMPS,
    SIZE,
    STORIES,
    WAYS,
    Act,
    Film,
    Spot,
    Story,
    Track,
    film_for,
    hops,
    is_held_out,
    moving_world,
    sample_story,
)
from diptych.worlds.emoji.motion_checker import FAULTS, ClipChecker
from diptych.worlds.emoji.motion_source import CLIP_TASKS, MotionSource, motion_texts
from diptych.worlds.emoji.motion_words import (
    CLIP_QUESTIONS,
    OFTEN,
    TO,
    judge_clip_answer,
    ordered,
    parse_told,
    told,
)
from diptych.worlds.emoji.shots import CLIP_EDITS, CONTROLS, GIVEN_FRAMES, SHOTS, sample_shot
from diptych.worlds.emoji.words import TONGUES


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def moving(world):
    return moving_world(world.config)


@pytest.fixture(scope="module")
def checker(moving):
    return ClipChecker(moving)


def test_tables_name_every_way_and_count():
    assert TO.keys() == WAYS.keys()
    assert len(OFTEN) == MOST_JUMPS + 1
    assert TONGUES.keys() == motion_wording.MOVING.keys()
    for words in motion_wording.MOVING.values():
        assert words.acts.keys() == words.orders.keys() == set(STORIES) - {"then"}
        assert words.ways.keys() == words.to.keys() == WAYS.keys()
        assert len(words.times) == len(words.often) == MOST_JUMPS
        assert words.questions.keys() == set(CLIP_QUESTIONS)


@pytest.mark.parametrize("type", STORIES)
@pytest.mark.parametrize("frames", [8, 13])
def test_nothing_touches_and_nothing_leaves_the_frame(moving, type, frames):
    generator = rng()
    for _ in range(10):
        film = film_for(moving, sample_story(moving, generator, type), generator, frames)
        assert len(film) == frames
        for at in range(frames):
            spots = [spot for _, spot in film.at(at)]
            for number, spot in enumerate(spots):
                half = spot.size / 2
                assert half <= min(spot.x, spot.y)
                assert max(spot.x, spot.y) <= SIZE - half
                for other in spots[:number]:
                    away = max(abs(spot.x - other.x), abs(spot.y - other.y))
                    assert away >= (spot.size + other.size) / 2


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_jump_is_off_the_ground_as_often_as_it_is_told(times):
    for frames in (8, 12, 16):
        heights = hops(frames, times)
        ups = np.diff((heights > 0.7).astype(int)) == 1
        assert ups.sum() == times
        assert heights[0] == heights[-1] == 0
        assert heights.max() == 1


def test_what_is_held_out_never_comes_in_training_and_alone_when_asked_for(moving):
    generator = rng()
    assert not any(is_held_out(moving, sample_story(moving, generator)) for _ in range(300))
    for type in STORIES:
        assert all(is_held_out(moving, sample_story(moving, generator, type, held=True)) for _ in range(10))


def test_a_cat_may_jump(moving):
    assert not is_held_out(moving, Story(("cat",), (Act("jump", "cat"),)))


def test_plain_captions_are_read_back(moving):
    generator = rng()
    for _ in range(300):
        story = sample_story(moving, generator)
        assert parse_told(moving, told(story)) == story
    for text in ("a cat", "a cat flies", "a cat jumps four times", "first a cat grows", "a cat moves around"):
        assert parse_told(moving, text) is None


def test_an_order_names_what_is_there_and_announces_what_is_not():
    acts = Act("jump", "cat", times=2), Act("appear", "dog")
    assert ordered(Story(("cat", "dog", "car"), acts)) == "first the cat jumps twice, then a dog appears"
    story = Story(("cat", "dog"), (Act("move", "cat", way="up"),), "mint")
    assert ordered(story, shown="cat") == "this moves up beside a dog on a mint background"


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("type", SHOTS)
def test_every_request_can_be_said_in_wide_words(moving, type, held):
    """On one line, in small letters, with no slot left open."""
    generator = rng()
    for _ in range(30):
        words = motion_wording.Wide(moving, generator, held)
        text = sample_shot(moving, type, generator, words).text
        assert text == " ".join(text.split()).lower()
        assert not set(text) & set("{}")


@pytest.mark.parametrize("type", CLIP_QUESTIONS)
@pytest.mark.parametrize("wide", [False, True])
def test_questions_have_answers_that_are_right_and_others_are_not(moving, type, wide):
    generator, answers, languages = rng(), Counter(), set()
    while sum(answers.values()) < 60:
        asked = motion_words.choose(sample_story(moving, generator), type, generator)
        if asked is None:
            continue
        put = motion_wording.question if wide else motion_words.plain
        question = put(moving, asked, generator)
        answers[question.answer] += 1
        languages.add(question.language)
        assert judge_clip_answer(moving, question, f" {question.answer}. ".upper())
        assert not judge_clip_answer(moving, question, "a cat and a dog")
    assert max(answers.values()) <= 40
    assert languages == (set(TONGUES) if wide else {"en"})


def test_a_description_is_right_in_any_order_and_wrong_with_another_fact(moving):
    story = Story(("cat", "dog", "car"), (Act("move", "cat", way="left"),))
    question = motion_words.plain(
        moving, motion_words.ClipAsked("what happens", story.acts[0], "", story), rng()
    )
    assert judge_clip_answer(moving, question, "a cat moves to the left beside a car and a dog")
    for wrong in (
        "a cat moves to the right beside a car and a dog",
        "a cat moves to the left beside a car",
        "a dog moves to the left beside a car and a cat",
        "a cat moves to the left beside a car and a dog on a mint background",
    ):
        assert not judge_clip_answer(moving, question, wrong)


def test_which_was_first_stands_first_in_half_of_the_questions(moving):
    generator, first = rng(), 0
    for _ in range(100):
        asked = motion_words.choose(sample_story(moving, generator, "then"), "what first", generator)
        question = motion_words.plain(moving, asked, generator)
        first += question.text.index(f"the {asked.act.name}") < question.text.index(f"the {asked.second}")
    assert 30 <= first <= 70


@pytest.mark.parametrize("type", STORIES)
@pytest.mark.parametrize("held", [False, True])
def test_the_checker_sees_every_story(moving, checker, type, held):
    generator = rng(1)
    for _ in range(3):
        shot = sample_shot(moving, "text", generator, held=held, story=type)
        assert checker.faults(moving.film(shot.film), shot) == ()


@pytest.mark.parametrize("type", [type for type in SHOTS if type != "text"])
def test_the_checker_sees_what_is_drawn_by_given_pictures(moving, checker, type):
    generator = rng(2)
    for _ in range(3):
        shot = sample_shot(moving, type, generator)
        assert checker.faults(moving.film(shot.film), shot) == ()


def test_the_checker_tolerates_noise(moving, checker):
    generator, right = rng(3), 0
    for type in STORIES:
        shot = sample_shot(moving, "text", generator, story=type)
        clip = moving.film(shot.film)
        noisy = np.clip(clip + generator.normal(0, 8, clip.shape), 0, 255).astype(np.uint8)
        right += checker.faults(noisy, shot) == ()
    assert right == len(STORIES)


def _with(film: Film, name: str, spots: list[Spot | None]) -> Film:
    tracks = tuple(Track(name, tuple(spots)) if t.name == name else t for t in film.tracks)
    return replace(film, tracks=tracks)


def _going(film: Film, share: float) -> Film:
    """What acts does this share of what it should, from where it begins; below zero, the other way."""
    for name in film.story.actors:
        spots = film.track(name).spots
        begin = spots[0]
        out = [
            Spot(*(round(a + share * (b - a)) for a, b in zip(begin, spot, strict=True))) for spot in spots
        ]
        # the other way may lead out of the frame
        film = _with(
            film,
            name,
            [
                Spot(*(int(np.clip(v, spot.size // 2, SIZE - spot.size // 2)) for v in spot[:2]), spot.size)
                for spot in out
            ],
        )
    return film


def _exchanged(film: Film) -> Film:
    """Two things with one another's glyphs."""
    first, second, *_ = film.story.names
    names = {first: second, second: first}
    return replace(film, tracks=tuple(Track(names.get(t.name, t.name), t.spots) for t in film.tracks))


def spoiled(moving, film: Film, mistake: str, generator: np.random.Generator) -> np.ndarray:
    at = int(generator.integers(2, 6))
    if mistake == "wrong direction":
        return moving.film(_going(film, -1.0))
    if mistake == "too short a way":
        return moving.film(_going(film, 0.5))
    if mistake == "swapped things":
        return moving.film(_exchanged(film))
    clip = moving.film(film)
    if mistake == "frozen frame":
        clip[at] = clip[at - 1]
    elif mistake == "flicker":
        clip[at] = np.clip(clip[at].astype(int) - 12, 0, 255)
    elif mistake == "a thing is gone for a frame":
        name = film.story.names[0]
        spots = list(film.track(name).spots)
        spots[at] = None
        clip = moving.film(_with(film, name, spots))
    elif mistake == "nothing happens":
        clip[:] = clip[0]
    elif mistake == "backwards":
        clip = clip[::-1]
    else:
        raise AssertionError(mistake)
    return clip


MISTAKES = {
    "wrong direction": ("move", "jump"),
    "too short a way": ("move", "jump", "swap", "grow"),
    "frozen frame": ("move", "jump", "swap", "grow", "shrink"),
    "swapped things": ("move", "jump", "grow", "shrink", "appear", "vanish"),
    "flicker": STORIES,
    "a thing is gone for a frame": ("move", "jump", "grow", "shrink", "swap"),
    "nothing happens": STORIES,
    "backwards": ("move", "appear", "vanish", "grow", "shrink", "then"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_caught(moving, checker, mistake):
    generator = rng(4)
    for type in MISTAKES[mistake]:
        while True:
            shot = sample_shot(moving, "text", generator, story=type)
            if mistake != "swapped things" or len(shot.film.story.names) > 1:
                break
        if mistake == "backwards" and {act.type for act in shot.film.story.acts} == {"jump"}:
            continue
        faults = checker.faults(spoiled(moving, shot.film, mistake, generator), shot)
        assert faults, (shot.text, mistake)
        assert set(faults) <= set(FAULTS)


@pytest.mark.parametrize(
    ("mistake", "fault"),
    [
        ("wrong direction", "wrong way"),
        ("too short a way", "too short a way"),
        ("frozen frame", "frozen frame"),
        ("swapped things", "still thing moved"),
        ("flicker", "flicker"),
        ("nothing happens", "nothing happens"),
    ],
)
def test_a_mistake_has_its_name(moving, checker, mistake, fault):
    story = Story(("cat", "dog"), (Act("move", "cat", way="right"),), "mint")
    spots = [Spot(10 + round(at * 44 / 7), 16, 18) for at in range(FRAMES)]
    film = Film("mint", (Track("cat", tuple(spots)), Track("dog", (Spot(30, 50, 18),) * FRAMES)), story)
    if mistake == "wrong direction":
        film = _with(film, "cat", spots[::-1])
        clip = moving.film(film)
    else:
        clip = spoiled(moving, film, mistake, rng())
    shot = replace(sample_shot(moving, "text", rng()), film=replace(film, story=story))
    assert fault in checker.faults(clip, shot)


def test_a_jump_too_many_and_the_wrong_order_are_told(moving, checker):
    generator = rng(5)
    shot = sample_shot(moving, "text", generator, story="jump")
    (act,) = shot.film.story.acts
    other = replace(shot.film.story, acts=(replace(act, times=act.times % MOST_JUMPS + 1),))
    wrong = replace(shot, film=replace(shot.film, story=other))
    assert checker.faults(moving.film(shot.film), wrong) == ("wrong count",)
    story = Story(("cat", "dog"), (Act("move", "cat", way="left"), Act("jump", "dog")))
    film = film_for(moving, story, generator)
    turned = replace(film, story=replace(story, acts=story.acts[::-1]))
    assert "wrong time" in checker.faults(moving.film(film), replace(shot, film=turned))


def test_what_flickers_is_measured_apart_from_what_moves(moving, checker):
    """Wherever the model lets it move."""
    shot = sample_shot(moving, "text", rng(2), story="move")
    other = moving.film(film_for(moving, shot.film.story, rng(3)))
    assert checker.judge(other, shot).flicker < 0.5
    other[3] = np.clip(other[3].astype(int) - 4, 0, 255)
    assert 3 < checker.judge(other, shot).flicker < 5


def test_a_clip_of_another_length_is_refused(moving, checker):
    shot = sample_shot(moving, "text", rng())
    with pytest.raises(ValueError, match="must have 8 frames, got 7"):
        checker.judge(moving.film(shot.film)[1:], shot)


@pytest.mark.parametrize("type", SHOTS)
def test_an_empty_clip_is_judged_too(moving, checker, type):
    shot = sample_shot(moving, type, rng(9))
    assert checker.faults(np.full((FRAMES, SIZE, SIZE, 3), 200, np.uint8), shot)


@pytest.mark.parametrize(("type", "at"), [("first", 0), ("last", -1)])
def test_a_given_frame_that_is_not_kept_is_a_mistake(moving, checker, type, at):
    shot = sample_shot(moving, type, rng(6), story="jump")
    clip = moving.film(shot.film)
    clip[at] = 255 - clip[at]
    assert "given frame changed" in checker.faults(clip, shot)


@pytest.mark.parametrize("type", [*CLIP_EDITS, *CONTROLS])
def test_what_is_given_is_followed(moving, checker, type):
    """Another film of the same story is no answer to a source or a control."""
    generator = rng(7)
    while True:
        shot = sample_shot(moving, type, generator)
        story = shot.film.story
        if story.acts and story.type != "swap":
            break
    while True:
        other = replace(film_for(moving, story, generator), background=shot.film.background)
        pairs = [
            (one, same)
            for name in shot.placed
            for one, same in zip(other.track(name).spots, shot.film.track(name).spots, strict=True)
            if one and same
        ]
        if max(abs(one.x - same.x) + abs(one.y - same.y) for one, same in pairs) > 20:
            break
    assert checker.faults(moving.film(other), replace(shot, pinned=()))


def test_shots_give_what_their_tasks_take(moving):
    generator = rng(8)
    for type, task in SHOTS.items():
        shot = sample_shot(moving, type, generator)
        assert shot.task is task
        check_roles(task, [role for role, _ in shot.given])
        for role, pixels in shot.given:
            assert pixels.dtype == np.uint8
            clip = role in (Role.SOURCE, Role.MASK, Role.CONTROL)
            assert pixels.shape == ((FRAMES,) if clip else ()) + (SIZE, SIZE, 3)
    assert {SHOTS[type] for type in SHOTS} == {task for task, facts in TASKS.items() if facts.makes == "clip"}


def test_a_given_frame_is_that_of_the_film(moving):
    for type, roles in GIVEN_FRAMES.items():
        shot = sample_shot(moving, type, rng())
        shown = moving.film(shot.film)
        for role, pixels in shot.given:
            assert (pixels == shown[0 if role is Role.FIRST else -1]).all()
        assert tuple(role for role, _ in shot.given) == roles


def test_a_mask_follows_the_thing_that_is_changed(moving):
    """And holds all that changes."""
    generator = rng(3)
    for _ in range(10):
        shot = sample_shot(moving, "masked", generator)
        (_, source), (_, mask) = shot.given
        changed = (source != moving.film(shot.film)).any(3)
        assert changed.any()
        assert (mask[changed] == 255).all()


def test_controls_are_of_one_style_and_follow_the_things(moving):
    shot = sample_shot(moving, "paths", rng(1))
    ((_, control),) = shot.given
    for name in shot.placed:
        for at, spot in enumerate(shot.film.track(name).spots):
            assert control[at, spot.y, spot.x].tolist() == [255, 255, 255]
    shot = sample_shot(moving, "edges", rng(1), story="vanish")
    ((_, control),) = shot.given
    assert (control[0] == control[1]).all()


@pytest.mark.parametrize("task", CLIP_TASKS)
def test_samples_are_a_function_of_their_number(world, task):
    source, again = MotionSource(world, task, 0), MotionSource(world, task, 0)
    for number in (0, 7):
        one, other = source.draw(number), again.draw(number)
        assert one.task == {"clip-understand": "understand", "clip": "clip"}.get(task, "clip-edit")
        assert len(one.turns) == len(other.turns)
        for turn, same in zip(one.turns, other.turns, strict=True):
            assert turn.role == same.role
            for part, equal in zip(turn.parts, same.parts, strict=True):
                if isinstance(part, Picture):
                    assert (part.pixels == equal.pixels).all()
                else:
                    assert part == equal
        drawn = [picture for picture in one.pictures if picture.drawn]
        assert [picture.pixels.shape for picture in drawn] == [(FRAMES, SIZE, SIZE, 3)] * (
            task != "clip-understand"
        )
    assert [turn.parts for turn in source.draw(1).turns] != [turn.parts for turn in source.draw(2).turns]


def test_a_sample_is_made_in_ten_milliseconds(world):
    sources = [MotionSource(world, task, 0) for task in CLIP_TASKS]
    costs = []
    for number in range(10):
        for source in sources:
            start = time.process_time()
            source.draw(number)
            costs.append(time.process_time() - start)
    assert np.median(costs) <= 0.01


def test_an_unknown_task_or_type_is_refused(world, moving):
    with pytest.raises(ValueError, match="task must be one of clip-understand, clip"):
        MotionSource(world, "clips", 0)
    with pytest.raises(ValueError, match="type must be one of text, first"):
        sample_shot(moving, "film", rng())
    with pytest.raises(ValueError, match="type must be one of move, jump"):
        sample_story(moving, rng(), "fly")


def test_texts_for_a_vocabulary_name_things_and_acts(world):
    texts = " ".join(motion_texts(world, 0, 30))
    assert {"jumps", "moves", "appears", "cat"} <= set(texts.split())


def test_wide_worlds_ask_in_wide_words_and_plain_ones_do_not():
    plain, wide = (
        MotionSource(moving_world(WorldConfig(words=words)), "clip", 0) for words in ("plain", "wide")
    )
    said = [source.draw(number).turns[0].parts[0] for source in (plain, wide) for number in range(30)]
    assert all(parse_told(plain.world, text) is not None for text in said[:30])
    assert sum(parse_told(wide.world, text) is None for text in said[30:]) > 10
