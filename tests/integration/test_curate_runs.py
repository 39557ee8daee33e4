"""`diptych curate` as it is called: runs, what became of rows, other thresholds, kills, bad requests."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import curated
import pytest

from diptych import cli

KILLS = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    made = curated.folder(tmp_path_factory.mktemp("heap") / "source", 24)
    shutil.copy(made / "0003.png", made / "copy.png")
    (made / "copy.txt").write_text("the same boxes again")
    (made / "small.png").write_bytes(curated.encoded(curated.pixels(90, 40)))
    (made / "small.txt").write_text("a small one")
    (made / "cut.png").write_bytes(curated.encoded(curated.pixels(91))[:200])
    return made


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert cli.main(["curate", "broad", str(source), "-o", str(out), "--workers", "2"]) == 0
    return out


def said(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    status = cli.main(["curate", *arguments])
    told = capsys.readouterr()
    return f"{status} " + " ".join((told.out + told.err).split())


def test_a_run_leaves_data_a_table_and_a_page(finished):
    assert (finished / "report.html").stat().st_size > 1000
    assert (finished / "data" / "train" / "00000.tar").is_file()
    told = json.loads((finished / "counts.json").read_text())
    assert (told["rows"], told["kept"], told["dropped"], told["failed"]) == (27, 24, 2, 1)


def test_why_tells_of_a_row_by_name_number_and_hash(finished, capsys):
    told = said(capsys, "why", str(finished), "copy.png")
    assert "reason: the same bytes as another" in told
    assert "stage: duplicates" in told
    row = next(row for row in curated.outcomes(finished) if row["id"] == "small.png")
    assert "too small" in said(capsys, "why", str(finished), row["sha256"].hex()[:12])
    assert "small.png" in said(capsys, "why", str(finished), str(row["row"]))
    assert said(capsys, "why", str(finished), "nobody.png").startswith("2 ")


def test_a_replay_tells_and_writes_what_another_threshold_would_keep(finished, tmp_path, capsys):
    assert "25 of 27 rows kept" in said(capsys, "replay", str(finished), "--set", "probe.min_side=20")
    out = tmp_path / "out"
    said(capsys, "replay", str(finished), "--set", "probe.min_side=20", "-o", str(out))
    assert json.loads((out / "data" / "manifest.json").read_text())["rows"]["train"] >= 20
    # and the run itself is as it was
    assert "24 of 27 rows kept" in said(capsys, "status", str(finished))


def test_what_a_replay_cannot_do_is_said(finished, capsys):
    told = said(capsys, "replay", str(finished), "--set", "cluster.clusters=3")
    assert told.startswith("2 ")
    assert "changes what the stage cluster computes" in told
    assert "nearest: 'min_side'" in said(capsys, "replay", str(finished), "--set", "probe.min_sidee=3")
    assert "STAGE.FIELD=VALUE" in said(capsys, "replay", str(finished), "--set", "probe.min_side")
    assert "holds no run" in said(capsys, "status", str(finished / "data"))


def test_requests_that_cannot_be_carried_out_say_why(source, tmp_path, capsys):
    assert "there is no recipe 'pair'" in said(capsys, "pair", str(source), "-o", str(tmp_path / "out"))
    assert "no such file" in said(capsys, "pairs", str(tmp_path / "none"), "-o", str(tmp_path / "out"))
    assert "lie in one another" in said(capsys, "pairs", str(source), "-o", str(source / "out"))
    told = said(capsys, "pairs", str(source), "-o", str(tmp_path / "o"), "--set", "probe.min_side=9000")
    assert "nothing is kept of 27 rows: 26 go at probe (too small)" in told
    assert "too small" in said(capsys, "why", str(tmp_path / "o"), "0001.png")


def test_killed_at_random_moments_the_run_and_its_workers_end_in_the_same_bytes(source, finished, tmp_path):
    command = [sys.executable, "-m", "diptych.cli", "curate", "broad", str(source), "--workers", "2", "-o"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rng, out, kills = random.Random(5), tmp_path / "out", 0
    for number in range(KILLS):
        run = subprocess.Popen([*command, str(out)], env=environment, stderr=subprocess.DEVNULL)
        try:
            # the first ones early: a quiet machine is done within seconds
            run.wait(rng.uniform(0.3, 1) * (number + 1))
        except subprocess.TimeoutExpired:
            # the run, and everything that it started goes with it
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
    assert kills
    begun = time.monotonic()
    subprocess.run([*command, str(out)], env=environment, check=True, capture_output=True)
    assert time.monotonic() - begun < 300
    assert curated.result(out) == curated.result(finished)


def test_stopped_by_the_user_it_says_so_and_goes_on(source, finished, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "diptych.cli", "curate", "broad", str(source), "--workers", "1", "-o"]
    run = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not out.is_dir() and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    assert b"Traceback" not in run.communicate()[1]
    assert run.returncode in (130, 0)
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert curated.result(out) == curated.result(finished)
