"""Curation: a row has one outcome, only what changed is computed, and equal decisions make equal bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import curated
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.curation import work
from diptych.curation.decide import decide, totals
from diptych.curation.engine import COUNTS, TABLE, NothingKept, Run, curate
from diptych.curation.pool import Here, ProcessPool
from diptych.curation.recipes import Recipe
from diptych.curation.stage import Shared, Stage, Verdict, below, limit_of, threshold
from diptych.data.captioned.index import Index


@dataclass(frozen=True, kw_only=True)
class Bright(Stage):
    """Mean brightness of a picture; fails, is silly or dies where it is told to."""

    kind: ClassVar[str] = "bright"
    looked: ClassVar[int] = 0

    fails: str = ""
    least: float | None = threshold(None)

    def gives(self) -> dict[str, pa.DataType]:
        return {"mean": pa.float32()}

    def look(self, seen: Any, loaded: Any) -> float:
        Bright.looked += 1
        return float(seen.small.mean())

    def compute(self, batch: Any, loaded: Any) -> Any:
        if self.fails and any(self.fails in name for name in batch.ids):
            raise TypeError("something is off at 0x7f3a")
        return {"mean": batch.looked}

    def judge(self, view: Any) -> Verdict:
        return Verdict(below("dark", view["bright.mean"], self.least, "bright.mean"))


def of(*stages: Stage, source: Path, out: Path) -> Run:
    return curate(Recipe("mine", {}, list(stages)), source, out, Here())


def counts(out: Path) -> dict[str, Any]:
    return json.loads((out / COUNTS).read_text())


@pytest.fixture(scope="module")
def heap(tmp_path_factory) -> Path:
    """Forty pictures, among them a copy, a blurred, a small and a damaged one, and one without words."""
    source = curated.folder(tmp_path_factory.mktemp("heap") / "source", 40)
    shutil.copy(source / "0003.png", source / "copy.png")
    (source / "copy.txt").write_text("the same boxes again")
    (source / "small.png").write_bytes(curated.encoded(curated.pixels(90, 40)))
    (source / "small.txt").write_text("a small one")
    (source / "cut.png").write_bytes(curated.encoded(curated.pixels(91))[:200])
    (source / "cut.txt").write_text("a cut one")
    (source / "dumb.png").write_bytes(curated.encoded(curated.pixels(92)))
    return source


@pytest.fixture(scope="module")
def finished(heap, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    curated.run(heap, out)
    return out


def test_every_row_has_one_outcome_with_its_stage_and_reason(finished):
    rows = {row["id"]: row for row in curated.outcomes(finished)}
    assert len(rows) == 44
    assert (rows["0000.png"]["outcome"], rows["0000.png"]["stage"]) == ("kept", "")
    told = {
        name: (rows[name]["outcome"], rows[name]["stage"], rows[name]["reason"])
        for name in ("copy.png", "small.png", "dumb.png", "cut.png")
    }
    assert told["copy.png"] == ("dropped", "duplicates", "the same bytes as another")
    assert told["small.png"] == ("dropped", "probe", "too small")
    assert told["dumb.png"] == ("dropped", "text", "no caption")
    assert told["cut.png"][:2] == ("failed", "probe")
    assert (rows["small.png"]["score"], rows["small.png"]["limit"]) == (40, 64)


def test_counts_add_up_from_stage_to_stage(finished):
    told = counts(finished)
    assert told["kept"] + told["dropped"] + told["failed"] == told["rows"] == 44
    before = told["rows"]
    for stage in told["stages"]:
        gone = sum(stage["dropped"].values()) + sum(stage["failed"].values())
        assert stage["rows"] == before == stage["kept"] + gone
        before = stage["kept"]


def test_what_is_written_is_what_was_kept_and_training_reads_it(finished, heap):
    kept = {row["sha256"].hex() for row in curated.outcomes(finished) if row["outcome"] == "kept"}
    parts = [path for path in (finished / "data").iterdir() if path.is_dir()]
    rows = [row for part in parts for row in Index(part).rows]
    assert {row.sha256 for row in rows} == {digest[:24] for digest in kept}
    index = Index(finished / "data" / "train")
    assert np.array_equal(index.picture(0), curated.pixels(int(index.rows[0].captions[0].split()[2])))


@pytest.mark.parametrize("layout", ["tar", "sidecars", "texts", "jsonl"])
def test_every_layout_is_read_back_with_its_captions(layout, finished, tmp_path):
    run = Run.open(finished, {"write.layout": layout})
    view, made = run.decisions()
    run.write(view, tmp_path / "out", lambda *told: None)
    again = tmp_path / "again"
    curated.run(tmp_path / "out" / "data" / "train", again, "look")
    rows = curated.outcomes(again)
    train = [row for row in curated.outcomes(finished) if row["split.part"] == "train"]
    assert sorted(row["captions"][0] for row in rows) == sorted(row["captions"][0] for row in train)
    assert {row["outcome"] for row in rows} == {"kept"}
    assert made.kept.sum() >= len(rows)


def test_workers_and_their_number_change_no_byte(finished, heap, tmp_path):
    curated.run(heap, tmp_path / "out", executor=ProcessPool(2))
    assert curated.result(tmp_path / "out") == curated.result(finished)


def test_a_threshold_changes_decisions_and_opens_no_picture(finished, monkeypatch):
    def opened(*told: Any) -> None:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(work, "bytes_of", opened)
    monkeypatch.setattr(work, "Seen", opened)
    _, made = Run.open(finished, {"probe.min_side": 20}).decisions()
    _, before = Run.open(finished).decisions()
    assert made.kept.sum() == before.kept.sum() + 1


def test_a_run_with_another_threshold_computes_nothing_and_writes_anew(heap, tmp_path, monkeypatch):
    curated.run(heap, tmp_path / "out")
    monkeypatch.setattr(work, "Seen", lambda *told: pytest.fail("a picture was decoded"))
    curated.run(heap, tmp_path / "out", settings={"probe.min_side": 20})
    assert counts(tmp_path / "out")["kept"] == 41
    assert sum(len(Index(tmp_path / "out" / "data" / part).rows) for part in ("train",)) >= 40


def test_only_the_stage_that_changed_is_computed_again(heap, tmp_path):
    of(Bright(), source=heap, out=tmp_path / "out")
    Bright.looked = 0
    of(Bright(), source=heap, out=tmp_path / "out")
    assert Bright.looked == 0
    of(Bright(), Bright(name="other", fails="nothing"), source=heap, out=tmp_path / "out")
    # every picture that can be decoded, once, for the new stage alone
    assert Bright.looked == 43


def test_a_changed_file_alone_brings_its_shard_back(tmp_path):
    source = curated.folder(tmp_path / "source", 4)
    of(Bright(), source=source, out=tmp_path / "out")
    (source / "0002.png").write_bytes(curated.encoded(curated.pixels(77)))
    of(Bright(), source=source, out=tmp_path / "out")
    row = curated.outcomes(tmp_path / "out")[2]
    assert row["bright.mean"] == pytest.approx(curated.pixels(77).mean(), abs=0.5)


def test_one_row_that_fails_fails_alone_and_names_no_place_in_memory(tmp_path):
    source = curated.folder(tmp_path / "source", 5)
    of(Bright(fails="0003"), source=source, out=tmp_path / "out")
    rows = curated.outcomes(tmp_path / "out")
    assert [row["outcome"] for row in rows] == ["kept", "kept", "kept", "failed", "kept"]
    assert rows[3]["reason"] == "TypeError: something is off"


def test_a_score_that_is_no_number_does_not_pass_a_threshold(tmp_path, monkeypatch):
    source = curated.folder(tmp_path / "source", 3)
    monkeypatch.setattr(Bright, "compute", lambda self, batch, loaded: {"mean": [1.0, float("nan"), 300.0]})
    of(Bright(least=0.5), source=source, out=tmp_path / "out")
    assert [row["reason"] for row in curated.outcomes(tmp_path / "out")] == ["", "dark: no number", ""]


def test_a_share_is_taken_of_the_rows_that_are_still_there():
    class View:
        alive = np.array([True, True, True, True, False])

    values = np.array([1.0, 2.0, 3.0, 4.0, 9.0])
    assert limit_of(View(), values, None, 0.5) == 2.0  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not both"):
        limit_of(View(), values, 1.0, 0.5)  # type: ignore[arg-type]


DAMAGES = ("none", "cut", "empty", "blurred", "copy", "silent", "spam", "gone")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=7),
    st.permutations(["probe", "text", "bright"]),
    st.integers(1, 3),
    st.floats(0, 255) | st.none(),
)
def test_outcomes_sum_to_the_inputs_whatever_the_recipe_and_the_damage(
    tmp_path_factory, damages, order, length, least
):
    source = curated.folder(tmp_path_factory.mktemp("random") / "source", len(damages))
    rows = [{"image": f"{n:04d}.png", "text": f"boxes number {n}"} for n in range(len(damages))]
    for number, damage in enumerate(damages):
        path = source / f"{number:04d}.png"
        path.with_suffix(".txt").unlink()
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:90])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "blurred":
            path.write_bytes(curated.encoded(np.full((72, 72, 3), 90, np.uint8)))
        elif damage == "copy":
            path.write_bytes(curated.encoded(curated.pixels(0)))
        elif damage == "silent":
            rows[number]["text"] = " "
        elif damage == "spam":
            rows[number]["text"] = "buy now " * 30
        elif damage == "gone":
            path.unlink()
    from diptych.curation.probe import Probe
    from diptych.curation.text import Text

    kinds = {"probe": Probe(), "text": Text(), "bright": Bright(least=least)}
    out = source.parent / "out"
    listing = curated.lines(source / "rows.jsonl", rows)
    with suppress(NothingKept):
        of(*(kinds[name] for name in order[:length]), source=listing, out=out)
    told = counts(out)
    assert told["rows"] == len(damages)
    assert told["kept"] + told["dropped"] + told["failed"] == len(damages)
    assert Counter(row["outcome"] for row in curated.outcomes(out)) == +Counter(
        {name: told[name] for name in ("kept", "dropped", "failed")}
    )


RECIPE = """
import os, time
from dataclasses import dataclass
from typing import ClassVar
import pyarrow as pa
from diptych.curation.probe import Probe
from diptych.curation.stage import Stage
from diptych.curation.text import Text
from diptych.curation.write import Write

