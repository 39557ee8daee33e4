"""Folders of pictures with captions: the index, aspect buckets, captions, and steps of pictures."""

import io
import json
import os
import tarfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.captioned import index as index_module
from diptych.data.captioned.buckets import Bucket, BucketPlan, buckets, fit
from diptych.data.captioned.captions import CaptionLaw, choose, probabilities
from diptych.data.captioned.index import Index, build
from diptych.data.captioned.loader import PictureDataset, PictureLoaderConfig, is_validation
from diptych.data.frames import encoded
from diptych.data.pictures import FPS, save_picture


def picture(width=32, height=24, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def as_png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def as_bmp(image):
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def write(folder, name, image, caption=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def problems(index):
    return {row.id: row.problem for row in index.problems}


def test_a_folder_with_sidecars_is_indexed(tmp_path):
    write(tmp_path, "a cat.png", picture(), "a cat\nein Kätzchen\n\n")
    write(tmp_path, "深い/b.jpg", picture(64, 32), "dog")
    index = Index(build(tmp_path))
    rows = {row.id: row for row in index.rows}
    assert rows["a cat.png"].captions == ("a cat", "ein Kätzchen")
    assert (rows["深い/b.jpg"].width, rows["深い/b.jpg"].height) == (64, 32)
    number = [row.id for row in index.rows].index("a cat.png")
    assert np.array_equal(index.picture(number), np.asarray(picture()))
    assert not list(tmp_path.glob("*.parts"))


def test_everything_that_is_wrong_is_named_and_the_rest_is_used(tmp_path):
    write(tmp_path, "good.png", picture(seed=1), "good")
    write(tmp_path, "silent.png", picture(seed=2))
    write(tmp_path, "copy.png", picture(seed=1), "good again")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "empty.txt").write_text("nothing")
    (tmp_path / "cut.png").write_bytes(as_png(picture(200, 200, seed=3))[:3000])
    (tmp_path / "cut.txt").write_text("cut")
    (tmp_path / "text.png").write_text("no picture at all")
    (tmp_path / "alone.txt").write_text("a caption alone")
    write(tmp_path, "latin.png", picture(seed=4)).with_suffix(".txt").write_bytes(
        "Kätzchen".encode("latin-1")
    )
    Image.new("1", (13000, 13000)).save(tmp_path / "bomb.png")
    (tmp_path / "bomb.txt").write_text("bomb")
    (tmp_path / "list.jsonl").write_text(
        '{"file_name": "gone.png", "text": "x"}\n{broken\n{"file_name": "../out.png", "text": '
        '"x"}\n{"a": 1}\n'
    )
    index = Index(build(tmp_path))
    assert [row.id for row in index.rows] == ["copy.png"]
    wrong = problems(index)
    assert wrong["good.png"] == "the same bytes as copy.png"
    assert wrong["silent.png"] == "no caption"
    assert wrong["empty.png"] == "the file is empty"
    assert "not a readable picture" in wrong["cut.png"]
    assert "not a readable picture" in wrong["text.png"]
    assert wrong["alone.txt"] == "a caption without a picture"
    assert "not UTF-8 text (byte 1)" in wrong["latin.png"]
    assert "13000x13000" in wrong["bomb.png"]
    assert "'gone.png' is not in" in wrong["list.jsonl:1"]
    assert "not JSON" in wrong["list.jsonl:2"]
    assert "lies outside" in wrong["list.jsonl:3"]
    assert "no picture" in wrong["list.jsonl:4"]


@pytest.mark.parametrize("listing", ["metadata.jsonl", "metadata.csv"])
def test_image_folders_of_hugging_face_are_read(tmp_path, listing):
    for name in ("x.png", "y.png"):
        write(tmp_path, f"train/{name}", picture(seed=ord(name[0])))
    rows = [{"file_name": f"{n}.png", "text": f"the letter {n}"} for n in "xy"]
    path = tmp_path / "train" / listing
    if listing.endswith(".csv"):
        path.write_text("file_name,text\n" + "".join(f"{r['file_name']},{r['text']}\n" for r in rows))
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    index = Index(build(tmp_path))
    assert {row.id: row.captions for row in index.rows} == {
        f"train/{n}.png": (f"the letter {n}",) for n in "xy"
    }


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_shards_of_sana_and_blip3o_are_read_by_offset(tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for n in range(3):
            add(tar, f"{n:05d}.png", as_png(picture(40 + n, 30, seed=n)))
            add(
                tar,
                f"{n:05d}.json",
                json.dumps({"prompt": f"prompt {n}", "height": 30, "width": 40 + n}).encode(),
            )
        add(tar, "lonely.json", b"{}")
    (tmp_path / "00000_VILA.json").write_text(json.dumps({"00001": {"VILA": "vila's words"}}))
    (tmp_path / "00000_VILA_clip_score.json").write_text(json.dumps({"00001": {"VILA": "27.10"}}))
    with tarfile.open(tmp_path / "sa_1.tar", "w") as tar:
        add(tar, "k.jpg", as_png(picture(seed=9)))
        add(tar, "k.txt", b"a pair of BLIP3-o")
    index = Index(build(tmp_path))
    rows = {row.id: row for row in index.rows}
    assert rows["00000.tar/00001"].captions == ("prompt 1", "vila's words")
    assert np.isnan(rows["00000.tar/00001"].scores[0])
    assert rows["00000.tar/00001"].scores[1] == pytest.approx(27.1)
    assert rows["00000.tar/00000"].scores == ()
    assert rows["sa_1.tar/k"].captions == ("a pair of BLIP3-o",)
    assert problems(index) == {"00000.tar/lonely": "a caption without a picture"}
    number = [row.id for row in index.rows].index("00000.tar/00002")
    assert np.array_equal(index.picture(number), np.asarray(picture(42, 30, seed=2)))


def test_rows_are_in_order_of_their_ids_and_a_listing_wins_over_a_text_file(tmp_path):
    write(tmp_path, "a.png", picture(seed=1), "of the text file")
    write(tmp_path, "z.png", picture(seed=2), "z")
    (tmp_path / "l.jsonl").write_text('{"file_name": "a.png", "text": "of the listing"}')
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        add(tar, "k.png", as_png(picture(seed=3)))
        add(tar, "k.txt", b"k")
    rows = Index(build(tmp_path)).rows
    assert [(row.id, row.captions[0]) for row in rows] == [
        ("a.png", "of the listing"),
        ("m.tar/k", "k"),
        ("z.png", "z"),
    ]


def test_a_stopped_index_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.data.captioned.layouts.CHUNK", 4)
    for n in range(12):
        write(tmp_path, f"{n:02d}.png", picture(seed=n), f"picture {n}")
    opened = []
    examine = index_module._examine

    def counting(folder, found):
        opened.append(found.id)
        if len(opened) == 7:
            raise KeyboardInterrupt
        return examine(folder, found)

    monkeypatch.setattr(index_module, "_examine", counting)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    assert not (tmp_path / index_module.INDEX).exists()
    opened.clear()
    opened.extend([""] * 7)
    index = Index(build(tmp_path))
    assert len(index) == 12
    assert "00.png" not in opened, "the first part was done before the stop"


def test_a_picture_that_changed_while_an_index_was_stopped_is_looked_at_again(tmp_path, monkeypatch):
    write(tmp_path, "a.bmp", picture(32, 24, seed=0), "a")
    monkeypatch.setattr(index_module, "_without_duplicates", lambda rows: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        build(tmp_path)
    monkeypatch.undo()
    # as many bytes, of other sides
    changed = as_bmp(picture(24, 32, seed=1))
    assert len(changed) == (tmp_path / "a.bmp").stat().st_size
    (tmp_path / "a.bmp").write_bytes(changed)
    assert Index(build(tmp_path)).sizes().tolist() == [[24, 32]]


def test_a_copy_of_a_picture_that_is_of_no_use_is_used(tmp_path):
    write(tmp_path, "a.png", picture())
    write(tmp_path, "b.png", picture(), "b")
    index = Index(build(tmp_path))
    assert [row.id for row in index.rows] == ["b.png"]
    assert problems(index) == {"a.png": "no caption"}


@pytest.mark.parametrize("scores", [[1.0], [1.0, 2.0, 3.0]])
def test_scores_that_are_not_one_a_caption_are_left_out(tmp_path, scores):
    write(tmp_path, "a.png", picture())
    row = {"file_name": "a.png", "captions": ["one", "two"], "scores": scores}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert [row.scores for row in Index(build(tmp_path)).rows] == [()]


def test_files_that_changed_since_are_refused(tmp_path):
    path = write(tmp_path, "a.png", picture(), "a")
    build(tmp_path)
    os.utime(path, (1, 1))
    with pytest.raises(ValueError, match=r"1 files changed .*first: a\.png.*diptych data index"):
        Index(tmp_path)


def test_a_damaged_index_is_refused(tmp_path):
    write(tmp_path, "a.png", picture(), "a")
    path = build(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="no whole index"):
        Index(path)
    with pytest.raises(ValueError, match="there is no index; make one with"):
        Index(tmp_path / "elsewhere.parquet")


@pytest.mark.parametrize(("fps", "milliseconds"), [(4.0, 250), (None, 1000 / FPS)])
@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_a_clip_plays_at_the_pace_that_it_is_given(tmp_path, name, fps, milliseconds):
    frames = np.stack([np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 120, 250)])
    save_picture(frames, tmp_path / name, fps)
    with Image.open(tmp_path / name) as clip:
        assert clip.n_frames == 3
        clip.seek(1)
        clip.load()
        # a GIF counts in hundredths of a second
        assert clip.info["duration"] == pytest.approx(milliseconds, abs=5)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        build(tmp_path)


@given(st.sampled_from([256, 512, 1024]), st.sampled_from([8, 16, 32]))
def test_buckets_keep_the_area_and_the_multiple(resolution, multiple):
    for bucket in buckets(resolution, multiple):
        assert bucket.width % multiple == bucket.height % multiple == 0
        assert 0.25 <= bucket.width / bucket.height <= 4
        assert 0.7 < bucket.width * bucket.height / resolution**2 < 1.4


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=30)
def test_a_fitted_picture_has_the_buckets_size(width, height):
    assert fit(np.zeros((height, width, 3), dtype=np.uint8), Bucket(32, 48)).shape == (48, 32, 3)


def test_a_fitted_picture_is_cut_at_its_centre():
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    assert fit(pixels, Bucket(10, 10)).min() == 255


sizes = st.lists(st.tuples(st.integers(10, 400), st.integers(10, 400)), min_size=20, max_size=200)


@given(sizes, st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_picture_is_seen_once_an_epoch_or_counted(found, batch, seed):
    plan = BucketPlan(np.array(found), (64, 128), 16, batch, seed)
    seen = [number for step in range(plan.steps_per_epoch) for number in plan.at(step)[2].tolist()]
    assert len(seen) == len(set(seen))
    assert len(seen) + plan.dropped == len(found)
    for step in range(plan.steps_per_epoch):
        _, bucket, numbers = plan.at(step)
        assert len(numbers) == batch
        assert all(plan.bucket_of[n] == bucket for n in numbers)


def test_epochs_differ_and_are_reproducible():
    found = np.array([(64, 64)] * 40 + [(128, 32)] * 24)
    plans = [BucketPlan(found, (64,), 16, 8, 0) for _ in range(2)]
    first = [plans[0].at(step)[2].tolist() for step in range(8)]
    assert first == [plans[1].at(step)[2].tolist() for step in range(8)]
    assert first != [plans[0].at(step)[2].tolist() for step in range(8, 16)]


def test_batches_are_another_runs_with_another_seed_and_sizes_are_mixed():
    found = np.array([(64, 64)] * 40 + [(128, 32)] * 40)
    plans = [BucketPlan(found, (64,), 16, 8, seed) for seed in (0, 1)]
    epochs = [[plan.at(step) for step in range(10)] for plan in plans]
    # as sets: not only the batches' order differs
    sets = [{frozenset(numbers.tolist()) for _, _, numbers in epoch} for epoch in epochs]
    assert not sets[0] & sets[1]
    sizes = [bucket for _, bucket, _ in epochs[0]]
    assert sum(a != b for a, b in pairwise(sizes)) > 1


def test_a_resolution_is_filled_by_area_and_not_by_one_side():
    plan = BucketPlan(np.array([(130, 40), (300, 60)]), (64, 128), 16, 1, 0)
    assert [b.width * b.height > 8192 for b in plan.bucket_of] == [False, True]


def test_pictures_go_to_the_resolution_that_they_fill():
    plan = BucketPlan(np.array([(64, 64), (100, 100), (200, 200), (20, 20)]), (64, 128), 16, 1, 0)
    assert plan.bucket_of == [Bucket(64, 64), Bucket(64, 64), Bucket(128, 128), Bucket(64, 64)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((128, 32), Bucket(128, 32)),
        ((32, 128), Bucket(32, 128)),
        ((96, 40), Bucket(96, 48)),
        ((40, 96), Bucket(48, 96)),
    ],
)
def test_a_wide_picture_goes_to_a_wide_bucket(size, expected):
    """By width over height on both sides: turned round on one, landscapes would be cut to portraits."""
    plan = BucketPlan(np.array([size]), (64,), 16, 1, 0)
    assert plan.bucket_of == [expected]


@given(st.integers(1, 4000), st.integers(1, 4000))
@settings(max_examples=60)
def test_no_bucket_is_nearer_than_the_chosen_one(width, height):
    chosen = BucketPlan(np.array([(width, height)]), (256,), 16, 1, 0).bucket_of[0]
    distance = {b: abs(np.log(b.width / b.height) - np.log(width / height)) for b in buckets(256, 16)}
    assert distance[chosen] == pytest.approx(min(distance.values()))


def test_buckets_are_symmetric_and_end_at_one_to_four():
    found = buckets(1024, 32)
    assert {Bucket(b.height, b.width) for b in found} == set(found)
    assert Bucket(2048, 512) in found
    assert Bucket(512, 2048) in found
    assert Bucket(1024, 1024) in found


def test_neighbours_are_dropped_independently(collection):
    # ranks of their own, so that each place in a step can be told: one picture a rank and step
    places = [dataset(collection, ranks=8, rank=r, drop_text=0.5, validation=0.0) for r in range(8)]
    drops = np.array([[bool(p[step].batches[0].drop_text[0]) for p in places] for step in range(120)])
    for a in range(8):
        for b in range(a):
            assert np.mean(drops[:, a] == drops[:, b]) == pytest.approx(0.5, abs=0.2)
    assert np.mean(drops[1:] == drops[:-1]) == pytest.approx(0.5, abs=0.1)


def test_a_bucket_without_a_batch_joins_its_neighbour():
    found = np.array([(64, 64)] * 8 + [(90, 50)] * 3)
    plan = BucketPlan(found, (64,), 16, 4, 0)
    assert len(plan.joined) == 1
    seen = {n for epoch in range(6) for step in range(2) for n in plan.at(epoch * 2 + step)[2].tolist()}
    assert seen == set(range(11))


def test_the_smallest_bucket_is_joined_first():
    """It fills its neighbour, which then stays: the larger group's pictures keep their shape."""
    tall, taller = ((b.width, b.height) for b in buckets(128, 16)[4:6])
    assert tall < taller
    plan = BucketPlan(np.array([tall] * 3 + [taller]), (128,), 16, 4, 0)
    assert plan.joined == {Bucket(*taller): Bucket(*tall)}
    plan = BucketPlan(np.array([tall] + [taller] * 3), (128,), 16, 4, 0)
    assert plan.joined == {Bucket(*tall): Bucket(*taller)}


def test_too_few_pictures_are_an_error():
    with pytest.raises(ValueError, match="3 pictures do not fill one batch of 4"):
        BucketPlan(np.array([(64, 64)] * 3), (64,), 16, 4, 0)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (CaptionLaw(law="softmax", temperature=2.0), [0.2689, 0.7311]),
        (
            CaptionLaw(law="power", temperature=0.1),
            [(28 / 30) ** 10 / (1 + (28 / 30) ** 10), 1 / (1 + (28 / 30) ** 10)],
        ),
        (CaptionLaw(law="uniform", threshold=29.0), [0.0, 1.0]),
        (CaptionLaw(law="softmax", threshold=99.0), [0.0, 1.0]),
        (CaptionLaw(law="uniform"), [0.5, 0.5]),
    ],
)
def test_captions_are_drawn_by_the_stated_law(law, expected):
    np.testing.assert_allclose(probabilities(law, (28.0, 30.0), 2), expected, atol=1e-4)
    drawn = [choose(law, ("a", "b"), (28.0, 30.0), [0, n]) for n in range(2000)]
    assert np.mean(drawn) == pytest.approx(expected[1], abs=0.04)


