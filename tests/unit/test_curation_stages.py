"""Stages of curation that need no model: what they measure, and what they let go."""

import io
import json
import random
from pathlib import Path
from typing import Any

import curated
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from diptych.curation import duplicates
from diptych.curation.alike import Prepared, likeness
from diptych.curation.breadth import Breadth, Buckets, Domain
from diptych.curation.cluster import Cluster
from diptych.curation.decode import Seen, inside_borders
from diptych.curation.duplicates import Duplicates, groups_of
from diptych.curation.engine import curate
from diptych.curation.hashes import Pixels, Prints, perceptual, printed
from diptych.curation.pool import Here
from diptych.curation.probe import Probe, jpeg_quality, sharpness
from diptych.curation.recipes import Recipe
from diptych.curation.split import Exclude, Split
from diptych.curation.text import language, measured, repetition, words_of


def of(*stages: Any, source: Path, out: Path) -> list[dict[str, Any]]:
    curate(Recipe("mine", {}, list(stages)), source, out, Here())
    return curated.outcomes(out)


def probed(data: bytes) -> dict[str, Any]:
    return Probe().look(Seen(data), None)


def test_sharpness_falls_with_blur_and_not_with_contrast_or_with_detail():
    image = Image.fromarray(curated.pixels(1, 128)).convert("L")
    sharp = sharpness(np.asarray(image))
    faint = sharpness((np.asarray(image) // 3 + 80).astype(np.uint8))
    blurred = [
        sharpness(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))) for radius in (1, 1.5, 2, 3)
    ]
    assert sharp > 0.95
    assert faint > 0.9
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[1] < 0.3 < blurred[0] < 0.5


def test_an_edge_between_colours_of_one_brightness_is_one():
    flag = np.full((96, 128, 3), (200, 40, 60), np.uint8)
    flag[30:60, 40:80] = (40, 120, 50)
    gray = Image.fromarray(flag).convert("L")
    assert np.ptp(np.asarray(gray)) < 24
    assert probed(curated.encoded(flag))["sharpness"] > 0.9
    soft = Image.fromarray(flag).filter(ImageFilter.GaussianBlur(3))
    assert probed(curated.encoded(np.asarray(soft)))["sharpness"] < 0.3


def test_a_probe_tells_what_a_file_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(curated.pixels(2)[:50]).save(file, "JPEG", quality=83, exif=exif)
    told = probed(file.getvalue())
    assert (told["format"], told["mode"], told["turned"], told["alpha"]) == ("JPEG", "RGB", True, False)
    # upright: what was stored wide is shown high
    assert (told["width"], told["height"]) == (50, 72)
    assert told["quality"] == pytest.approx(83, abs=1)
    assert np.isnan(jpeg_quality(0.0))


def test_borders_are_found_one_in_another():
    inner = curated.pixels(3, 60)
    framed = np.pad(np.pad(inner, ((6, 6), (6, 6), (0, 0)), constant_values=255), ((4, 9), (4, 4), (0, 0)))
    top, bottom, left, right = inside_borders(framed)
    assert (bottom - top, right - left) == inside_shape(inner)
    assert inside_borders(np.full((40, 40, 3), 7, np.uint8)) == (0, 40, 0, 40)


def inside_shape(inner: np.ndarray) -> tuple[int, int]:
    """Without what of the picture itself has one colour at its rim."""
    top, bottom, left, right = inside_borders(inner)
    return bottom - top, right - left


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a cat is on the table with two carrots", "en"),
        ("ein Hund und eine Katze auf dem Tisch", "de"),
        ("un chat dans la maison avec les enfants", "fr"),
        ("el perro y la niña en el parque", "es"),
        ("猫在桌子上睡觉", "zh"),
        ("テーブルの上の猫", "ja"),
        ("кошка на столе", "ru"),
        ("cat", ""),
        ("", ""),
    ],
)
def test_languages_are_told_by_letters_and_small_words(text, code):
    assert language(text, words_of(text)) == code


def test_repetition_is_of_words_and_of_runs_and_short_captions_have_none():
    assert repetition(["red", "red", "red"]) == 0
    assert repetition(("cat " * 20).split()) > 0.9
    assert repetition(("a small cat sat there . " * 8).split()) > 0.8
    assert (
        repetition(
            ["a", "cat", "sits", "on", "a", "red", "mat", "beside", "two", "very", "old", "wooden", "chairs"]
        )
        == 0
    )