@dataclass(frozen=True, kw_only=True)
class Slow(Stage):
    kind: ClassVar[str] = "slow"
    deadly: str = ""

    def gives(self):
        return {"size": pa.int64()}

    def look(self, seen, loaded):
        time.sleep(0.002)
        return len(seen.data)

    def compute(self, batch, loaded):
        with open(os.environ.get("CURATED_LOG", os.devnull), "a") as file:
            file.write("".join(f"{name}\\n" for name in batch.ids))
        return {"size": batch.looked}

@dataclass(frozen=True, kw_only=True)
class Deadly(Stage):
    kind: ClassVar[str] = "deadly"

    def gives(self):
        return {"size": pa.int64()}

    def look(self, seen, loaded):
        if seen.pixels.shape[0] == 73:
            os._exit(9)
        return 1

    def compute(self, batch, loaded):
        return {"size": batch.looked}

def slow():
    return [Probe(), Text(), Slow(), Write(shard=7)]

def deadly():
    return [Deadly(), Probe()]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "mine.py"
    path.write_text(RECIPE)
    return path


def test_a_row_that_kills_whoever_looks_at_it_is_named_and_the_run_ends_well(mine, tmp_path):
    source = curated.folder(tmp_path / "source", 6)
    (source / "0004.png").write_bytes(curated.encoded(curated.pixels(4, 73)))
    curated.run(source, tmp_path / "out", f"{mine}:deadly", executor=ProcessPool(1, [mine]))
    rows = curated.outcomes(tmp_path / "out")
    assert [row["reason"] for row in rows] == ["", "", "", "", work.DIED, ""]