def test_a_caption_at_the_threshold_is_used():
    law = CaptionLaw(law="uniform", threshold=28.0)
    np.testing.assert_allclose(probabilities(law, (28.0, 30.0, 27.0), 3), [0.5, 0.5, 0])


def test_a_caption_without_score_counts_as_the_lowest():
    law = CaptionLaw(law="softmax", temperature=1.0)
    np.testing.assert_allclose(
        probabilities(law, (float("nan"), 1.0, 2.0), 3)[:2], [0.2119, 0.2119], atol=1e-3
    )
    np.testing.assert_allclose(probabilities(law, (), 4), [0.25] * 4)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    for n in range(60):
        width, height = ((64, 64), (96, 48), (48, 96))[n % 3]
        write(folder, f"{n:03d}.png", picture(width, height, seed=n), f"caption {n}\nother {n}")
    return Index(build(folder))


def dataset(index, ranks=1, rank=0, seed=3, first_step=0, **changes):
    config = PictureLoaderConfig(
        **{"pictures_per_step": 8, "resolutions": (64,), "workers": 0, "drop_text": 0.3, **changes}
    )
    return PictureDataset(
        index,
        config,
        multiple=16,
        shape=lambda w, h: (1, 4, h // 8, w // 8),
        seed=seed,
        rank=rank,
        ranks=ranks,
        first_step=first_step,
    )


def captions(batch):
    return [prompt.text for prompt in batch.prompts]


def by_caption(data):
    rows = [
        row
        for d in data
        for b in d.batches
        for row in zip(b.noise, captions(b), b.pixels, b.drop_text, strict=True)
    ]
    return sorted(
        (float(noise.sum()), caption, int(pixels.sum()), bool(dropped))
        for noise, caption, pixels, dropped in rows
    )


@pytest.mark.parametrize(("ranks", "accumulate", "workers"), [(2, 1, 0), (4, 2, 0), (1, 4, 0), (1, 1, 2)])
def test_a_step_holds_the_same_pictures_for_any_ranks_accumulation_and_workers(
    collection, ranks, accumulate, workers
):
    alone = dataset(collection)
    for step in (0, 5, 11):
        parts = [
            next(
                iter(
                    dataset(collection, ranks, rank, accumulate=accumulate, workers=workers).steps(
                        step, step + 1
                    )
                )
            )
            for rank in range(ranks)
        ]
        assert by_caption(parts) == by_caption([alone[step]])
        assert all(len(part.batches) == accumulate for part in parts)


def test_captions_are_dropped_as_often_as_asked_and_both_are_used(collection):
    data = dataset(collection, pictures_per_step=4)
    batches = [b for step in range(200) for b in data[step].batches]
    assert torch.cat([b.drop_text for b in batches]).float().mean() == pytest.approx(0.3, abs=0.06)
    assert {c.split()[0] for b in batches for c in captions(b)} == {"caption", "other"}


def test_every_sample_has_noise_of_its_own_and_every_run(collection):
    data = dataset(collection)
    levels = torch.cat([b.level for step in range(40) for b in data[step].batches])
    assert len(levels.unique()) == len(levels)
    assert not torch.equal(dataset(collection, seed=4)[0].batches[0].level, data[0].batches[0].level)
    drops = [
        torch.cat([dataset(collection, seed=seed)[step].batches[0].drop_text for step in range(12)])
        for seed in (3, 4)
    ]
    assert not torch.equal(*drops)


def test_an_epoch_may_choose_another_caption_than_the_one_before(collection):
    data = dataset(collection)
    used: dict[str, set[str]] = {}
    for step in range(data.plan.steps_per_epoch * 6):
        for caption in captions(data[step].batches[0]):
            used.setdefault(caption.split()[1], set()).add(caption)
    assert np.mean([len(found) == 2 for found in used.values()]) > 0.8


def test_pictures_of_one_epoch_choose_their_captions_apart(collection):
    data = dataset(collection)
    kinds = [data.sample(n, Bucket(64, 64), 0, 0).prompts[0].text.split()[0] for n in range(30)]
    assert 5 < kinds.count("other") < 25


def test_a_stage_begins_its_pictures_anew_with_noise_of_its_own(collection):
    first, later = dataset(collection)[0].batches[0], dataset(collection, first_step=5)[5].batches[0]
    assert sorted(int(p.sum()) for p in first.pixels) == sorted(int(p.sum()) for p in later.pixels)
    assert not torch.equal(first.level, later.level)


def test_validation_pictures_are_never_trained_on(collection):
    data = dataset(collection, validation=0.3)
    held = {row.captions[0] for row in collection.rows if is_validation(row.sha256, 0.3)}
    assert 5 < len(held) < 35
    seen = {c for step in range(60) for b in data[step].batches for c in captions(b)}
    assert not held & seen


def test_which_pictures_are_held_is_a_fixed_law_of_their_checksums():
    # another law would train a run that goes on on the pictures that it was validated on
    assert is_validation("0" * 24, 0.001)
    assert not is_validation("f" * 24, 0.999)
    assert not is_validation("0" * 24, 0.0)
    assert is_validation("7fffffff" + "0" * 16, 0.5)
    assert not is_validation("80000000" + "0" * 16, 0.5)


def test_a_picture_that_breaks_after_indexing_is_named_and_left_out(tmp_path):
    for n in range(8):
        write(tmp_path, f"{n}.png", picture(64, 64, seed=n), f"{n}")
    index = Index(build(tmp_path))
    (tmp_path / "3.png").write_bytes(b"broken")
    step = dataset(index, validation=0.0)[0]
    assert [len(b) for b in step.batches] == [7]
    assert step.bad[0].startswith("3.png: ")


def test_targets_do_not_depend_on_the_batch_that_they_were_encoded_in():
    """Nor do their strides, by which kernels that read them choose an order of summation."""

    class Strided:
        def encode(self, pixels):
            assert pixels.is_contiguous()
            assert len(pixels) == 1
            return pixels.float().permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)

    pixels = torch.randint(0, 255, (3, 1, 4, 6, 3), dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    target = encoded(Strided(), pixels)
    assert target.is_contiguous()
    assert torch.equal(target[1:2], encoded(Strided(), pixels[1:2]))


def test_targets_are_in_the_spaces_own_precision_within_a_step_of_less():
    class Linear:
        def encode(self, pixels):
            return torch.nn.functional.linear(pixels.float(), torch.full((2, 3), 1 / 3))

    pixels = torch.randint(0, 255, (1, 1, 3, 2, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoded(Linear(), pixels)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, encoded(Linear(), pixels))


def test_ranks_that_do_not_split_a_step_are_an_error(collection):
    with pytest.raises(ValueError, match="8 does not split over 3 ranks"):
        dataset(collection, ranks=3)


def test_noise_is_that_of_the_picture_and_not_of_its_neighbours(collection):
    one, four = dataset(collection, accumulate=1)[2].batches, dataset(collection, accumulate=4)[2].batches
    assert torch.equal(torch.sort(one[0].level).values, torch.sort(torch.cat([b.level for b in four])).values)


def test_a_rank_whose_only_picture_breaks_still_has_a_batch_that_weighs_nothing(tmp_path):
    for n in range(4):
        write(tmp_path, f"{n}.png", picture(64, 64, seed=n), f"{n}")
    index = Index(build(tmp_path))
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(b"broken")
    steps = [dataset(index, ranks=4, rank=r, pictures_per_step=4, validation=0.0)[0] for r in range(4)]
    assert all(len(step.batches) == 1 and step.batches[0].weight.tolist() == [0.0] for step in steps)
    assert sum(len(step.bad) for step in steps) == 4
