"""Stages with models: vectors, alignment, heads, judges."""

from __future__ import annotations

import json
from pathlib import Path

import judges
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from diptych.curation.align import Alignment, Verify, parts
from diptych.curation.decode import Seen
from diptych.curation.embed import Embed, Encoder, model_hash, open_encoder
from diptych.curation.engine import Run, curate
from diptych.curation.heads import Head, Layers
from diptych.curation.pool import Here
from diptych.curation.probe import Probe
from diptych.curation.recipes import Recipe
from diptych.curation.stage import Batch, Shared, StopRun
from diptych.inference.verifiers import load_verifier


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return judges.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "heap"
    folder.mkdir()
    for n in range(12):
        pixels = np.random.default_rng(n).integers(0, 255, (70 + n, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:02d}.png")
        (folder / f"{n:02d}.txt").write_text(f"a cat number {n}\nanother red heart")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def seen(width: int = 90, height: int = 60) -> Seen:
    import io

    file = io.BytesIO()
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return Seen(file.getvalue())


def stages(encoder: Path, **alignment):
    return [
        Probe(min_side=1, min_sharpness=None),
        Embed(folder=str(encoder)),
        Alignment(folder=str(encoder), **alignment),
    ]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [(90, 60), (33, 200), (32, 32), (400, 31)])
def test_a_picture_is_prepared_as_the_models_own_processor_does(kind, size, tmp_path):
    folder = getattr(judges, kind)(tmp_path)
    made = Encoder(str(folder), "cpu")
    picture = seen(*size)
    own = made.model.processor(images=[Image.fromarray(picture.pixels)], return_tensors="pt")["pixel_values"]
    ours = made.prepare.values([made.prepare.pixels(picture)])
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=0)


def test_a_score_is_the_cosine_that_the_verifier_gives(encoder):
    made, picture = open_encoder(Shared(), str(encoder), "cpu"), seen()
    vector = made.pictures([made.prepare.pixels(picture)])[0]
    expected = load_verifier(f"clip:{encoder}", None).score("a red heart", [picture.pixels])[0]
    assert float(made.texts(["a red heart"])[0] @ vector) == pytest.approx(expected, abs=1e-5)


def test_a_run_stores_unit_vectors_and_a_score_for_each_caption(encoder, source, tmp_path):
    run = curate(Recipe("test", {}, stages(encoder)), source, tmp_path / "out", Here())
    view = run.view()
    vectors = np.concatenate([found[there] for _, found, there in view.vectors("embed.vector")])
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=2e-3)
    offsets, scores = view.lists("alignment.scores")
    assert sorted(set(np.diff(offsets).tolist())) == [0, 2]
    best = view["alignment.best"]
    np.testing.assert_allclose(best[~np.isnan(best)], scores.reshape(-1, 2).max(1))


def test_a_threshold_and_a_share_decide_without_the_model(encoder, source, tmp_path, monkeypatch):
    curate(Recipe("test", {}, stages(encoder)), source, tmp_path / "out", Here())
    monkeypatch.setattr(Encoder, "__init__", lambda *_: pytest.fail("the model was loaded"))
    run = curate(Recipe("test", {}, stages(encoder, share=0.5)), source, tmp_path / "out", Here())
    _, made = run.decisions()
    assert made.counts[-1].kept == 7, "half of twelve, and the one at the limit"
    assert made.counts[-1].dropped == {"wrong caption": 5}


def test_the_identity_is_what_the_model_holds_and_not_where_it_lies(encoder, tmp_path):
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(encoder, moved)
    assert Embed(folder=str(moved)).identity() == Embed(folder=str(encoder)).identity()
    path = moved / "processor_config.json"
    path = path if path.is_file() else moved / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.26862954", "0.5"))
    assert Embed(folder=str(moved)).identity() != Embed(folder=str(encoder)).identity()
    # asked of a run that was made by the other model, it is another model
    assert Embed(folder=str(moved)).settings() != Embed(folder=str(encoder)).settings()


def test_a_long_caption_is_read_in_parts_that_lose_no_word(encoder):
    made = open_encoder(Shared(), str(encoder), "cpu")
    text = "A red heart above a cat. " * 6 + "and" + " blue circle" * 30 + ". The end!"
    found = parts(text, made)
    assert len(found) > 2
    assert all(made.tokens(part) <= made.longest for part in found)
    assert " ".join(found).split() == text.split()
    assert parts("a cat", made) == ["a cat"]


def test_a_wrong_sentence_far_behind_lowers_a_long_captions_score(encoder):
    made = open_encoder(Shared(), str(encoder), "cpu")
    texts = ["a red heart above a blue circle and a cat.", "Yes No USER ASSISTANT question answer picture."]
    vectors = made.texts(texts)
    # a picture's vector that is the first sentence's own
    batch = Batch(["x"], {"captions": [(" ".join(texts * 2), texts[0])], "embed.vector": [half(vectors[0])]})
    long, short = Alignment(folder=str(encoder)).compute(batch, made)["scores"][0]
    assert short == pytest.approx(1, abs=1e-2)
    assert long < short


def half(vector: np.ndarray) -> bytes:
    return vector.astype(np.float16).tobytes()


def test_vectors_of_another_model_stop_the_run(encoder):
    made = open_encoder(Shared(), str(encoder), "cpu")
    batch = Batch(["x"], {"captions": [("a cat",)], "embed.vector": [half(np.ones(7))]})
    with pytest.raises(StopRun, match="makes vectors of 24 numbers"):
        Alignment(folder=str(encoder)).compute(batch, made)


