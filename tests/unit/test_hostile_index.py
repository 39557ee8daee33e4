"""What strangers' folders, indices and caches may be: one bad item ends nothing, all else is our error."""

import gzip
import json
import os
import resource
import subprocess
import tarfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hostile_data import sparse
from test_pictures_data import add, as_png, picture, problems, write

from diptych.data import pictures
from diptych.data.captioned import index as index_module
from diptych.data.captioned.buckets import Bucket, BucketPlan, buckets
from diptych.data.captioned.index import INDEX, SCHEMA, Index, build
from diptych.data.captioned.report import _draw
from diptych.data.pictures import Room

# the index


def test_one_bad_item_never_ends_an_index(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    write(outside, "secret.png", picture(seed=99), "secret")
    folder = tmp_path / "data"
    for n in range(13):
        write(folder, f"p{n:02d}.png", picture(seed=n))
    rows = [
        {"file_name": "p00.png", "text": "good", "scores": None},
        {"file_name": "p01.png", "captions": 5},
        {"file_name": "p02.png", "captions": [1, None]},
        {"file_name": "p03.png", "captions": {"a": 1}},
        {"file_name": "p04.png", "captions": ["a", "b"], "scores": 5},
        {"file_name": "p05.png", "captions": ["a", "b"], "scores": [1e300, {}]},
        {"file_name": "p06.png", "text": "x" * 200_000},
        {"file_name": "a\0b.png", "text": "x"},
        {"file_name": "x" * 5000, "text": "x"},
        {"file_name": "link.png", "text": "x"},
        {"file_name": ["p07.png"], "text": "x"},
        [],
        {"file_name": "p07.png", "text": "one\u2028line"},
    ]
    broken = ["[" * 100_000, '{"file_name": "p08.png", "text": "\\ud800"}', "x" * 300]
    lines = [*(json.dumps(row, ensure_ascii=False) for row in rows), *broken]
    (folder / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "metadata.csv").write_bytes(
        b'file_name,text\np09.png,"' + b"y" * 140_000 + b'"\np10.png,\xff\np11.png,eleven\np12.png\n'
    )
    (folder / "link.png").symlink_to(outside / "secret.png")
    write(folder, "spy.png", picture(seed=50))
    (folder / "spy.txt").symlink_to("/etc/passwd")
    (folder / "dangling.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    write(folder, "huge.png", picture(seed=51))
    sparse(folder / "huge.txt", 3 * 2**30)
    sparse(folder / "giant.png", 50 * 2**30)
    (folder / "giant.txt").write_text("giant")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(as_png(picture(seed=52)))
    index = Index(build(folder))
    used = {row.id: row.captions for row in index.rows}
    assert used == {
        "p00.png": ("good",),
        "p04.png": ("a", "b"),
        "p05.png": ("a", "b"),
        "p07.png": ("one\u2028line",),
        "p11.png": ("eleven",),
    }
    assert np.isnan(next(row.scores for row in index.rows if row.id == "p05.png")).all()
    wrong = problems(index)
    for id, reason in {
        "list.jsonl:2": "with captions '5', which are no texts",
        "list.jsonl:3": "no texts",
        "list.jsonl:4": "no texts",
        "list.jsonl:7": "a caption of 200,000",
        "list.jsonl:8": "no name of a file",
        "list.jsonl:9": "no name of a file",
        "list.jsonl:10": "lies outside",
        "list.jsonl:11": "no picture",
        "list.jsonl:12": "no picture",
        "list.jsonl:14": "nested too deeply",
        "list.jsonl:15": "not JSON",
        "list.jsonl:16": "not JSON",
        "metadata.csv:2": "not CSV",
        "metadata.csv:3": "not UTF-8",
        "link.png": "a link that leads",
        "spy.txt": "a link that leads",
        "spy.png": "no caption",
        "dangling.png": "a link that leads",
        "pipe.png": "a pipe",
        "huge.png": "its text file cannot be read",
        "giant.png": "bytes",
        "caf\\udce9.png": "not UTF-8",
        "p12.png": "no caption",
    }.items():
        assert reason in wrong[id], (id, wrong[id])
    assert not any("root:" in caption for row in index.rows for caption in row.captions)


def test_shards_of_every_kind_are_indexed_or_named(tmp_path):
    with tarfile.open(tmp_path / "00.tar", "w") as tar:
        add(tar, "good.png", as_png(picture(seed=1)))
        add(tar, "good.txt", b"good")
        for name in ("../up", "/root", "a/../../b"):
            add(tar, f"{name}.png", as_png(picture(seed=2)))
            add(tar, f"{name}.txt", b"x")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "odd.png", as_png(picture(seed=3)))
        add(tar, "odd.json", b'{"caption": 5, "captions": ["a", 7, null]}')
        add(tar, "deep.png", as_png(picture(seed=4)))
        add(tar, "deep.json", b"[" * 100_000)
        add(tar, "empty.png", b"")
        add(tar, "empty.txt", b"x")
        add(tar, os.fsdecode(b"caf\xe9.png"), as_png(picture(seed=5)))
    (tmp_path / "00_a.json").write_text("[1]")
    (tmp_path / "00_b.json").write_text('{"good": {"b": "better", "c": 5}, "odd": null}')
    (tmp_path / "00_b_clip_score.json").write_text('{"good": {"b": null, "text": "inf"}, "odd": 5}')
    (tmp_path / "00_c.json").write_bytes(b"\xff{")
    (tmp_path / "01.tar").write_bytes(gzip.compress((tmp_path / "00.tar").read_bytes()))
    bomb = tarfile.TarInfo("x")
    bomb.type, bomb.size = tarfile.GNUTYPE_LONGNAME, 10 * 2**30
    (tmp_path / "02.tar").write_bytes(bomb.tobuf(tarfile.GNU_FORMAT))
    with (tmp_path / "02.tar").open("r+b") as file:
        file.truncate(12 * 2**30)
    (tmp_path / "03.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "04.tar").write_bytes((tmp_path / "00.tar").read_bytes()[:3000])
    index = Index(build(tmp_path))
    used = {row.id: row.captions for row in index.rows}
    assert used == {"00.tar/good": ("good", "better"), "00.tar/odd": ("a",)}
    wrong = problems(index)
    for id, reason in {
        "00.tar/../up.png": "leads out",
        "00.tar//root.png": "leads out",
        "00.tar/a/../../b.txt": "leads out",
        "00.tar/link.png": "a link",
        "00.tar/deep": "nested too deeply",
        "00.tar/empty": "empty",
        "00.tar/caf\\udce9.png": "not UTF-8",
        "00_a.json": "1 of its entries",
        "00_b.json": "2 of its entries",
        "00_b_clip_score.json": "1 of its entries",
        "00_c.json": "not JSON",
        "01.tar": "packed with gzip",
        "02.tar": "a header of 10,737,418,240 bytes",
        "03.tar": "not a whole tar",
        "04.tar": "not a whole tar",
    }.items():
        assert reason in wrong[id], (id, wrong[id])


def test_threads_decode_no_more_at_once_than_there_is_room_for(tmp_path, monkeypatch):
    for n in range(24):
        write(tmp_path, f"{n}.png", picture(32 if n else 300, 24, seed=n), "x")
    room, decode = Room(3 * 32 * 24), pictures._pixels
    lock, held, peaks = threading.Lock(), [], []

    def watched(image, label):
        area = min(room.size, image.size[0] * image.size[1])
        with lock:
            held.append(area)
            peaks.append(sum(held))
        time.sleep(0.01)
        pixels = decode(image, label)
        with lock:
            held.remove(area)
        return pixels

    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(pictures, "_decoding", room)
    monkeypatch.setattr(pictures, "_pixels", watched)
    assert len(Index(build(tmp_path))) == 24
    # several at a time, and what is larger than the room alone
    assert 2 * 32 * 24 <= max(peaks) <= room.size
    assert room.left == room.size


def test_room_is_given_back_by_a_picture_that_breaks():
    room = Room(10)
    with pytest.raises(ValueError, match="broken"), room.taken(99):
        raise ValueError("broken")
    assert room.left == 10


def test_a_shard_with_a_damaged_header_says_what_was_not_read(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for n in range(3):
            add(tar, f"{n}.png", as_png(picture(seed=n)))
            add(tar, f"{n}.txt", b"x")
    with tarfile.open(tmp_path / "0.tar") as tar:
        places = {member.name: member.offset for member in tar.getmembers()}
    data = bytearray((tmp_path / "0.tar").read_bytes())
    at = places["2.png"]
    data[at + 150] ^= 1
    (tmp_path / "1.tar").write_bytes(data)
    # one archive behind another: a reader stops at the end of the first
    (tmp_path / "2.tar").write_bytes((tmp_path / "0.tar").read_bytes() * 2)
    # written by a process that was killed before the end mark
    (tmp_path / "3.tar").write_bytes((tmp_path / "0.tar").read_bytes()[: places["1.png"]])
    index = Index(build(tmp_path))
    rows = {row.id for row in [*index.rows, *index.problems]}
    assert {"1.tar/0", "1.tar/1", "2.tar/2", "3.tar/0"} <= rows
    wrong = problems(index)
    assert wrong["1.tar"] == f"no valid header at byte {at:,}: what follows is not read"
    assert wrong["2.tar"].startswith("the archive ends at byte ")
    assert "0.tar" not in wrong
    assert "3.tar" not in wrong


def test_folders_nested_deeper_than_functions_may_be_are_read(tmp_path):
    here = tmp_path
    for _ in range(60):
        here /= "d" * 20
    write(here, "a.png", picture(), "deep")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("e", dir_fd=descriptor)
        below = os.open("e", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    try:
        assert len(Index(build(tmp_path))) == 1
    finally:
        # pytest removes its folders by a function that calls itself
        subprocess.run(["rm", "-rf", str(tmp_path / "e")], check=True)


def test_problems_of_a_long_listing_are_each_named_once(tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.data.captioned.layouts.CHUNK", 4)
    write(tmp_path, "a.png", picture(), "a")
    (tmp_path / "list.jsonl").write_text("{}\n" * 12)
    index = Index(build(tmp_path))
    assert sorted(problems(index)) == sorted(f"list.jsonl:{n}" for n in range(1, 13))
    assert len(index.problems) == 12


@given(st.binary(max_size=600), st.sampled_from(["a.jsonl", "metadata.csv", "a.txt", "a.tar", "a_b.json"]))
@settings(max_examples=100, deadline=None)
def test_fuzzed_files_beside_pictures_end_no_index(tmp_path_factory, data, name):
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder, "good.png", picture(), "good")
    write(folder, "a.png", picture(seed=1))
    with tarfile.open(folder / "a.tar", "w") as tar:
        add(tar, "k.png", as_png(picture(seed=2)))
        add(tar, "k.txt", b"k")
    whole = (folder / "a.tar").read_bytes()
    (folder / name).write_bytes(data if name != "a.tar" else whole[:200] + data + whole[200 + len(data) :])
    assert "good.png" in {row.id for row in Index(build(folder)).rows}


@pytest.mark.parametrize("name", ["a.png", "notes.txt", "other.parquet", "folder"])
def test_an_index_is_written_over_nothing_else(tmp_path, name):
    write(tmp_path, "a.png", picture(), "a")
    (tmp_path / "notes.txt").write_text("mine")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    (tmp_path / "folder").mkdir()
    before = (tmp_path / name).read_bytes() if name != "folder" else None
    with pytest.raises(ValueError, match=r"no index|is a folder"):
        build(tmp_path, tmp_path / name)
    assert before is None or (tmp_path / name).read_bytes() == before


def test_an_index_replaces_an_index_and_keeps_a_strangers_folder(tmp_path):
    write(tmp_path, "a.png", picture(), "a")
    assert build(tmp_path, tmp_path / "own") == build(tmp_path, tmp_path / "own")
    parts = tmp_path / "diptych-index.parquet.parts"
    parts.mkdir()
    (parts / "mine").write_text("mine")
    (tmp_path / INDEX).write_bytes(b"damaged")
    assert len(Index(build(tmp_path))) == 1
    assert [path.name for path in parts.iterdir()] == ["mine"]
    with pytest.raises(ValueError, match="lies in the folder"):
        build(tmp_path, tmp_path.parent / "elsewhere.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "../outside.png"}, "lies outside"),
        ({"file": "/etc/passwd"}, "lies outside"),
        ({"file": "linked/secret.png"}, "lies outside"),
        ({"file": "link.png"}, "lies outside"),
        ({"file": "sub/.."}, "lies outside|changed"),
        ({"file": "a\0"}, "no name of a file|changed"),
        ({"file": "x" * 5000}, "no name of a file|changed"),
        ({"width": 0}, "has a size of 0x"),
        ({"height": -1}, "has a size"),
        ({"width": 2_000_000_000}, "has a size"),
        ({"size": 2**60}, "lies at byte"),
        ({"offset": -5}, "lies at byte"),
        ({"captions": []}, "no caption"),
        ({"captions": [None]}, "no caption"),
        ({"captions": ["x" * 200_000]}, "no caption"),
        ({"captions": None}, "values that are missing"),
        ({"scores": [1.0, 2.0]}, "other scores"),
        ({"scores": [float("inf")]}, "other scores"),
        ({"sha256": "x"}, "no checksum"),
        ({"problem": None}, "values that are missing"),
    ],
)
def test_an_index_that_others_changed_is_refused_by_name(tmp_path, changes, message):
    outside = tmp_path / "outside"
    write(outside, "secret.png", picture(seed=3))
    folder = tmp_path / "data"
    write(folder, "a.png", picture(), "a")
    (folder / "sub").mkdir()
    path = build(folder)
    (folder / "linked").symlink_to(outside)
    (folder / "link.png").symlink_to(outside / "secret.png")
    row = {**pq.read_table(path).to_pylist()[0], **changes}
    table = pa.table({name: [row[name]] for name in index_module.SCHEMA.names}, schema=index_module.SCHEMA)
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=message) as error:
        Index(path)
    assert str(path) in str(error.value)


def test_an_index_of_other_columns_and_one_of_more_rows_than_bytes_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a"]}).replace_schema_metadata({"diptych_index": "2"}), path)
    with pytest.raises(ValueError, match="other columns"):
        Index(path)
    pq.write_table(pa.table({name: [value] * 300_000 for name, value in EMPTY.items()}, SCHEMA), path)
    with pytest.raises(ValueError, match="300,000 rows in"):
        Index(path)


EMPTY = {
    **dict.fromkeys(("id", "file", "sha256", "problem"), ""),
    **dict.fromkeys(("offset", "size", "modified", "width", "height"), 0),
    "captions": [],
    "scores": [],
}


def repeated(rows, times, length):
    """An index whose captions are all one text, written once."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows * times, pa.int32()), ["x" * length])
    columns = {name: [value] * rows for name, value in EMPTY.items()}
    columns["id"] = [f"{n:040x}" for n in range(rows)]
    columns["captions"] = pa.ListArray.from_arrays(list(range(0, rows * times + 1, times)), text)
    table = pa.table({name: pa.array(value) for name, value in columns.items() if name != "captions"})
    table = table.append_column("captions", columns["captions"]).select(SCHEMA.names)
    names = {name: SCHEMA.field(name).type for name in SCHEMA.names if name != "captions"}
    kinds = [(name, names.get(name, table.schema.field(name).type)) for name in SCHEMA.names]
    return table.cast(pa.schema(kinds, metadata=SCHEMA.metadata))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        # 9 GB of text in 300 kB of file
        (lambda: repeated(900, 100, 100_000), r"repeats 9,000,\d\d\d,\d\d\d bytes of text"),
        (lambda: repeated(300, 100_000, 0), "bytes unpack to 480"),
        (lambda: repeated(1, 1, 300_000_000), "bytes unpack to 300"),
    ],
)
def test_an_index_that_is_small_on_disk_and_huge_in_memory_is_refused_unread(tmp_path, table, message):
    path = tmp_path / "x.parquet"
    made = table()
    with pq.ParquetWriter(path, made.schema, store_schema=False, compression="zstd") as writer:
        writer.write_table(made)
        writer.add_key_value_metadata(SCHEMA.metadata)
    assert path.stat().st_size < 2**24
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message):
        Index(path)
    # KiB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


def test_a_long_caption_of_many_pictures_is_read_and_held_once(tmp_path, monkeypatch):
    # of a real folder of 3,000 pictures with a caption of 100 kB
    monkeypatch.setattr(index_module, "UNPACKED", 2**16)
    prose = "The cat sits on the mat and looks at the red heart. " * 400
    for n in range(30):
        write(tmp_path, f"{n}.png", picture(seed=n), prose)
    path = build(tmp_path)
    assert len(prose) * 30 > 32 * path.stat().st_size
    rows = Index(path).rows
    assert {row.captions for row in rows} == {(prose.strip(),)}
    assert len({id(row.captions[0]) for row in rows}) == 1


def test_captions_that_repeat_are_read_as_they_are(tmp_path):
    write(tmp_path, "a.png", picture(seed=1), "the same\nand one more")
    write(tmp_path, "b.png", picture(seed=2), "the same")
    assert [row.captions for row in Index(build(tmp_path)).rows] == [
        ("the same", "and one more"),
        ("the same",),
    ]


def test_reports_hold_what_looks_like_a_formula(tmp_path):
    write(tmp_path, "a.png", picture(), "a")
    (tmp_path / "l.jsonl").write_text(json.dumps({"file_name": r"$\frac{$[b].png", "text": "x"}))
    index = Index(build(tmp_path))
    assert _draw(index, {Bucket(32, 32): 1}, [1], tmp_path / "r.png").is_file()


# buckets, captions, settings


def test_only_buckets_of_one_resolution_are_joined():
    # of two resolutions that lie near one another, areas differ by less than those of one resolution do
    sizes = np.array([(64, 64)] * 8 + [(80, 80)] * 3 + [(160, 40)] * 8)
    plan = BucketPlan(sizes, (64, 80), 16, 4, 0)
    assert plan.joined == {Bucket(80, 80): Bucket(144, 48)}
    assert plan.bucket_of[0] == Bucket(64, 64)


def test_a_plan_of_many_pictures_is_made_in_seconds():
    sizes = np.random.default_rng(0).integers(256, 1200, (60_000, 2))
    started = time.process_time()
    BucketPlan(sizes, (256, 512), 32, 8, 0)
    assert time.process_time() - started < 6


@pytest.mark.parametrize(
    ("resolution", "multiple"), [(1_600_000_000, 16), (64, 0), (64, -1), (0, 16), (8, 16)]
)
def test_resolutions_that_cannot_be_are_refused_at_once(resolution, multiple):
    with pytest.raises(ValueError, match=r"the resolution must|multiple must be at least 1"):
        buckets(resolution, multiple)
