"""What strangers' settings, caches and folders may be: refused by name, or made again."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pictures_data import picture, write

from diptych.data.captioned import cache as caches
from diptych.data.captioned.buckets import Bucket, BucketPlan
from diptych.data.captioned.captions import CaptionLaw
from diptych.data.captioned.index import INDEX, Index, build
from diptych.data.captioned.loader import PictureDataset, PictureLoaderConfig, is_validation
from diptych.data.captioned.precompute import precompute
from diptych.data.conversations.loader import LoaderConfig
from diptych.data.frames import encoded
from diptych.data.pictures import CONTROLS
from diptych.worlds.emoji import collection


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (PictureLoaderConfig, {"accumulate": 1_000_000}),
        (PictureLoaderConfig, {"accumulate": 0}),
        (PictureLoaderConfig, {"workers": 100_000}),
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
        (CaptionLaw, {"long_share": 1.5}),
        (CaptionLaw, {"long_share": float("nan")}),
        (CaptionLaw, {"long_words": 0}),
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


def test_a_cache_is_made_over_nothing_else(tmp_path):
    (tmp_path / caches.MANIFEST).write_text("mine")
    with pytest.raises(ValueError, match="is there already and closes no cache of ours"):
        caches.write_shards(tmp_path, "latents", ["a"], lambda key: pytest.fail("it was computed"))
    assert (tmp_path / caches.MANIFEST).read_text() == "mine"


def test_a_cache_takes_no_place_among_other_files(tmp_path):
    write(tmp_path, "a.png", picture(64, 64), "a")
    index = Index(build(tmp_path))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"holds something else than a cache \(a\.png\): choose"):
        precompute(index, Mean(), None, tmp_path, (32,), 16, 1, 0.0)
    assert sorted(tmp_path.iterdir()) == before


def test_parts_of_an_index_are_written_through_no_link(tmp_path):
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.mkdir()
    write(data, "a.png", picture(64, 64), "a")
    (data / f"{INDEX}.parts").symlink_to(outside)
    with pytest.raises(ValueError, match="parts is a link"):
        build(data)
    (data / f"{INDEX}.parts").unlink()
    (data / "other").symlink_to("nowhere")
    with pytest.raises(ValueError, match="is there already and is no index"):
        build(data, data / "other")


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
