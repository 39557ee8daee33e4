"""Every command that a stranger's files, values and places could break: `make test-hostile`; `make test` runs
a fixed part."""

import os
import shutil
import subprocess
import sys

import pytest

from hostile.case import Case, faults, snapshot
from hostile.corpus import CASES
from hostile.stock import Stock
from hostile.zygote import Zygote

ALL = bool(os.environ.get("DIPTYCH_HOSTILE"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    # the parent of the workers' own folders, or the only process's own
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def stock(shared):
    return Stock(shared / "stock")


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    made = Zygote(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


def test_names_are_unique_and_groups_are_all_in_make_test():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 320
    quick = [case for case in CASES if case.always]
    assert len(quick) == 60
    assert {case.name.split(":")[0] for case in quick} == {name.split(":")[0] for name in names}


@pytest.mark.parametrize(
    "argv",
    [("plan", "a cat, 0x0"), ("info", "runs/typo"), ("do", "a cat", "--seed", "1", "-o", "a.exe")],
    ids=" ".join,
)
def test_a_forked_command_says_what_one_in_a_process_of_its_own_says(argv, zygote, tmp_path):
    (tmp_path / "case" / "work").mkdir(parents=True)
    forked = zygote.run(Case(name="forked", argv=argv, says=""), tmp_path / "case")
    own = subprocess.run(
        [sys.executable, "-m", "diptych.cli", *argv],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (own.returncode, own.stdout, own.stderr) == (forked.status, forked.out, forked.err)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.always or ALL])
def test_a_hostile_command_is_refused_in_a_sentence_or_does_what_it_says(case, zygote, stock, tmp_path):
    folder = tmp_path / "case"
    for name in ("work", "outside"):
        (folder / name).mkdir(parents=True)
    (folder / "outside" / "secret.txt").write_text("somebody else's")
    case.files(folder / "work", stock)
    before = snapshot(folder)
    outcome = zygote.run(case, folder)
    wrong = faults(case, outcome, before, snapshot(folder))
    told = (f"diptych {' '.join(case.argv)[:300]}", *wrong[:8], outcome.out[-2000:], outcome.err[-3000:])
    # what a stranger wrote may be more than a report of tests can hold
    assert not wrong, "\n".join(told).encode("ascii", "backslashreplace").decode()
    # hundreds of small models would else fill a disk
    shutil.rmtree(folder)
