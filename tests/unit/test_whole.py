"""Files and folders are written whole, or are as they were."""

import pytest

from diptych.commands.outputs import check_output
from diptych.files.whole import whole_folder, write_whole
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
    (tmp_path / "made" / ".model.part").mkdir(parents=True)
    (tmp_path / "made" / ".model.part" / "stale").write_text("left by a kill")
    with whole_folder(folder) as aside:
        (aside / "one").write_text("1")
        assert not folder.exists()
    (folder / ".one.77.part").write_text("left by a kill")
    with whole_folder(folder) as aside:
        (aside / "two").write_text("2")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["model"]
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]


def test_a_kill_between_the_renames_loses_nothing(tmp_path):
    (tmp_path / ".model.before").mkdir()
    (tmp_path / ".model.before" / "kept").write_text("mine")
    with pytest.raises(Stopped):
        stop_while_writing(tmp_path / "model", "half")
    assert (tmp_path / "model" / "kept").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


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
