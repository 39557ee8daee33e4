"""Files and folders are written whole, or are as they were."""

import subprocess
import sys

import pytest

from diptych.commands.outputs import check_output
from diptych.files import whole as whole_module
from diptych.files.whole import becomes, whole_folder, write_whole
from diptych.request import RequestError


class Stopped(Exception):
    pass


def stop_while_writing(folder, name):
    with whole_folder(folder) as aside:
        (aside / name).write_text("not whole")
        raise Stopped


def test_a_folder_that_was_not_finished_is_as_it_was(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(Stopped):
        stop_while_writing(folder, "half")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    (folder / "kept").write_text("mine")
    with pytest.raises(Stopped):
        stop_while_writing(folder, "kept")
    assert (folder / "kept").read_text() == "mine"
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "kept"]


def test_a_finished_folder_holds_what_was_there_and_what_was_written(tmp_path):
    folder = tmp_path / "made" / "model"
    with whole_folder(folder) as aside:
        (aside / "one").write_text("1")
        assert not folder.exists()
    (folder / ".one.77.part").write_text("left by a kill")
    with whole_folder(folder) as aside:
        (aside / "two").write_text("2")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["model"]
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]


def test_a_kill_between_the_renames_loses_nothing(tmp_path):
    """The process ends where the old folder has been moved away and the new one has not come."""
    folder = tmp_path / "model[1]"
    folder.mkdir()
    (folder / "kept").write_text("mine")
    script = (
        "import os, sys, pathlib\n"
        "from diptych.files.whole import whole_folder\n"
        "rename = pathlib.Path.rename\n"
        "def killed(self, target):\n"
        "    if self.name == 'new':\n"
        "        os._exit(9)\n"
        "    return rename(self, target)\n"
        "pathlib.Path.rename = killed\n"
        "with whole_folder(pathlib.Path(sys.argv[1])) as aside:\n"
        "    (aside / 'more').write_text('1')\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == 9
    assert not folder.exists()
    with pytest.raises(Stopped):
        stop_while_writing(folder, "half")
    assert [path.name for path in folder.iterdir()] == ["kept"]
    assert (folder / "kept").read_text() == "mine"


def test_what_others_keep_beside_a_folder_stays(tmp_path):
    for name in (".model.part", ".model.before", "model.part", ".model.mine.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").write_text("mine")
    with whole_folder(tmp_path / "model") as aside:
        (aside / "one").write_text("1")
    with pytest.raises(Stopped):
        stop_while_writing(tmp_path / "model", "two")
    assert {path.parent.name for path in tmp_path.glob("*/kept")} == {
        ".model.part",
        ".model.before",
        "model.part",
        ".model.mine.part",
    }
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["one"]


def test_names_are_on_disk_with_what_they_name(tmp_path, monkeypatch):
    """A power cut after a rename loses the name unless its folder was brought to disk behind it."""
    seen = []

    def watched(path):
        seen.append((path.name, (tmp_path / "a").exists()))

    monkeypatch.setattr(whole_module, "sync", watched)
    write_whole(tmp_path / "a", "1")
    assert seen[-1] == (tmp_path.name, True)
    assert seen[0][1] is False
    seen.clear()
    with whole_folder(tmp_path / "b") as aside:
        (aside / "one").write_text("1")
    assert [name for name, _ in seen] == ["new", "one", tmp_path.name]


def test_a_model_is_written_only_where_nothing_else_lies(tmp_path):
    own = ("calibration.json",)
    check_output(tmp_path / "new")
    write_whole(tmp_path / "calibration.json", "{}")
    (tmp_path / ".calibration.json.12.part").write_text("{")
    check_output(tmp_path, own)
    with pytest.raises(RequestError, match=r"holds other files \(\.calibration"):
        check_output(tmp_path)
    with pytest.raises(RequestError, match=r"calibration\.json is a file"):
        check_output(tmp_path / "calibration.json")
    (tmp_path / "old-calibration.json").write_text("{}")
    with pytest.raises(RequestError, match=r"holds other files \(old-calibration\.json\)"):
        check_output(tmp_path, own)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match="is a model already"):
        check_output(tmp_path, own)


def test_a_folder_that_is_being_written_knows_what_it_will_be(tmp_path):
    for name in ("model", "a.model.part", "new"):
        with whole_folder(tmp_path / name) as aside:
            assert becomes(aside) == tmp_path / name
    assert becomes(tmp_path / "new") == tmp_path / "new"
