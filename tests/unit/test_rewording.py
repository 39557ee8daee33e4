"""Free words put into those that a model was trained on, by the table beside its weights."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from diptych import cli
from diptych.files.folder import ModelFolderError
from diptych.planning import RulePlanner, understood
from diptych.planning.rewording import FILE, Rewording
from diptych.planning.schema import Attached, Look
from diptych.request import RequestError, Role, Task
from diptych.systems.registry import settings_of
from diptych.systems.u1.settings import read_words
from diptych.worlds.emoji import CATEGORIES, EDIT_TYPES, QUESTION_TYPES, EmojiWorld, WorldConfig, wording
from diptych.worlds.emoji.captions import caption, parse_caption, sample_wanted
from diptych.worlds.emoji.scene import OPPOSITE
from diptych.worlds.emoji.source import random_edit
from diptych.worlds.emoji.table import word_table

DRAWN = {
    "cat": "a cat",
    "3 puppies plz": "three dogs",
    "cats: 4": "four cats",
    "cats, three of them": "three cats",
    "under a crown, draw a kitten": "a cat below a crown",
    "there is a dog and to its left a cat": "a cat left of a dog",
    "to the cat's left, a dog": "a dog left of a cat",
    "a cat and a dog, the latter above the former": "a dog above a cat",
    "a cat on the left and a dog on the right": "a cat left of a dog",
    "a circle whose color is red": "a red circle",
    "violet disc on light blue": "a purple circle on a sky blue background",
    "would it be possible to have a picture of a cat? many thanks!": "a cat",
    "my daughter loves cats, so please draw one cat": "a cat",
    "eine katze links von einem roten kreis auf rosa hintergrund": "a cat left of a red circle on a pink "
    "background",
    "dos gatos y un círculo rojo": "two cats and a red circle",
    "a la izquierda del perro hay un gato": "a cat left of a dog",
    "tiga kucing di latar merah muda": "three cats on a pink background",
    "在狗的左边画一只猫": "a cat left of a dog",
    "狗，它的左边有两只猫": "two cats left of a dog",
}
CHANGED = {
    "get rid of the kitty": "remove the cat",
    "pink background please": "change the background to pink",
    "swap the car for a fir": "replace the car with a tree",
    "put a cat where the dog is": "replace the dog with a cat",
    "i would prefer a cat to the dog": "replace the dog with a cat",
    "color the red circle blue": "make the red circle blue",
    "put the house on the left side": "move the house to the left",
    "please make the lady farmer a man": "swap the gender of the woman farmer",
    "the thumb should have darker skin": "give the thumbs up a dark skin tone",
    "another star": "add a star",
    "mach aus dem hund eine katze": "replace the dog with a cat",
    "quita la estrella, por favor": "remove the star",
    "把背景改成粉色": "change the background to pink",
    "pindahkan kucing ke kiri": "move the cat to the left",
}
ASKED = {
    "how many kitties can you count?": "how many cats are there?",
    "what's the color of the disc": "what colour is the circle?",
    "apa warna latar?": "what colour is the background?",
    "compared to the dog, where's the cat": "where is the cat, seen from the dog?",
    "猫在狗的哪边？": "where is the cat, seen from the dog?",
    "do you happen to see a fir": "is there a tree?",
    "¿qué hay en la imagen?": "what is this?",
    "beschreib das foto": "describe the picture",
}
LEFT = (
    "a dinosaur and a cat",
    "a cat riding a dog",
    "a red cat",
    "a circle",
    "some cats",
    "a cat on the moon",
    "two pictures of a cat",
    "seventeen cats",
    "a cat but no dog",
    "a cat left of a dog and a dog left of a cat",
    "the quick brown fox",
    "write me a sonnet",
    "",
)


@pytest.fixture(scope="module")
def words() -> Rewording:
    return Rewording.of(word_table(WorldConfig()))


@pytest.fixture(scope="module")
def world() -> EmojiWorld:
    return EmojiWorld()


@pytest.mark.parametrize(
    ("task", "cases"), [(Task.TEXT_TO_IMAGE, DRAWN), (Task.EDIT, CHANGED), (Task.ANSWER, ASKED)]
)
def test_what_is_said_is_put_into_the_words_of_the_model(words, task, cases):
    assert {said: words.put(task, said) for said in cases} == cases


@pytest.mark.parametrize("said", LEFT)
def test_what_the_model_has_no_words_for_stays_as_it_is(words, said):
    assert words.put(Task.TEXT_TO_IMAGE, said) is None


@pytest.mark.parametrize("said", ["remove the zebra", "make it nicer", "paint the cat red", "hello"])
def test_edits_of_what_it_has_no_words_for_stay_as_they_are(words, said):
    assert words.put(Task.EDIT, said) is None


def facts(wanted):
    relation = wanted.relation
    if relation and relation[0] > relation[2]:
        relation = (relation[2], OPPOSITE[relation[1]], relation[0])
    return dict(wanted.counts), relation, wanted.background


def test_captions_stay_what_they_are(words, world):
    rng = np.random.default_rng(0)
    for number in range(60):
        text = caption(world, sample_wanted(world, CATEGORIES[number % 6], rng))
        assert words.put(Task.TEXT_TO_IMAGE, text) == text


@pytest.mark.parametrize("tongue", wording.TONGUES)
def test_ways_of_saying_that_no_training_has_are_understood(words, world, tongue, monkeypatch):
    monkeypatch.setattr(wording, "tongue_for", lambda *_: wording.TONGUES[tongue])
    rng, right, asked = np.random.default_rng(3), 0, 90
    for number in range(asked):
        wanted = sample_wanted(world, CATEGORIES[number % 6], rng)
        said = words.put(Task.TEXT_TO_IMAGE, wording.request(world, wanted, rng, held=True))
        found = said and parse_caption(world, said)
        right += bool(found) and facts(found) == facts(wanted)
    assert right >= 0.95 * asked


def test_plain_instructions_are_understood_as_they_are(words, world):
    rng = np.random.default_rng(4)
    for number in range(70):
        edit = random_edit(world, rng, EDIT_TYPES[number % 7])
        assert words.put(Task.EDIT, edit.instruction) is not None, edit.instruction


def test_the_shipped_model_is_asked_in_its_words_and_that_is_told():
    (plan,) = understood(settings_of("default"), "under a crown, draw a kitty").plans
    assert plan.prompt == "a cat below a crown"
    assert "read as: a cat below a crown" in plan.adjustments
    (plan,) = understood(settings_of("default"), "a dinosaur in a hat").plans
    assert "dinosaur" in plan.prompt
    assert not [note for note in plan.adjustments if note.startswith("read as")]


def test_a_model_without_a_table_is_asked_in_the_users_words():
    settings = replace(settings_of("default"), words=None)
    (plan,) = understood(settings, "draw a kitty", planner=RulePlanner()).plans
    assert plan.prompt == "draw a kitty"


def test_what_is_inside_a_mask_need_not_be_named():
    settings = settings_of("default")
    settings = replace(settings, max_media=2)
    inputs = (Role.SOURCE, Role.MASK)
    (plan,) = understood(settings, "get rid of the kitty", 2, task="edit", inputs=inputs).plans
    assert plan.prompt
    assert plan.inputs == inputs


def test_words_that_tell_the_task_stand_against_a_planner_that_cannot_be_right():
    settings = settings_of("default")
    (plan,) = understood(settings, "could you perhaps remove the star?", 1).plans
    assert (plan.task, plan.prompt) == (Task.EDIT, "remove the star")
    (plan,) = understood(settings, "is there a star in it?", 1).plans
    assert plan.task is Task.ANSWER


def test_three_pictures_of_a_cat_are_not_three_cats():
    (plan,) = understood(settings_of("default"), "3 pictures of a cat").plans
    assert plan.count == 3
    assert plan.prompt == "a cat"


def table():
    return json.loads(json.dumps(word_table(WorldConfig(objects="few"))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(version=2), "version must be 1, got 2"),
        (lambda t: t["say"].pop("add"), "say.add is missing"),
        (lambda t: t["say"].update(remove="remove {one.__class__}"), "say.remove has the slots one"),
        (lambda t: t["say"].update(what="{"), "say.what"),
        (lambda t: t["kinds"].update(cat={"": "zebra"}), "kinds.cat"),
        (lambda t: t["relations"]["above"].update(opposite="beside"), "relations.above.opposite"),
        (lambda t: t["languages"]["en"].update(verb={}), "a sort is one of"),
        (lambda t: t["languages"]["de"]["noun"].update(zebra=["zebra"]), "languages.de.noun: 'zebra'"),
        (lambda t: t.update(extra=1), "unknown key 'extra'"),
    ],
)
def test_a_table_that_is_none_is_refused_by_the_place_of_what_is_wrong(change, said, tmp_path):
    values = table()
    change(values)
    (tmp_path / FILE).write_text(json.dumps(values))
    with pytest.raises(ModelFolderError, match=said):
        read_words(tmp_path)


def test_a_table_is_written_by_a_command_and_read_again(tmp_path, words):
    assert cli.main(["data", "words", "-o", str(tmp_path / FILE)]) == 0
    read = Rewording.open(tmp_path)
    assert read is not None
    assert read.table == words.table
    assert Rewording.open(tmp_path / "elsewhere") is None


def test_a_model_keeps_its_words_when_it_is_saved(tmp_path):
    import diptych

    system = diptych.load().system
    system.save(tmp_path / "copy")
    assert read_words(tmp_path / "copy").table == system.settings.words.table
    assert "words.json" in json.loads((tmp_path / "copy" / "card.json").read_text())["sha256"]


def test_rewording_needs_no_torch():
    script = "import sys; import diptych.planning.rewording; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_question_of_the_benchmark_has_words(words):
    assert {*QUESTION_TYPES} - {"colour"} <= {*words.table.say}


@pytest.mark.parametrize(
    "said",
    [
        "remove the cat but not the dog",
        "don't remove the cat",
        "remove the red heart, not the blue one",
        "swap the places of the cat and the dog",
        "tausche Katze und Hund",
        "交换猫和狗",
        "put a crown over the cat",
        "put a star next to the tree",
        "remove the dog and the cat",
        "make it black and white",
    ],
)
def test_an_edit_that_the_words_cannot_say_is_left_as_it_is(words, said):
    assert words.put(Task.EDIT, said) is None


@pytest.mark.parametrize("said", ["wo ist der Hund?", "was ist links?", "position of the dog?"])
def test_a_question_about_a_place_is_no_question_about_what_is_there(words, said):
    assert words.put(Task.ANSWER, said) is None


@pytest.mark.parametrize(
    "request_", ["a video of a cat", "animate a cat", "ein Video von einer Katze", "一段猫的视频"]
)
def test_words_that_are_known_do_not_make_a_still_of_a_clip(request_):
    with pytest.raises(RequestError, match=r"cannot do|attach"):
        understood(settings_of("default"), request_)


def test_one_number_of_pixels_is_both_sides():
    (plan,) = understood(settings_of("default"), "512 pixels cat").plans
    assert (plan.width, plan.height) == (512, 512)


def test_a_question_needs_something_to_be_asked_about():
    with pytest.raises(RequestError, match="attach"):
        understood(settings_of("default"), "how many dogs are there?")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_black_picture_is_the_mask_that_is_spoken_of(order):
    settings = replace(settings_of("default"), masked_edits=True, max_media=2)
    media = [Attached(kind="picture"), Attached(kind="picture", look=Look.BLANK)]
    (plan,) = understood(settings, "remove the cat inside the mask", [media[at] for at in order]).plans
    roles = [plan.inputs[order.index(at)] for at in (0, 1)]
    assert [str(role) for role in roles] == ["source", "mask"]


@pytest.mark.parametrize("request_", ["a cat, 0x0", "a cat 96 x 0"])
def test_a_size_of_no_pixels_is_refused(request_):
    with pytest.raises(RequestError, match="width must be 1 to"):
        understood(settings_of("default"), request_)