@pytest.mark.parametrize("text", ["IMG_2034.JPG", "DSC 0012", "Stock photo of a cat", "photo.png", "0231"])
def test_names_of_files_and_phrases_of_shops_are_boilerplate(text):
    assert measured([text])["boilerplate"]


def test_a_row_is_judged_by_its_best_caption():
    told = measured(["buy now", "IMG_1.jpg", "a red boat on a lake"])
    assert (told["captions"], told["words"], told["boilerplate"]) == (3, 6, False)


def copies(array: np.ndarray, seed: int) -> dict[str, bytes]:
    """What happens to pictures on their way."""
    rng, image = random.Random(seed), Image.fromarray(array)
    side = array.shape[0]
    wide, high = int(side * rng.uniform(0.84, 0.96)), int(side * rng.uniform(0.84, 0.96))
    left, top = rng.randint(0, side - wide), rng.randint(0, side - high)
    shifted = image
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        shifted = change(shifted).enhance(rng.uniform(0.9, 1.1))
    colour = tuple(rng.randrange(256) for _ in range(3))
    return {
        "crop": curated.encoded(np.asarray(image.crop((left, top, left + wide, top + high)))),
        "jpeg": curated.encoded(array, "JPEG", quality=rng.randint(60, 90)),
        "colour": curated.encoded(np.asarray(shifted)),
        "border": curated.encoded(np.asarray(ImageOps.expand(image, (5, 9, 12, 3), fill=colour))),
    }


def planted(source: Path, count: int) -> Path:
    """Pictures, each with a copy of one of four kinds."""
    source.mkdir()
    for seed in range(count):
        array = curated.pixels(seed, 128)
        (source / f"{seed:04d}.png").write_bytes(curated.encoded(array))
        kind, data = list(copies(array, seed).items())[seed % 4]
        (source / f"{seed:04d}_{kind}.png").write_bytes(data)
    return source


def test_copies_of_all_kinds_are_found_and_what_only_looks_alike_is_not(tmp_path, monkeypatch):
    source, stages = planted(tmp_path / "source", 12), [Probe(min_side=8), Prints(), Duplicates()]
    rows = of(*stages, source=source, out=tmp_path / "out")
    dropped = [row for row in rows if row["outcome"] == "dropped"]
    assert all(rows[row["duplicates.of"]]["id"][:4] == row["id"][:4] for row in dropped)
    assert len(dropped) >= 10
    # the copy with an added border is larger, and not the better one
    assert not any(row["id"].endswith("border.png") for row in rows if row["outcome"] == "kept")
    # so many rows that they are compared within clusters: the same pairs, each once
    monkeypatch.setattr(duplicates, "TOGETHER", 20)
    monkeypatch.setattr(duplicates, "CLUSTER", 6)
    monkeypatch.setattr(duplicates, "SPILLS", 3)
    again = of(*stages, source=source, out=tmp_path / "clusters")
    assert [row["duplicates.of"] for row in again] == [row["duplicates.of"] for row in rows]
    found = [
        pq.read_table(next((tmp_path / out / "stages").glob("duplicates*/*.parquet")))
        for out in ("out", "clusters")
    ]
    for name in ("near", "likeness"):
        near, same = (table.column(name).to_pylist() for table in found)
        assert near == same


def test_likeness_is_one_for_the_same_and_low_where_one_part_or_the_hue_differs():
    one = curated.pixels(11, 128)
    other = one.copy()
    other[40:64, 40:64] = 255 - other[40:64, 40:64]
    hue = one[..., [1, 2, 0]]
    made = Prepared(*(np.stack([printed(p) for p in (one, other, hue)]) for _ in range(2)))
    alike = likeness(made, made, np.array([[0, 0], [0, 1], [0, 2]]))
    assert alike[0] > 0.99
    assert alike[1] < 0.5
    assert alike[2] < 0.5


def test_a_perceptual_hash_hardly_changes_with_compression():
    one = np.asarray(Image.fromarray(curated.pixels(12, 128)).convert("L"))
    file = io.BytesIO()
    Image.fromarray(one).save(file, "JPEG", quality=50)
    again = np.asarray(Image.open(file))
    apart = (perceptual(one) ^ perceptual(again)) & (2**64 - 1)
    other = (
        perceptual(one) ^ perceptual(np.asarray(Image.fromarray(curated.pixels(13, 128)).convert("L")))
    ) & (2**64 - 1)
    assert apart.bit_count() <= 4 < 12 <= other.bit_count()


