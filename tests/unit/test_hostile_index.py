"""What strangers' folders, indices and caches may be: one bad item ends nothing, all else is our error."""

import gzip
import json
import os
import subprocess
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_hostile_data import sparse
from test_pictures_data import add, as_png, picture, problems, write

from diptych.data.captioned import cache as caches
from diptych.data.captioned import index as index_module
from diptych.data.captioned.buckets import Bucket, BucketPlan, buckets
from diptych.data.captioned.captions import CaptionLaw
from diptych.data.captioned.index import INDEX, Index, build
from diptych.data.captioned.loader import PictureDataset, PictureLoaderConfig, is_validation
from diptych.data.captioned.precompute import precompute
from diptych.data.captioned.report import _draw
from diptych.data.conversations.loader import LoaderConfig
from diptych.data.frames import encoded
from diptych.data.pictures import CONTROLS
from diptych.worlds.emoji import collection

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
        ({"captions": None}, "other columns"),
        ({"scores": [1.0, 2.0]}, "other scores"),
        ({"scores": [float("inf")]}, "other scores"),
        ({"sha256": "x"}, "no checksum"),
        ({"problem": None}, "other columns"),
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
    pq.write_table(pa.table({"id": pa.array(np.zeros(3_000_000, dtype=np.int8))}), path)
    with pytest.raises(ValueError, match="3,000,000 rows"):
        Index(path)


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
    started = time.monotonic()
    BucketPlan(sizes, (256, 512), 32, 8, 0)
    assert time.monotonic() - started < 6


@pytest.mark.parametrize(
    ("resolution", "multiple"), [(1_600_000_000, 16), (64, 0), (64, -1), (0, 16), (8, 16)]
)
def test_resolutions_that_cannot_be_are_refused_at_once(resolution, multiple):
    with pytest.raises(ValueError, match="the resolution must"):
        buckets(resolution, multiple)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (PictureLoaderConfig, {"accumulate": 1_000_000}),
        (PictureLoaderConfig, {"accumulate": 0}),
        (PictureLoaderConfig, {"workers": 100_000}),
        (PictureLoaderConfig, {"resolutions": ()}),
        (PictureLoaderConfig, {"drop_text": float("nan")}),
        (PictureLoaderConfig, {"validation": 1.0}),
        (LoaderConfig, {"accumulate": 1_000_000}),
        (LoaderConfig, {"documents_per_step": 10**12}),
        (LoaderConfig, {"documents_per_step": 0}),
        (LoaderConfig, {"workers": -1}),
        (LoaderConfig, {"drop_text": float("nan")}),
        (LoaderConfig, {"drop_all": -0.1}),
        (LoaderConfig, {"drop_text": 0.6, "drop_all": 0.6}),
        (LoaderConfig, {"row_tokens": 7}),
        (CaptionLaw, {"temperature": float("nan")}),
        (CaptionLaw, {"temperature": 0.0}),
        (CaptionLaw, {"threshold": float("nan")}),
        (CaptionLaw, {"law": "best"}),
    ],
)
def test_settings_that_cannot_be_are_refused(kind, values):
    with pytest.raises(ValueError, match="must be"):
        kind(**values)


# caches


def cache_of(folder, count=4):
    keys = [caches.target_key(str(n), Bucket(8, 8)) for n in range(count)]
    caches.write_shards(folder, "latents", keys, lambda key: torch.full((1, 2, 2), float(keys.index(key))))
    caches.write_manifest(folder, "space", None, {"latents": keys})
    return next(folder.glob("latents-*.safetensors"))


def flip(path, at=-3):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_in_a_shard_is_found_and_mended_by_making_the_cache_again(tmp_path):
    shard = cache_of(tmp_path)
    flip(shard)
    opened = caches.TargetCache(tmp_path, "space", None)
    with pytest.raises(ValueError, match="is damaged"):
        opened.target("0", Bucket(8, 8))
    cache_of(tmp_path)
    assert caches.TargetCache(tmp_path, "space", None).target("3", Bucket(8, 8)).mean() == 3


def test_a_cut_shard_is_made_again(tmp_path):
    shard = cache_of(tmp_path)
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"has \d+ of \d+ bytes"):
        caches.TargetCache(tmp_path, "space", None)
    cache_of(tmp_path)
    assert len(load_file(shard)) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("sha256"),
        lambda m: m.update(sha256={}),
        lambda m: m.update(sizes={"../x": 1}, sha256={"../x": ""}, places={}),
        lambda m: m.update(places={"latents/8x8/0": "other"}),
        lambda m: m.update(sizes=5),
    ],
)
def test_a_manifest_that_others_changed_is_refused(tmp_path, change):
    cache_of(tmp_path)
    path = tmp_path / caches.MANIFEST
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"cache\.json"):
        caches.TargetCache(tmp_path, "space", None)


def test_a_shard_without_its_entry_is_named(tmp_path):
    shard = cache_of(tmp_path)
    save_file({"other": torch.zeros(1)}, shard)
    path = tmp_path / caches.MANIFEST
    values = json.loads(path.read_text())
    values["sizes"], values["sha256"] = (
        {shard.name: shard.stat().st_size},
        {shard.name: caches.checksum(shard)},
    )
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="cannot be read"):
        caches.TargetCache(tmp_path, "space", None).target("0", Bucket(8, 8))


