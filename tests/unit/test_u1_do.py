"""`diptych do` with a published folder: answers, conversations in a file, edits of many pictures, stories."""

import json
from dataclasses import replace
from pathlib import Path

import golden_files
import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.commands.do import Talk
from diptych.data.conversations.tokens import Document
from diptych.data.pictures import open_picture
from diptych.request import RequestError, Task
from diptych.systems.registry import settings_of
from diptych.systems.u1.system import U1System

RUNS = golden_files.load_json("u1_folder/index")["runs"]
PICTURES = golden_files.FOLDER / "u1_folder/pictures"
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = golden_files.write_folder("u1_folder/model", tmp_path_factory.mktemp("u1"))
    system = {kind: RUNS[kind]["settings"]["system_prompt"] for kind in ("draw", "story")}
    (made / "diptych.json").write_text(json.dumps({"conversation": {"system": system}}))
    return made


def in_talk(folder: Path) -> list[str]:
    """What makes a request the next turn of talk.json, quickly drawn."""
    model = ["--model", str(folder), "--history", "talk.json"]
    return [*model, "--width", "32", "--height", "32", "--steps", "1"]


def test_do_goes_on_with_a_conversation_in_a_file(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talks").mkdir()
    talk = tmp_path / "talks/talk.json"
    model = ["--model", str(folder), "--dtype", "float32", "--history", str(talk)]
    assert main(["do", QUESTION, "-i", str(PICTURES / "disc.png"), *model]) == 0
    assert main(["do", "Which colour is the ground?", *model]) == 0
    assert capsys.readouterr().out.splitlines() == [
        RUNS[f"chat_{n}"]["answer"] for n in ("disc", "second_turn")
    ]
    turns = json.loads(talk.read_text())
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    # the picture lay elsewhere
    assert turns[0] == {"role": "user", "text": QUESTION, "media": ["talk.0.png"]}
    assert (tmp_path / "talks/talk.0.png").read_bytes() == (PICTURES / "disc.png").read_bytes()
    assert turns[3]["text"] == "The ground is pale blue."


def test_do_draws_words_at_random_and_ends_before_a_stop_text(folder, capsys):
    asked = ["do", QUESTION, "-i", str(PICTURES / "disc.png"), "--model", str(folder), "--dtype", "float32"]

    def said(*how: str) -> tuple[str, str]:
        assert main([*asked, *how]) == 0
        told = capsys.readouterr()
        return told.out.rstrip("\n"), told.err

    assert said("--stop", " above", "--stop", "nothing")[0] == "A red disc"
    assert RUNS["chat_disc"]["answer"].startswith(said("--max-tokens", "2")[0])
    free = ["--temperature", "30", "--max-tokens", "9"]
    words, plan = said(*free)
    # the plan that is told repeats what was drawn, seed and all
    seed = next(line.split()[1] for line in plan.splitlines() if line.split()[:1] == ["seed"])
    assert said(*free, "--seed", seed)[0] == words
    assert said(*free, "--seed", "5")[0] != said(*free, "--seed", "6")[0]


def test_do_edits_with_ten_references_and_refuses_an_eleventh(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(11):
        shade = np.full((40 + number, 48, 3), 20 * number, np.uint8)
        Image.fromarray(shade).save(tmp_path / f"{number}.png")
    read: list[Document] = []
    prefix = U1System._prefix
    monkeypatch.setattr(U1System, "_prefix", lambda self, found: read.extend(found) or prefix(self, found))
    how = ["--model", str(folder), "--dtype", "float32", "--task", "edit", "--steps", "1", "--seed", "1"]

    def edited(count: int, *more: str) -> int:
        given = [word for number in range(count) for word in ("-i", f"{number}.png")]
        return main(["do", "put all of these into one picture", *given, *how, *more])

    assert edited(10, "--width", "64", "--height", "32") == 0
    assert Image.open("out.png").size == (64, 32)
    # in the order in which they were given, each at the size that it is read at
    assert [int(pixels.mean()) for pixels in read[0].clean] == [20 * number for number in range(10)]
    # what is drawn has the size of the first, which is the one that is changed
    assert edited(10, "-o", "source.png") == 0
    assert Image.open("source.png").size == read[-1].clean[0].shape[1::-1]
    capsys.readouterr()
    assert edited(11, "-o", "eleven.png") == 2
    assert "11 pictures are attached, but this model looks at 10 at most" in capsys.readouterr().err
    assert not (tmp_path / "eleven.png").exists()


def test_do_shows_thoughts_and_keeps_what_it_drew(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(folder), "--dtype", "float32", "--history", "talk.json"]
    how = ["--width", "64", "--height", "64", "--steps", "4", "--seed", "42", "-o", "apple.png"]
    run = RUNS["draw_think"]
    assert main(["do", run["settings"]["prompt"], "--think", *how, *model]) == 0
    told = capsys.readouterr()
    assert run["think_text"] in told.err
    assert told.out == "apple.png\n"
    drawn = json.loads((tmp_path / "talk.json").read_text())[1]
    assert drawn == {"role": "assistant", "text": "<image>", "media": ["talk.0.png"]}
    assert (tmp_path / "talk.0.png").read_bytes() == (tmp_path / "apple.png").read_bytes()
    assert main(["do", "What is it?", *model]) == 0
    assert len(json.loads((tmp_path / "talk.json").read_text())) == 4


def test_each_turn_keeps_the_picture_that_it_drew(folder, tmp_path, monkeypatch):
    """They are all written to out.png unless another name is given."""
    monkeypatch.chdir(tmp_path)
    how = in_talk(folder)
    drawn = []
    for request, *more in (("draw a disc",), ("draw a ring",), ("make it red", "-i", "talk.0.png")):
        assert main(["do", request, *more, *how]) == 0
        drawn.append((tmp_path / "out.png").read_bytes())
    turns = json.loads((tmp_path / "talk.json").read_text())
    kept = [(tmp_path / turn["media"][0]).read_bytes() for turn in turns[1::2]]
    assert kept == drawn
    assert len(set(kept)) == 3
    # what the conversation has already is not copied again
    assert turns[4]["media"] == ["talk.0.png"]


def test_a_turn_keeps_the_picture_that_it_asked_about(folder, tmp_path, monkeypatch):
    """Also where what is drawn is written over it, as out.png is by an edit of out.png."""
    monkeypatch.chdir(tmp_path)
    how = in_talk(folder)
    assert main(["do", "draw a disc", *how]) == 0
    asked = (tmp_path / "out.png").read_bytes()
    assert main(["do", "make it red", "-i", "out.png", *how]) == 0
    user, assistant = json.loads((tmp_path / "talk.json").read_text())[2:]
    assert (tmp_path / user["media"][0]).read_bytes() == asked
    assert (tmp_path / assistant["media"][0]).read_bytes() == (tmp_path / "out.png").read_bytes() != asked


def test_what_is_drawn_is_not_written_over_a_conversation(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how = in_talk(folder)
    for _ in range(2):
        # named as the conversation is
        assert main(["do", "draw a disc", "--count", "2", "-o", "talk.png", *how]) == 0
    kept = [name for turn in json.loads((tmp_path / "talk.json").read_text()) for name in turn["media"]]
    assert len(set(kept)) == 4
    held = (tmp_path / "talk.0.png").read_bytes()
    assert main(["do", "draw a ring", "-o", "talk.0.png", *how]) == 2
    assert "belongs to the conversation" in capsys.readouterr().err
    assert (tmp_path / "talk.0.png").read_bytes() == held


def test_a_picture_that_was_not_looked_at_is_no_part_of_the_turn(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how = in_talk(folder)
    unused = ["--task", "text-to-image", "--inputs", "unused", "-i", str(PICTURES / "disc.png")]
    assert main(["do", "draw a ring", *unused, *how]) == 0
    assert json.loads((tmp_path / "talk.json").read_text())[0]["media"] == []


def test_pictures_of_earlier_turns_may_guide_a_drawing(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how = ["--model", str(folder), "--width", "32", "--height", "32", "--steps", "1"]
    scale = ["--image-guidance-scale", "2"]
    assert main(["do", "draw a disc", *how, *scale]) == 2
    assert "image_guidance_scale has no effect" in capsys.readouterr().err
    assert main(["do", "draw a disc", *how, "--history", "talk.json"]) == 0
    assert main(["do", "draw it again", *how, *scale, "--history", "talk.json"]) == 0


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        ('{"role": "user"}', "Expected `array`"),
        ('[{"role": "robot", "text": "x"}]', "role must be one of user, assistant, system"),
        ('[{"role": "user", "text": "x", "media": ["../cat.png"]}]', "lies outside"),
        ('[{"role": "user", "text": "x", "media": ["cat.png"]}]', "'cat.png' is not in"),
        ('[{"role": "user", "txt": "x"}]', "unknown key 'txt' (nearest: 'text')"),
        ("[", "not JSON"),
    ],
)
def test_a_wrong_file_of_turns_is_named_with_its_place(folder, tmp_path, capsys, talk, message):
    (tmp_path / "cat.png").write_bytes((PICTURES / "disc.png").read_bytes())
    (tmp_path / "in").mkdir()
    (tmp_path / "in/talk.json").write_text(talk)
    assert main(["do", QUESTION, "--model", str(folder), "--history", str(tmp_path / "in/talk.json")]) != 0
    told = capsys.readouterr().err
    assert message in told.replace("\n", " ")
    assert "talk.json" in told


def test_a_model_that_holds_no_conversations_is_given_none(folder, tmp_path):
    settings = replace(settings_of(str(folder)), tasks=frozenset({Task.TEXT_TO_IMAGE}))
    with pytest.raises(RequestError, match="leave out --history"):
        Talk.read(settings, tmp_path / "talk.json")


@pytest.mark.parametrize(
    ("output", "message"), [(".", "is a folder"), ("story", "story-0.png is no ordinary")]
)
def test_a_story_that_cannot_be_written_is_not_told(folder, tmp_path, capsys, monkeypatch, output, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story-0.png").mkdir()
    how = ["--task", "interleave", "--model", str(folder), "-o", output]
    assert main(["do", RUNS["story"]["settings"]["prompt"], *how]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert not told.out


def test_do_writes_a_story_as_a_page_with_its_pictures(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--task", "interleave", "--width", "64", "--height", "64", "--steps", "4", "--seed", "42"]
    assert (
        main(
            [
                "do",
                RUNS["story"]["settings"]["prompt"],
                "--model",
                str(folder),
                "--dtype",
                "float32",
                *words,
                "-o",
                "story",
            ]
        )
        == 0
    )
    page = (tmp_path / "story.md").read_text()
    told = capsys.readouterr().out
    drawn = page.count("![](story-")
    assert drawn > 0
    assert told.startswith("First a full disc:\n<image>\n")
    assert told.splitlines()[-1 - drawn :] == ["story.md", *(f"story-{n}.png" for n in range(drawn))]
    assert all(open_picture(tmp_path / f"story-{n}.png").shape == (64, 64, 3) for n in range(drawn))