class View(dict):
    """Columns as a stage's judgement sees them."""

    def __init__(self, **columns: Any) -> None:
        super().__init__({name.replace("__", "."): np.asarray(v) for name, v in columns.items()})
        self.alive = np.ones(len(next(iter(self.values()))), dtype=bool)
        self.edges: tuple[Any, Any, Any] = ([0] * (len(self) + 1), [], [])

    def __len__(self) -> int:
        return len(next(iter(self.values())))

    def __bool__(self) -> bool:
        return True

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        offsets, near, alike = self.edges
        values = near if name.endswith("near") else alike
        return np.array(offsets), np.array(values, dtype=np.float64 if values is alike else np.int64)

    def digests(self, name: str) -> np.ndarray:
        return np.array([bytes([n * 37 % 256, n]) * 16 for n in range(len(self))], dtype="S32")


def gone(verdict: Any) -> list[int]:
    return sorted({int(row) for drop in verdict.drops for row in np.flatnonzero(drop.rows)})


def test_of_copies_the_best_stays_and_of_a_chain_both_ends():
    view = View(duplicates__same=[0, 1, 2, 3], probe__content=[1.0, 3.0, 2.0, 5.0])
    # 0 - 1 - 2 is a chain, 3 stands alone
    view.edges = ([0, 1, 2, 2, 2], [1, 2], [0.8, 0.8])
    assert gone(Duplicates().judge(view)) == [0, 2]
    view["probe.content"] = np.array([3.0, 1.0, 2.0, 5.0])
    assert gone(Duplicates().judge(view)) == [1]
    assert gone(Duplicates(min=0.9).judge(view)) == []


def test_a_dropped_row_takes_no_copy_with_it():
    view = View(duplicates__same=[0, 0, 2], probe__content=[3.0, 1.0, 2.0])
    view.alive = np.array([False, True, True])
    verdict = Duplicates().judge(view)
    assert not (np.array([row in gone(verdict) for row in range(3)]) & view.alive).any()