@pytest.mark.parametrize("stage", [Embed, Alignment, Head])
def test_a_model_folder_that_is_missing_is_told_before_anything_is_done(stage, source, tmp_path):
    with pytest.raises(ValueError, match=r"stage \w+: .*nowhere is neither a folder"):
        curate(
            Recipe("test", {}, [stage(folder=str(tmp_path / "nowhere"))]), source, tmp_path / "out", Here()
        )
    assert not (tmp_path / "out").exists()


def head(folder: Path, config: dict, **layers) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: np.asarray(value, np.float32) for name, value in layers.items()}, folder / "model.safetensors"
    )
    return folder


def test_a_head_is_its_layers_and_its_output(tmp_path):
    layers = {"0.weight": [[1, 0], [0, -1]], "0.bias": [0, 0.5], "1.weight": [[2, 3]], "1.bias": [1]}
    vectors = np.array([[0.6, 0.8], [-1, 0]], np.float32)
    plain = Layers(str(head(tmp_path / "plain", {}, **layers)))
    np.testing.assert_allclose(plain(vectors), [2 * 0.6 + 3 * (0.5 - 0.8) + 1, -2 + 1.5 + 1], rtol=1e-5)
    bent = Layers(str(head(tmp_path / "bent", {"between": "relu", "output": "sigmoid"}, **layers)))
    np.testing.assert_allclose(bent(vectors), 1 / (1 + np.exp([-2.2, -2.5])), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "layers", "said"),
    [
        ({"output": "softmax"}, {"0.weight": [[1, 2]], "0.bias": [0]}, "output one of none, sigmoid"),
        ({"hidden": 3}, {"0.weight": [[1, 2]], "0.bias": [0]}, "unknown key 'hidden'"),
        ({}, {"0.weight": [[1, 2], [3, 4]], "0.bias": [0, 0]}, "ends in one number"),
        ({}, {"0.weight": [[1, 2]], "0.bias": [0, 1]}, "layer 0 is"),
        ({}, {"layer.weight": [[1, 2]], "layer.bias": [0]}, "layers must be 0.weight"),
    ],
)
def test_a_head_that_is_none_is_refused_with_its_file(config, layers, said, tmp_path):
    folder = head(tmp_path / "head", config, **layers)
    with pytest.raises(ValueError, match=said) as error:
        Head(folder=str(folder)).check()
    assert str(folder) in str(error.value)


def test_a_head_drops_on_either_side_and_refuses_vectors_of_another_encoder(encoder, source, tmp_path):
    rising = head(tmp_path / "rising", {}, **{"0.weight": [[1] + [0] * 23], "0.bias": [0]})
    embed = Embed(folder=str(encoder))
    first = curate(
        Recipe("test", {}, [embed, Head(name="aesthetic", folder=str(rising))]),
        source,
        tmp_path / "out",
        Here(),
    )
    scores = np.sort(first.view()["aesthetic.score"])[:12]
    both = Head(name="aesthetic", folder=str(rising), min=float(scores[3]), max=float(scores[9]))
    run = curate(Recipe("test", {}, [embed, both]), source, tmp_path / "out", Here())
    assert run.decisions()[1].counts[-1].dropped == {"aesthetic too low": 3, "aesthetic too high": 2}
    other = head(tmp_path / "other", {}, **{"0.weight": [[1, 2]], "0.bias": [0]})
    with pytest.raises(ValueError, match="made for another encoder"):
        curate(Recipe("test", {}, [embed, Head(folder=str(other))]), source, tmp_path / "out", Here())


class _Asked:
    """A judge that counts its questions, and says yes to even numbers."""

    name = "asked"

    def __init__(self) -> None:
        self.asked = 0

    def score(self, prompt, pictures):
        self.asked += 1
        return [1.0 if prompt.startswith("a cat") and int(prompt.split()[-1]) % 2 == 0 else -1.0]


def test_a_judge_is_asked_only_about_rows_that_are_left(encoder, source, tmp_path, monkeypatch):
    judge = _Asked()
    monkeypatch.setattr(Verify, "load", lambda self, shared: judge)
    told = [Probe(min_side=76, min_sharpness=None), Verify(judge_model=f"clip:{encoder}", min=0.0)]
    run = curate(Recipe("test", {}, told), source, tmp_path / "out", Here())
    assert judge.asked == 12, "six pictures are large enough, and each has two captions"
    assert run.decisions()[1].counts[-1].dropped == {"wrong caption": 3}


def test_a_model_of_ours_may_judge(tmp_path):
    shared = Shared(tmp_path, "diptych.systems.registry:open_ours")
    judge = Verify(judge_model="vlm:default")
    judge.check()
    pixels = np.full((64, 64, 3), 255, np.uint8)
    assert np.isfinite(judge.load(shared).score("a cat", [pixels])).all()


def test_the_same_model_is_loaded_once_for_all_stages(encoder):
    shared = Shared()
    embed, align = Embed(folder=str(encoder)), Alignment(folder=str(encoder))
    assert embed.load(shared) is align.load(shared)
    assert model_hash(str(encoder)) == embed.model()


def test_a_run_is_opened_again_with_its_models(encoder, source, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from diptych.curation.embed import Embed\n"
        f"def own(folder: str = {str(encoder)!r}):\n    return [Embed(folder=folder)]\n"
    )
    recipe = Recipe.load(f"{tmp_path / 'mine.py'}:own")
    curate(recipe, source, tmp_path / "out", Here())
    other = judges.siglip(tmp_path / "siglip")
    assert Run.open(tmp_path / "out").decisions()[1].counts[-1].kept == 12
    with pytest.raises(ValueError, match="changes what the stage embed computes"):
        Run.open(tmp_path / "out", {"embed.folder": str(other)}).decisions()