@pytest.mark.parametrize(("part", "parts"), [(5, 2), (2, 2), (-1, 2), (0, 0)])
def test_a_part_that_does_not_exist_is_refused(tmp_path, part, parts):
    write(tmp_path, "a.png", picture(), "a")
    index = Index(build(tmp_path))
    with pytest.raises(ValueError, match="part must be"):
        precompute(index, None, None, tmp_path / "cache", (32,), 16, 1, 0.0, part=part, parts=parts)
    assert not (tmp_path / "cache").exists()


class Mean:
    """An image space whose targets are means of 8 x 8 px."""

    def encode(self, pixels):
        return torch.nn.functional.avg_pool2d(pixels[:, 0].float(), 8)[:, None]

    def identity(self):
        return "mean"


@pytest.mark.parametrize("control", ["", "edges"])
def test_a_run_with_a_cache_sees_what_a_run_without_it_sees(tmp_path, control):
    for n in range(12):
        write(tmp_path, f"{n:02d}.png", picture(64 + 16 * (n % 2), 64, seed=n), f"caption {n}\nother {n}")
    index, out = Index(build(tmp_path)), tmp_path / "cache"
    for part in (1, 0):
        precompute(index, Mean(), None, out, (32,), 16, 4, 0.3, control=control, part=part, parts=2)
        made = sorted(path.name for path in out.iterdir())
    assert caches.MANIFEST in made
    made_of = {
        "multiple": 16,
        "shape": lambda w, h: (1, 3, h // 8, w // 8),
        "seed": 3,
        "control": CONTROLS[control] if control else None,
    }
    config = PictureLoaderConfig(pictures_per_step=4, resolutions=(32,), workers=0, validation=0.3)
    plain = PictureDataset(index, config, **made_of)
    cached = PictureDataset(index, config, cache=caches.TargetCache(out, "mean", None, control), **made_of)
    for step in range(4):
        one, two = plain[step].batches[0], cached[step].batches[0]
        assert torch.equal(encoded(Mean(), one.pixels), two.target)
        assert torch.equal(one.noise, two.noise)
        assert [p.text for p in one.prompts] == [p.text for p in two.prompts]
        for left, right in zip(one.stacks, two.stacks, strict=True):
            for a, b in zip(left.given, right.given, strict=True):
                assert torch.equal(Mean().encode(a.pixels[None, None])[0, 0], b.target)
                # and it is edges that are drawn along, not the picture itself
                assert (a.pixels[0] == a.pixels[1]).all()
    # validation asks for each of its pictures alone, in the bucket that suits it
    held = [n for n, row in enumerate(index.rows) if is_validation(row.sha256, 0.3)]
    assert held
    plan = BucketPlan(index.sizes()[held], (32,), 16, 1, 0)
    for bucket, n in zip(plan.bucket_of, held, strict=True):
        cached.cache.target(index.rows[n].id, bucket)


def test_each_part_writes_its_own_shards_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "SHARD", 2)
    keys = [f"k{n}" for n in range(10)]
    written: list[tuple[int, str]] = []
    for part in range(2):

        def make(key, part=part):
            written.append((part, key))
            return torch.zeros(1)

        caches.write_shards(tmp_path, "latents", keys, make, None, part, 2)
    assert sorted(key for _, key in written) == keys
    assert [part for part, _ in written] == [0] * 6 + [1] * 4


def test_a_picture_has_a_target_for_each_size():
    assert caches.target_key("a", Bucket(8, 16)) != caches.target_key("a", Bucket(16, 8))


def test_a_cached_target_of_another_shape_is_named(tmp_path):
    write(tmp_path, "a.png", picture(32, 32), "a")
    index, out = Index(build(tmp_path)), tmp_path / "cache"
    precompute(index, Mean(), None, out, (32,), 16, 1, 0.0)
    config = PictureLoaderConfig(pictures_per_step=1, resolutions=(32,), workers=0, validation=0.0)
    data = PictureDataset(
        index,
        config,
        multiple=16,
        shape=lambda w, h: (1, 8, h // 8, w // 8),
        seed=0,
        cache=caches.TargetCache(out, "mean", None),
    )
    with pytest.raises(ValueError, match=r"a\.png has the shape"):
        data[0]


# the emoji collection


@pytest.fixture
def glyphs(monkeypatch):
    monkeypatch.setattr(collection, "find_font", lambda _: None)
    monkeypatch.setattr(collection, "render_glyph", lambda emoji, side, font: np.full((side, side, 4), 0.5))


def test_a_collection_has_a_picture_for_every_name(tmp_path, glyphs):
    count = collection.write_collection(tmp_path, 16, False, only="keycap")
    assert count == len(list(tmp_path.glob("*.png"))) == len({p.read_text() for p in tmp_path.glob("*.txt")})
    assert count > 9
    assert collection.write_collection(tmp_path, 16, False, only="keycap") == count


def test_a_collection_is_written_over_nothing_else(tmp_path, glyphs):
    (tmp_path / "keycap.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"keycap\.png is there already"):
        collection.write_collection(tmp_path, 16, False, only="keycap")
    assert (tmp_path / "keycap.png").read_bytes() == b"mine"
    assert not list(tmp_path.glob(".*.part"))