def test_what_looks_alike_is_in_one_part():
    count = 60
    view = View(duplicates__same=np.arange(count), probe__content=np.ones(count))
    near = [n + 1 for n in range(0, count, 2)]
    view.edges = (np.repeat(np.arange(count // 2 + 1), 2)[1:], near, [0.55] * len(near))
    part = Split(validation=0.4).judge(view).columns["part"]
    assert (part[::2] == part[1::2]).all()
    assert {"train", "validation"} == set(part)
    assert (groups_of(view, "duplicates", 0.0)[::2] == groups_of(view, "duplicates", 0.0)[1::2]).all()


def test_breadth_caps_a_cluster_and_evens_out_by_temperature():
    cluster = np.array([0] * 60 + [1] * 10 + [2] * 2)
    view = View(cluster__cluster=cluster, q__score=np.arange(72.0))
    assert len(gone(Breadth(cap=10).judge(view))) == 50
    kept = set(range(72)) - set(gone(Breadth(cap=5, best="q.score").judge(view)))
    assert {59, 58, 57, 56, 55, 69} <= kept
    left = np.bincount(np.delete(cluster, gone(Breadth(temperature=4.0).judge(view))))
    assert left[2] == 2
    assert left[0] < 10
    assert gone(Breadth(temperature=1.0).judge(view)) == []


def test_clusters_and_examples_find_what_looks_alike(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(24):
        array = curated.pixels(number)
        # half of them are red, half are blue
        array[..., [0, 1] if number % 2 else [1, 2]] //= 6
        (source / f"{number:02d}.png").write_bytes(curated.encoded(array))
    examples = tmp_path / "examples"
    examples.mkdir()
    array = curated.pixels(99)
    array[..., [1, 2]] //= 6
    (examples / "red.png").write_bytes(curated.encoded(array))
    domain = Domain(examples=str(examples), embed=Pixels(), share=0.5)
    rows = of(
        Probe(min_sharpness=None), Pixels(), Cluster(clusters=2), domain, source=source, out=tmp_path / "out"
    )
    kept = [row for row in rows if row["outcome"] == "kept"]
    assert sum(int(row["id"][:2]) % 2 == 0 for row in kept) >= 11
    assert len({row["cluster.cluster"] for row in rows}) == 2
    again = of(Pixels(), Cluster(clusters=2), source=source, out=tmp_path / "again")
    assert [row["cluster.cluster"] for row in again] == [row["cluster.cluster"] for row in rows]


def test_pictures_of_an_evaluation_are_excluded_also_as_copies(tmp_path):
    source = curated.folder(tmp_path / "source", 8)
    examples = tmp_path / "evaluation"
    examples.mkdir()
    (examples / "same.png").write_bytes((source / "0001.png").read_bytes())
    (examples / "copy.jpg").write_bytes(copies(curated.pixels(4), 4)["jpeg"])
    rows = of(Prints(), Exclude(examples=str(examples)), source=source, out=tmp_path / "out")
    told = {row["id"]: row["reason"] for row in rows if row["outcome"] != "kept"}
    assert told == {
        "0001.png": "the bytes of an evaluation picture",
        "0004.png": "like an evaluation picture",
    }


def test_buckets_tell_what_is_cut_off_and_how_much_is_enlarged():
    view = View(probe__width=[512, 1024, 100], probe__height=[512, 512, 100])
    verdict = Buckets(max_enlarged=2.0).judge(view)
    assert list(verdict.columns["bucket"]) == ["512x512", "736x352", "512x512"]
    assert verdict.columns["cut"][0] == 0
    assert 0 < verdict.columns["cut"][1] < 0.1
    assert gone(verdict) == [2]


def test_lines_tables_shards_and_lists_of_data_sets_are_sources(tmp_path):
    pictures = curated.folder(tmp_path / "pictures", 3)
    names = [f"{n:04d}.png" for n in range(3)]
    listing = curated.lines(
        pictures / "a.jsonl", [{"image": name, "text": f"boxes {name}"} for name in names]
    )
    csv = pictures / "metadata.csv"
    csv.write_text("file_name,text\n" + "".join(f'{name},"boxes, many"\n' for name in names))
    tar = curated.shard(
        tmp_path / "tars" / "a.tar",
        [
            (f"{n}.{ending}", data)
            for n in range(3)
            for ending, data in (
                ("png", curated.encoded(curated.pixels(n))),
                ("json", json.dumps({"prompt": f"boxes {n}"}).encode()),
            )
        ],
    )
    (tmp_path / "tars" / "a_vlm.json").write_text(json.dumps({"0": {"vlm": "many boxes"}}))
    (tmp_path / "tars" / "a_vlm_clip_score.json").write_text(json.dumps({"0": {"vlm": 27.5}}))
    talks = curated.lines(
        pictures / "talks.jsonl",
        [
            {
                "conversations": [
                    {"from": "human", "value": "draw boxes"},
                    {"from": "gpt", "value": "<image>"},
                ],
                "image": n,
            }
            for n in names
        ]
        + [{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}],
    )
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"mine": {"root": "pictures", "annotation": talks.name, "task": "t2i"}}))
    told = {
        path.name: of(Probe(), source=path, out=tmp_path / f"out-{path.name}")
        for path in (listing, csv, tar, meta)
    }
    assert [row["captions"] for row in told["a.jsonl"]] == [[f"boxes {name}"] for name in names]
    assert [row["captions"] for row in told["metadata.csv"]] == [["boxes, many"]] * 3
    assert told["a.tar"][0]["captions"] == ["boxes 0", "many boxes"]
    assert told["a.tar"][0]["scores"][1] == 27.5
    assert [row["captions"] for row in told["meta.json"]][:3] == [["draw boxes"]] * 3
    assert told["meta.json"][3]["reason"] == "no single picture that is drawn from words alone"
    assert {row["outcome"] for rows in told.values() for row in rows} == {"kept", "failed"}


def test_a_picture_that_a_listing_names_is_no_row_of_its_own(tmp_path):
    source = curated.folder(tmp_path / "source", 3)
    curated.lines(
        source / "rows.jsonl", [{"image": "0001.png", "text": "once"}, {"image": "0001.png", "text": "twice"}]
    )
    rows = of(Probe(), source=source, out=tmp_path / "out")
    assert [row["id"] for row in rows] == ["0001.png", "0001.png", "0000.png", "0002.png"]
    assert [row["captions"][0] for row in rows[:2]] == ["once", "twice"]


def test_long_listings_are_cut_where_lines_end(tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.curation.read.LINES", 4)
    source = curated.folder(tmp_path / "source", 1)
    rows = [{"image": "0000.png", "text": f"number {n}"} for n in range(11)]
    listing = curated.lines(source / "rows.jsonl", [*rows[:5], "", "{", *rows[5:]])
    told = of(Probe(), source=listing, out=tmp_path / "out")
    assert [row["captions"][0] for row in told if row["captions"]] == [row["text"] for row in rows]
    assert [row["id"] for row in told if row["outcome"] == "failed"] == ["rows.jsonl:7"]
