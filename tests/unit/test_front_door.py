"""What stands between a request and its plan: files of plans, words that a model lacks, masks, old turns."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.cli import main
from diptych.commands.arguments import _read_plan
from diptych.commands.grow import _sentences
from diptych.planning import understanding, understood
from diptych.planning.schema import Attached, Look
from diptych.request import Media, Message, RequestError
from diptych.systems.registry import settings_of
from diptych.systems.u1.system import _remembered

PHOTO, MASK = Attached(kind="picture"), Attached(kind="picture", look=Look.MASK)
SETTINGS = settings_of("default")


def test_a_talk_forgets_its_first_pictures_and_never_those_of_now():
    picture = Media.picture(np.zeros((8, 8, 3), np.uint8))
    first, drawn = Message("user", "a cat"), Message("assistant", "", (picture,))
    now, shown = Message("user", "a dog"), Message("user", "and this", (picture,))
    talk = [first, drawn, first, drawn, now]
    assert _remembered(talk, 1) == [first, drawn, now]
    assert _remembered(talk, 2) == talk
    assert _remembered([first, drawn, shown], 1) == [shown]


def test_a_plan_that_an_editor_of_windows_wrote_is_read(capsys, tmp_path):
    assert main(["plan", "a cat, seed 3"]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "plan.json"
    file.write_bytes(b"\xef\xbb\xbf" + printed.encode())
    assert _read_plan(file).plans[0].seed == 3
    assert "intent" not in capsys.readouterr().err


def test_an_intent_that_says_otherwise_than_its_plan_is_told(capsys, tmp_path):
    assert main(["plan", "a cat, seed 3"]) == 0
    file = tmp_path / "plan.json"
    file.write_text(capsys.readouterr().out.replace('"seed": 3', '"seed": 4', 1))
    assert _read_plan(file).plans[0].seed == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "plans[0].seed is 3, and the intent says 4: the plans are carried out" in said


def test_two_masks_are_refused_by_name():
    with pytest.raises(RequestError, match="2 masks are attached, and an edit takes one"):
        understood(SETTINGS, "remove the cat inside the mask", [PHOTO, MASK, MASK])


def test_words_that_the_model_lacks_are_named():
    (plan,) = understood(SETTINGS, "a zyxomat beside a quibber").plans
    assert any("not among the model's words: " in note and "zyxomat" in note for note in plan.adjustments)
    (plan,) = understood(SETTINGS, "a red cat").plans
    assert not any("not among" in note for note in plan.adjustments)


def test_rules_say_that_they_stand_in(monkeypatch):
    monkeypatch.setattr(understanding, "_learned", lambda: None)
    (plan,) = understood(SETTINGS, "a red cat").plans
    assert any("planner's file is missing" in note for note in plan.adjustments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "needed"),
        (b"a" * 200_000, "one sentence a line is needed"),
        (b"a\0b\n", "a text file is needed"),
    ],
)
def test_a_vocabulary_grows_by_text_alone(tmp_path, content, message):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(_sentences(file))
