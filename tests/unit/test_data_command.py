"""`diptych data`: what each command writes over, what it prints of strangers, and in which world it draws."""

from types import SimpleNamespace

import pytest
from test_pictures_data import picture, write

import diptych
from diptych.commands import data
from diptych.commands.terminal import Terminal
from diptych.data.captioned.index import build
from diptych.evaluation import drawn as drawing
from diptych.request import RequestError


@pytest.mark.parametrize("name", ["report.png", "sheet.png", "notes.txt"])
def test_an_inspection_is_drawn_over_nothing(tmp_path, name):
    write(tmp_path / "pictures", "a.png", picture(), "a")
    build(tmp_path / "pictures")
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(RequestError, match=rf"holds other files \({name}\)"):
        data.inspect(data.Inspect(folder=tmp_path / "pictures", output=out), Terminal())
    assert (out / name).read_text() == "mine"
    data.inspect(data.Inspect(folder=tmp_path / "pictures", output=tmp_path / "new"), Terminal(quiet=True))
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"report.png", "sheet.png"}


def test_a_strangers_file_name_is_printed_on_one_line_and_commands_no_terminal(tmp_path, capsys):
    write(tmp_path, "a.png", picture(), "a")
    write(tmp_path, "evil\x1b[2J\nb.png: no problem at all\u202e.png", picture(seed=1))
    data.index(data.Index(folder=tmp_path), Terminal(width=200))
    out = capsys.readouterr().out
    assert r"  evil\x1b[2J\nb.png: no problem at all\u202e.png: no caption" in out
    assert "\x1b" not in out


def test_prompts_to_draw_are_of_the_world_that_the_model_learnt(world, tmp_path, monkeypatch):
    card = {"recipe": {"world": {"size": 128, "lattice": 1}}}
    model, worlds = SimpleNamespace(system=SimpleNamespace(card=card)), []
    monkeypatch.setattr(diptych, "load", lambda name: model)
    monkeypatch.setattr(drawing, "write_drawn", lambda of, world, *_: worlds.append(world) or {"yes": 1})
    data.drawn(data.Drawn(folder=tmp_path, count=1), Terminal(quiet=True))
    assert (worlds[0].config.size, worlds[0].config.lattice) == (128, 1)
