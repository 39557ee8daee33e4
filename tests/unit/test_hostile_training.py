"""What strangers' data may do to a run: nothing but be told."""

import errno
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_hostile_data import BAD_LINES, GOOD, jsonl, spoilt_media
from test_training import Interrupted, assert_equal_runs, config
from toy_job import ToyJob, toy_config

from diptych import cli
from diptych.contracts import BadSample
from diptych.data.conversations.loader import LoaderConfig
from diptych.data.mixture import shuffled
from diptych.optim.build import OptimConfig
from diptych.systems.u1.config import Stage
from diptych.systems.u1.job import JointJob
from diptych.training.checkpoint import latest_step
from diptych.training.log import RunLog, StepReport
from diptych.training.trainer import Trainer


def test_lines_of_every_bad_kind_are_told_by_reason_and_a_killed_run_goes_on_past_them(
    tokenizer, tmp_path, monkeypatch
):
    source = jsonl(spoilt_media(tmp_path), *BAD_LINES, *[json.dumps(GOOD)] * 9)
    stages = (Stage(name="one", steps=6, mixture={"own": 1.0}, optim=OptimConfig(lr=1e-2, warmup=2)),)
    data = LoaderConfig(documents_per_step=10, row_tokens=32, workers=0)
    chosen = config(stages=stages, save_every=2, data=data, max_bad_samples=100)

    def run(name):
        return Trainer(JointJob(chosen, {"own": source}, tokenizer), tmp_path / name, quiet=True)

    straight, broken = run("straight"), run("broken")
    straight.train()
    step = Trainer._train_step

    def killed(self, *arguments):
        if self.step == 3:
            raise Interrupted
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", killed)
        with pytest.raises(Interrupted):
            broken.train()
    resumed = run("broken")
    resumed.train()
    assert_equal_runs(straight, resumed)
    drawn = [(n // 10, reason_of(source, shuffled(n, len(source), source.seed))) for n in range(60)]
    expected = [(step, reason) for step, reason in drawn if reason]
    assert len({reason for _, reason in expected}) == len(BAD_LINES)
    for name, trained in (("straight", straight), ("broken", resumed)):
        rows = [json.loads(line) for line in (tmp_path / name / "bad_samples.jsonl").read_text().splitlines()]
        told = [(row["step"], row["reason"]) for row in rows]
        assert trained.bad_samples == len(expected)
        # a step that a kill undid is taken again, and tells its samples again
        assert Counter(told if name == "straight" else set(told)) == Counter(expected)


def reason_of(source, index):
    try:
        source.read(index)
    except BadSample as error:
        return str(error)
    return ""


def test_what_strangers_wrote_commands_no_terminal(tmp_path, capsys):
    log = RunLog(tmp_path, toy_config(), quiet=False)
    log.bad_sample(3, "a\x1b]0;title\x07b\u202e.jsonl:2: 'c\nstep 4: all is well'")
    log.say("two\nlines\x1b[2J")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\nstep 4" not in out
    assert r"\x1b]0;title\x07b" in "".join(out.split("\n"))
    assert "two\nlines" in out
    told = (tmp_path / "bad_samples.jsonl").read_text()
    assert json.loads(told)["reason"].startswith("a\x1b]0;")
    assert told.count("\n") == 1


def test_a_stages_name_is_no_markup(tmp_path, capsys):
    log = RunLog(tmp_path, toy_config(log_every=100), quiet=False)
    log.step(1, "[/red] a [b]c", StepReport({"words": 1.0}, 1.0, 1.0, [], ()), 1.0)
    log.close()
    assert "[/red] a [b]c" in capsys.readouterr().out


def test_a_run_goes_on_when_nobody_reads_what_it_says(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        Trainer(ToyJob(toy_config(steps=2)), tmp_path / "run").train()
    assert latest_step(tmp_path / "run" / "checkpoints") == 2


def test_a_run_begins_among_no_other_files(tmp_path, capsys):
    (tmp_path / "a.png").write_text("mine")
    assert cli.main(["train", "emoji-small", "-o", str(tmp_path)]) == 2
    assert f"{tmp_path} holds other files (a.png); choose an empty or a new folder" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.png"]


IN_A_RUN = (
    *("log.jsonl", "bad_samples.jsonl", "config.json", "parent.json", "samples", "tensorboard", "curves.png"),
    *("checkpoints", "checkpoints/step-00000001", "checkpoints/.writing-00000002", ".lock"),
)


@pytest.mark.parametrize("name", IN_A_RUN)
def test_a_run_writes_through_no_link(tmp_path, name):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    Trainer(ToyJob(toy_config(steps=1)), folder, quiet=True).train()
    path = folder / name
    if path.is_dir():
        path.rename(outside)
    else:
        outside.write_text(path.read_text() if path.is_file() else "mine")
        path.unlink(missing_ok=True)
    path.symlink_to(outside)
    before = {p: p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()}
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is a link"):
        Trainer(ToyJob(toy_config(steps=2)), folder).train()
    assert {p: p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()} == before


def test_a_run_waits_for_no_reader_of_a_pipe(tmp_path):
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "log.jsonl")
    with pytest.raises(ValueError, match=r"log\.jsonl is a pipe or a device"):
        Trainer(ToyJob(toy_config()), tmp_path / "run").train()


@pytest.mark.parametrize("what", ["file", "below a file", "read-only"])
def test_a_run_in_a_place_that_is_no_folder_is_the_users_error(tmp_path, what, capsys, monkeypatch):
    (tmp_path / "taken").write_text("mine")
    folder = tmp_path / "taken" / ("run" if what == "below a file" else "")
    if what == "read-only":
        # rights stop no root, who may be running this
        def refused(*_, **__):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))

        monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(OSError) as error:  # noqa: PT011
        Trainer(ToyJob(toy_config()), folder, quiet=True).train()
    assert cli._told(error.value) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert (tmp_path / "taken").read_text() == "mine"