def test_a_pool_whose_workers_are_killed_leaves_the_same_bytes(mine, tmp_path):
    source = curated.folder(tmp_path / "source", 60)
    curated.run(source, tmp_path / "calm", f"{mine}:slow")
    pool = ProcessPool(2, [mine])
    hand_out, killed = pool._hand_out, 0

    def handed_out() -> None:
        nonlocal killed
        hand_out()
        # as soon as a worker has something to do
        for worker in pool._workers:
            if worker.task is not None and killed < 3:
                worker.process.send_signal(signal.SIGKILL)
                killed += 1

    pool._hand_out = handed_out  # type: ignore[method-assign]
    curated.run(source, tmp_path / "wild", f"{mine}:slow", executor=pool)
    assert killed == 3
    assert curated.result(tmp_path / "wild") == curated.result(tmp_path / "calm")


def test_killed_anywhere_a_run_goes_on_and_no_finished_shard_is_computed_again(mine, tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.curation.read.LINES", 8)
    source = curated.folder(tmp_path / "source", 40)
    code = (
        "import sys; from pathlib import Path; from diptych.curation import read; read.LINES = 8\n"
        "from diptych.curation.engine import curate; from diptych.curation.recipes import Recipe\n"
        "from diptych.curation.pool import Here\n"
        "curate(Recipe.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Here())"
    )
    curated.run(source, tmp_path / "calm", f"{mine}:slow")
    log = tmp_path / "log"
    environment = {**os.environ, "CURATED_LOG": str(log), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, f"{mine}:slow", str(source), str(tmp_path / "wild")]
    kills = 0
    for number in range(8):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        begun = time.monotonic()
        # when it has come a little further than the one before
        while process.poll() is None and time.monotonic() - begun < 120:
            if len(list((tmp_path / "wild").rglob("*"))) > (number + 1) * 6:
                process.kill()
                kills += 1
                break
            time.sleep(0.005)
        assert process.wait() in (0, -signal.SIGKILL), process.stderr.read()
    curated.run(source, tmp_path / "wild", f"{mine}:slow")
    assert kills >= 4
    assert curated.result(tmp_path / "wild") == curated.result(tmp_path / "calm")
    # a shard is of 8 rows: it is computed again only where it was not finished
    again = Counter(log.read_text().split())
    assert sum(count - 1 for count in again.values()) <= 8 * kills


def test_two_runs_in_one_folder_and_another_source_are_refused(heap, tmp_path):
    from diptych.curation.engine import _locked

    out = tmp_path / "out"
    with _locked(out), pytest.raises(ValueError, match="another run works in"):
        curated.run(heap, out)
    other = curated.folder(tmp_path / "other", 2)
    curated.run(other, out, "look")
    with pytest.raises(ValueError, match="was made from"):
        curated.run(heap, out)


def test_a_full_disk_ends_a_run_with_its_reason_and_it_goes_on_later(heap, tmp_path, monkeypatch):
    written = work.write_table

    def full(table: Any, path: Path) -> None:
        if "probe-" in str(path):
            raise OSError(28, "No space left on device", str(path))
        written(table, path)

    monkeypatch.setattr(work, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        curated.run(heap, tmp_path / "out")
    monkeypatch.setattr(work, "write_table", written)
    curated.run(heap, tmp_path / "out")
    assert counts(tmp_path / "out")["kept"] == 40


def test_half_written_files_are_never_taken_for_whole(finished, heap, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for path in (out / "stages").rglob("*.parquet"):
        path.with_name(f".{path.name}.123.part").write_bytes(path.read_bytes()[:50])
    curated.run(heap, out)
    assert curated.result(out) == curated.result(finished)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"probe.min_sid": 3}, "no setting 'min_sid' \\(nearest: 'min_side'\\)"),
        ({"prob.min_side": 3}, "no stage 'prob' \\(nearest: 'probe'\\)"),
        ({"exlude": "x"}, "no dial 'exlude' \\(nearest: 'exclude'\\)"),
        ({"probe.min_side": "wide"}, "probe.min_side: Expected `int`, got `str`"),
        ({"write.layout": "zip"}, "layout must be one of"),
        ({"split.validation": 1.5}, "must be a share"),
        ({"exclude": "/nowhere"}, "no folder of example pictures"),
        ({"duplicates.min": 0.2}, "as less is not looked for"),
        ({"probe.min_side": 5000}, "nothing is kept of 44 rows"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_in_a_sentence(settings, said, heap, tmp_path):
    with pytest.raises(ValueError, match=said):
        curated.run(heap, tmp_path / "out", settings=settings)


def test_recipes_that_are_not_there_name_the_nearest(mine, tmp_path):
    with pytest.raises(ValueError, match="nearest: 'pairs'"):
        Recipe.load("pair")
    with pytest.raises(ValueError, match="nearest: 'slow'"):
        Recipe.load(f"{mine}:slwo")
    with pytest.raises(ValueError, match="no Python file"):
        Recipe.load(f"{tmp_path}/none.py:x")


def test_sources_that_hold_nothing_or_lie_in_the_output_are_refused(heap, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        curated.run(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(ValueError, match="has no lines"):
        curated.run(tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(ValueError, match="no such file"):
        curated.run(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(ValueError, match="lie in one another"):
        curated.run(heap, heap / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ValueError, match="holds other files"):
        curated.run(heap, tmp_path / "full")


def test_a_source_without_captions_says_that_this_is_why_nothing_is_kept(tmp_path):
    source = curated.folder(tmp_path / "source", 3)
    for path in source.glob("*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match=r"3 go at text \(no caption\)"):
        curated.run(source, tmp_path / "out")


def test_a_file_that_changes_while_the_source_is_read_is_named(tmp_path, monkeypatch):
    source = curated.folder(tmp_path / "source", 4)
    read = work.read_rows

    def changed(*told: Any) -> Any:
        (source / "0001.png").write_bytes(curated.encoded(curated.pixels(50)))
        return read(*told)

    monkeypatch.setattr(work, "read_rows", changed)
    of(Bright(), source=source, out=tmp_path / "out")
    assert curated.outcomes(tmp_path / "out")[1]["reason"] == "the file changed after the source was read"
    monkeypatch.setattr(work, "read_rows", read)
    of(Bright(), source=source, out=tmp_path / "out")
    assert curated.outcomes(tmp_path / "out")[1]["outcome"] == "kept"


@dataclass(frozen=True, kw_only=True)
class Paid(Bright):
    kind: ClassVar[str] = "paid"
    costly: ClassVar[bool] = True
    asked: ClassVar[list[str]] = []

    def compute(self, batch: Any, loaded: Any) -> Any:
        Paid.asked += list(batch.ids)
        return {"mean": batch.looked}

    def judge(self, view: Any) -> Verdict:
        return Verdict()


def test_a_costly_stage_sees_what_is_kept_and_pays_once(tmp_path):
    source, out = curated.folder(tmp_path / "source", 6), tmp_path / "out"
    means = [curated.pixels(n).mean() for n in range(6)]
    Paid.asked.clear()
    of(Bright(least=float(np.median(means))), Paid(), source=source, out=out)
    assert len(Paid.asked) == 3
    of(Bright(), Paid(), source=source, out=out)
    assert len(Paid.asked) == len(set(Paid.asked)) == 6
    # what it once found out about rows that do not come to it any more is not told
    of(Bright(least=float(np.median(means))), Paid(), source=source, out=out)
    rows = curated.outcomes(out)
    assert sum(row["paid.mean"] is not None for row in rows) == 3


def test_captions_scores_and_bytes_decide_what_a_shard_is(tmp_path):
    """Copies of a source elsewhere are the same content: nothing is computed again."""
    source, out = curated.folder(tmp_path / "source", 3), tmp_path / "out"
    of(Bright(), source=source, out=out)
    Bright.looked = 0
    for path in source.iterdir():
        path.write_bytes(path.read_bytes())
    of(Bright(), source=source, out=out)
    assert Bright.looked == 0


def test_a_million_rows_take_no_more_memory_than_they_need(tmp_path):
    """Judging is by columns: a million rows of scores, without a file a row."""
    from diptych.curation.plan import Plan
    from diptych.curation.table import Shard, stage_schema, write_table
    from diptych.curation.view import RunView

    count, size = 200_000, 20_000
    shards = [Shard("unit", at, size, "same") for at in range(0, count, size)]
    plan = Plan(tmp_path, [Bright(least=100.0)], shards)
    rows = pa.table(
        {name: pa.nulls(count, field.type) for name, field in zip(work.ROWS.names, work.ROWS, strict=True)},
        schema=work.ROWS,
    )
    write_table(rows, work.rows_path(tmp_path, "unit"))
    means = pa.array(np.arange(size) % 200, pa.float32())
    write_table(
        pa.table(
            [means, pa.array([""] * size), pa.array([True] * size)], schema=stage_schema(Bright().gives())
        ),
        plan.path(plan.stages[0], shards[0]),
    )
    made = decide(RunView(plan))
    assert totals(made.counts) == {"kept": count // 2, "dropped": count // 2, "failed": 0}


def test_tars_are_the_same_wherever_and_whenever_they_are_written(finished):
    with tarfile.open(finished / "data" / "train" / "00000.tar") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(315_532_800, 0, 0, "")}
    assert [m.name for m in members[:2]] == ["00000000.png", "00000000.json"]


def test_shared_things_are_opened_once():
    shared, opened = Shared(), []
    for _ in range(3):
        shared.get("model", lambda: opened.append(1))
    assert opened == [1]


def test_a_stage_is_the_same_under_other_thresholds_and_another_with_other_settings():
    stage = Bright()
    assert replace(stage, least=3.0).identity() == stage.identity() == replace(stage, name="x").identity()
    assert replace(stage, fails="x").identity() != stage.identity()


def test_stages_of_one_name_and_columns_that_nobody_gives_are_refused(heap, tmp_path):
    with pytest.raises(ValueError, match="two stages have the name"):
        of(Bright(), Bright(), source=heap, out=tmp_path / "out")
    from diptych.curation.cluster import Cluster

    with pytest.raises(ValueError, match="needs the column 'pixels\\.vector'"):
        of(Cluster(), source=heap, out=tmp_path / "out")
    assert not (tmp_path / "out" / TABLE).exists()
