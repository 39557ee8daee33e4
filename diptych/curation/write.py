"""The data set: written last, from the decisions, whole shard by whole shard."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.curation.stage import Drain, Shared, Stage, StopRun, View, threshold
from diptych.curation.view import RunView
from diptych.curation.work import Done, Tell
from diptych.data.foreign import read_bytes
from diptych.files.typed import to_json
from diptych.files.whole import checksum, sync, whole, write_whole

LAYOUTS = ("tar", "sidecars", "texts", "jsonl")
MANIFEST = "manifest.json"
WHEN = 315_532_800
"""Time of all files in the data, s: 1980, so that the same decisions make the same bytes."""
ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp"}
WANTED = ("file", "offset", "size", "sha256")


COLUMNS = ["row", *WANTED, "captions", "scores", "width", "height", "format"]
"""Of what workers take rows from."""


@dataclass(frozen=True, kw_only=True)
class Write(Stage):
    """Writes the rows that are kept, shuffled, as their bytes are: nothing is encoded anew.

    Layouts: `tar` (picture and .json of one key), `sidecars` (the same, with the captions and their scores in
    JSON files beside each shard, by key), `texts` (picture and .txt), `jsonl` (a folder of pictures and the
    lines about them). All but `jsonl` come with the index that training reads.
    """

    kind: ClassVar[str] = "write"

    layout: str = threshold("tar")
    captions: str = threshold("captions")
    """Column of what is said of a picture."""
    scores: str = threshold("scores")
    """Column of a score for each caption."""
    probe: str = threshold("probe")
    """The stage that measured the pictures."""
    part: str = threshold("split.part")
    """Column of the part that a row is in; where no stage gives it, all are in one."""
    shard: int = threshold(1000)
    """Rows of a shard."""
    seed: int = threshold(0)

    def needs(self) -> tuple[str, ...]:
        stages = f"{self.probe}.width", f"{self.probe}.height", f"{self.probe}.format"
        return (self.captions, self.scores, *stages)

    def check(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"{self.name}.layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        if self.shard < 1:
            raise ValueError(f"{self.name}.shard must be at least 1 row, got {self.shard}")

    def write(self, view: View, folder: Path, drain: Drain, progress: Callable[..., Any]) -> None:
        assert isinstance(view, RunView)
        digest = self._digest(view)
        if _written(folder) == digest:
            return
        work = folder.with_name(f".{folder.name}.{digest}.part")
        for left in folder.parent.glob(f".{folder.name}.*.part"):
            # of other decisions, which nobody will go on with
            if left != work:
                shutil.rmtree(left)
        work.mkdir(parents=True, exist_ok=True)
        kept = work / "kept.arrow"
        self._gather(view, kept)
        parts = self._parts(view)
        tasks = [
            WriteTask(work, kept, self.layout, part, number, number * self.shard, rows)
            for part, order in parts.items()
            for number, rows in enumerate(np.split(order, range(self.shard, len(order), self.shard)))
        ]
        told: dict[str, dict[str, Any]] = {part: {} for part in parts}
        done_rows = 0

        def then(task: Any, done: Done) -> Iterable[Any]:
            nonlocal done_rows
            done_rows += done.rows
            progress("writing", done_rows, sum(map(len, parts.values())), done_rows)
            told[task.part][f"{task.number:05d}"] = done.made
            return ()

        drain(iter(tasks), then)
        for part in parts:
            if self.layout != "jsonl":
                _write_index(work / part, sorted(told[part]))
        kept.unlink()
        for pattern in ("*.index", ".*.part"):
            for left in work.rglob(pattern):
                left.unlink()
        shards = {part: dict(sorted(made.items())) for part, made in told.items()}
        counts = {part: len(order) for part, order in parts.items()}
        about = {"decisions": digest, "layout": self.layout, "rows": counts, "shards": shards}
        write_whole(work / MANIFEST, to_json(about))
        _exchange(work, folder)

    def _digest(self, view: RunView) -> str:
        """Of which rows are written, and how."""
        digest = hashlib.sha256(view.plan.joined.encode())
        digest.update(np.packbits(view.alive).tobytes())
        if self.part in view.derived:
            digest.update("\0".join(view.derived[self.part]).encode())
        told = (self.layout, self.captions, self.scores, self.shard, self.seed)
        digest.update(repr(told).encode())
        return digest.hexdigest()[:24]

    def _gather(self, view: RunView, path: Path) -> None:
        """What is needed of the rows that are kept, in a file that workers map and take rows from."""
        names = (*WANTED, *self.needs())
        writer = None
        with whole(path) as aside:
            for first, table in view.joined():
                alive = np.flatnonzero(view.alive[first : first + table.num_rows])
                columns: list[Any] = [pa.array(first + alive)]
                for name in names:
                    known = name in table.column_names
                    column = table.column(name) if known else view.part(name, first, table.num_rows)
                    columns.append(column.take(pa.array(alive)).combine_chunks())
                made = pa.table(columns, names=COLUMNS)
                writer = writer or pa.ipc.new_file(str(aside), made.schema)
                writer.write_table(made)
            assert writer is not None
            writer.close()

    def _parts(self, view: RunView) -> dict[str, np.ndarray]:
        """Places among the rows that are kept, by part, in the order in which they are written."""
        rows = np.flatnonzero(view.alive)
        if self.part not in view.derived:
            return {"train": np.random.default_rng([self.seed, 10]).permutation(len(rows))}
        part = view.derived[self.part][rows]
        return {
            name: np.random.default_rng([self.seed, 10]).permutation(np.flatnonzero(part == name))
            for name in sorted(set(part))
        }


@dataclass(frozen=True)
class WriteTask:
    """One shard of the data."""

    work: Path
    kept: Path
    layout: str
    part: str
    number: int
    first: int
    """Place of its first row in the part."""
    rows: np.ndarray

    def run(self, shared: Shared, tell: Tell) -> Done:
        folder, name = self.work / self.part, f"{self.number:05d}"
        mark = folder / f"{name}.json.index"
        if mark.is_file():
            return Done(len(self.rows), made=json.loads(mark.read_text()))
        # mapped and not read: the rows of a shard lie anywhere in it
        source = shared.get(
            ("kept", str(self.kept)), lambda: pa.ipc.open_file(pa.memory_map(str(self.kept))).read_all()
        )
        rows = source.take(pa.array(self.rows)).to_pylist()
        samples = [_Sample(row, self.layout, self.first + place) for place, row in enumerate(rows)]
        folder.mkdir(parents=True, exist_ok=True)
        made = (
            self._lines(folder, name, samples) if self.layout == "jsonl" else self._tar(folder, name, samples)
        )
        write_whole(mark, to_json(made))
        return Done(len(self.rows), made=made)

    def _tar(self, folder: Path, name: str, samples: Sequence[_Sample]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        path = folder / f"{name}.tar"
        with whole(path) as aside:
            with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
                for sample in samples:
                    for ending, data in sample.members():
                        member = tarfile.TarInfo(f"{sample.key}.{ending}")
                        member.size, member.mtime = len(data), WHEN
                        if ending == sample.ending:
                            rows.append(sample.index_row(f"{name}.tar", tar.offset + tarfile.BLOCKSIZE))
                        tar.addfile(member, io.BytesIO(data))
            os.utime(aside, (WHEN, WHEN))
        if self.layout == "sidecars":
            _sidecars(folder, name, samples)
        with whole(folder / f"{name}.index") as aside:
            pq.write_table(pa.Table.from_pylist(rows, schema=_index_schema()), aside)
        return {"rows": len(samples), "bytes": path.stat().st_size, "sha256": checksum(path)}

    def _lines(self, folder: Path, name: str, samples: Sequence[_Sample]) -> dict[str, Any]:
        pictures, lines = folder / name, []
        pictures.mkdir(exist_ok=True)
        for sample in samples:
            path = pictures / f"{sample.key}.{sample.ending}"
            path.write_bytes(sample.data())
            os.utime(path, (WHEN, WHEN))
            lines.append(json.dumps({"image": f"{name}/{path.name}", **sample.told()}, ensure_ascii=False))
        # the names before the lines that name them
        sync(pictures)
        path = folder / f"{name}.jsonl"
        write_whole(path, "".join(f"{line}\n" for line in lines))
        return {"rows": len(samples), "bytes": path.stat().st_size, "sha256": checksum(path)}


class _Sample:
    """One row as it is written."""

    def __init__(self, row: Mapping[str, Any], layout: str, place: int) -> None:
        self.row, self.layout = row, layout
        self.key = f"{place:08d}"
        self.ending = ENDINGS.get(row["format"], "bin")
        self.captions = tuple(row["captions"] or ())
        scores = tuple(row["scores"] or ())
        self.scores = scores if len(scores) == len(self.captions) else ()

    def data(self) -> bytes:
        """Raises StopRun where the bytes are not those that were looked at."""
        row = self.row
        try:
            data = read_bytes(Path(row["file"]), row["offset"], row["size"])
        except OSError as error:
            raise StopRun(f"{row['file']} cannot be read any more ({error.strerror})") from error
        if hashlib.sha256(data).digest() != row["sha256"]:
            raise StopRun(f"{row['file']} changed after it was looked at: run the same command again")
        return data

    def told(self) -> dict[str, Any]:
        row = self.row
        told: dict[str, Any] = {"captions": self.captions, "width": row["width"], "height": row["height"]}
        if self.scores:
            told["scores"] = [None if np.isnan(score) else round(float(score), 6) for score in self.scores]
        return {**told, "sha256": row["sha256"].hex(), "row": row["row"]}

    def members(self) -> Iterator[tuple[str, bytes]]:
        yield self.ending, self.data()
        if self.layout == "texts":
            yield "txt", (self.captions[0] if self.captions else "").encode()
        else:
            told = self.told()
            if self.layout == "sidecars":
                told = {"prompt": self.captions[0] if self.captions else "", **told}
                del told["captions"]
            yield "json", json.dumps(told, ensure_ascii=False).encode()

    def index_row(self, shard: str, offset: int) -> dict[str, Any]:
        row = self.row
        return {
            "id": f"{shard}/{self.key}",
            "file": shard,
            "offset": offset,
            "size": row["size"],
            "modified": WHEN * 10**9,
            "width": row["width"],
            "height": row["height"],
            "captions": self.captions,
            "scores": self.scores,
            "sha256": row["sha256"].hex()[:24],
            "problem": "" if self.captions else "no caption",
        }


def _sidecars(folder: Path, name: str, samples: Sequence[_Sample]) -> None:
    """Captions and scores by key and kind, in files beside the shard."""
    captions = {s.key: {f"caption_{n}": c for n, c in enumerate(s.captions)} for s in samples}
    write_whole(folder / f"{name}_captions.json", json.dumps(captions, ensure_ascii=False))
    scores = {
        s.key: {f"caption_{n}": float(score) for n, score in enumerate(s.scores) if not np.isnan(score)}
        for s in samples
        if s.scores
    }
    if scores:
        write_whole(folder / f"{name}_captions_clip_score.json", json.dumps(scores))


def _index_schema() -> pa.Schema:
    # here and not above: what it imports brings torch, which no worker needs to begin
    from diptych.data.captioned.index import SCHEMA

    return SCHEMA


def _write_index(folder: Path, names: Sequence[str]) -> None:
    """The index that training reads, joined of those of the shards: nothing is decoded for it."""
    from diptych.data.captioned.index import INDEX, SCHEMA

    with whole(folder / INDEX) as aside, pq.ParquetWriter(aside, SCHEMA) as writer:
        for name in names:
            writer.write_table(pq.read_table(folder / f"{name}.index"))


def _written(folder: Path) -> str:
    """Which decisions a folder's data were written from; '' where it is not whole."""
    try:
        told = json.loads((folder / MANIFEST).read_text())
        return str(told["decisions"])
    except (OSError, ValueError, KeyError):
        return ""


def _exchange(work: Path, folder: Path) -> None:
    """The new data take the place of the old."""
    for made in (work, *work.rglob("*")):
        if made.is_dir():
            sync(made)
    before = folder.with_name(f".{folder.name}.before.part")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    work.rename(folder)
    sync(folder.parent)
    shutil.rmtree(before, ignore_errors=True)
