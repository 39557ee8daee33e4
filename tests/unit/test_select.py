"""Best of N: each candidate scored once, ties, resumption, verifiers, refusals."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import judges
import numpy as np
import pytest
import torch
from published import pipeline as published_pipeline

import diptych
from diptych.contracts import VERIFY
from diptych.evaluation.best_of import curve
from diptych.inference import best_of, load_verifier
from diptych.inference import select as selecting
from diptych.inference.verifiers import scores
from diptych.request import Media, Message, RequestError
from diptych.systems.registry import open_ours
from diptych.systems.sana.system import SanaSystem

RED = np.full((96, 96, 3), (200, 30, 30), dtype=np.uint8)
BLUE = np.full((96, 96, 3), (30, 30, 200), dtype=np.uint8)


class Counting:
    """Scores a picture by its mean, and counts what it was asked."""

    name = "counting"

    def __init__(self, value=None) -> None:
        self.calls, self.value = 0, value

    def score(self, prompt, pictures):
        self.calls += len(pictures)
        return [float(p.mean()) if self.value is None else self.value for p in pictures]


@pytest.fixture(scope="module")
def pipeline():
    return diptych.load("default")


@pytest.fixture
def plan(pipeline):
    return pipeline.plan("a cat", steps=2, guidance_scale=1.0, seed=5)


def test_the_best_are_kept_and_each_is_scored_once(pipeline, plan, monkeypatch):
    monkeypatch.setattr(selecting, "BATCH", 4)
    verifier = Counting()
    best = best_of(pipeline.system, plan, verifier, 10, keep=3)
    assert verifier.calls == 10
    everything = best_of(pipeline.system, plan, Counting(), 10, keep=10)
    assert [c.score for c in everything] == sorted((c.score for c in everything), reverse=True)
    assert {c.seed for c in everything} == set(range(5, 15))
    assert [(c.seed, c.score) for c in best] == [(c.seed, c.score) for c in everything[:3]]
    one = best_of(pipeline.system, replace(plan, seed=best[0].seed), Counting(), 1)
    assert np.abs(one[0].pixels.astype(int) - best[0].pixels).max() <= 1


def test_ties_go_to_the_earlier_seed(pipeline, plan):
    assert [c.seed for c in best_of(pipeline.system, plan, Counting(1.0), 5, keep=3)] == [5, 6, 7]


def test_a_selection_goes_on_and_ends_the_same(pipeline, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(selecting, "BATCH", 3)
    straight = best_of(pipeline.system, plan, Counting(), 8, keep=4)

    class Stops(Counting):
        def score(self, prompt, pictures):
            if self.calls >= 4:
                raise KeyboardInterrupt
            return super().score(prompt, pictures)

    with pytest.raises(KeyboardInterrupt):
        best_of(pipeline.system, plan, Stops(), 8, keep=4, folder=tmp_path)
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"seed": 9, "sc')  # what a kill can leave
    verifier = Counting()
    resumed = best_of(pipeline.system, plan, verifier, 8, keep=4, folder=tmp_path)
    assert 0 < verifier.calls < 8
    assert [(c.seed, c.score) for c in resumed] == [(c.seed, c.score) for c in straight]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(resumed, straight, strict=True))
    verifier = Counting()
    best_of(pipeline.system, plan, verifier, 8, keep=4, folder=tmp_path)
    assert verifier.calls == 0
    more = best_of(
        pipeline.system, plan, Counting(), 9, keep=9, folder=tmp_path
    )  # the last batch is there in part
    assert {candidate.seed for candidate in more} == set(range(5, 14))
    with pytest.raises(RequestError, match="candidates of another request"):
        best_of(pipeline.system, replace(plan, prompt="a dog"), Counting(), 8, folder=tmp_path)


def test_candidates_take_no_place_among_other_files(pipeline, plan, tmp_path):
    for name in ("5.png", "scores.jsonl"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(RequestError, match="holds something else than candidates"):
            best_of(pipeline.system, plan, Counting(), 2, folder=folder)
        with pytest.raises(RequestError, match="holds something else than candidates"):
            best_of(pipeline.system, plan, Counting(), 2, folder=folder / name)
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("row", [b"{}", b"[5]", b'{"seed": "5", "score": 1.0}', b"\xff", b"[" * 100_000])
def test_scores_that_are_none_are_refused_by_file_and_line(row, pipeline, plan, tmp_path):
    best_of(pipeline.system, plan, Counting(), 1, folder=tmp_path)
    with (tmp_path / "scores.jsonl").open("ab") as file:
        file.write(row + b"\n")
    before = (tmp_path / "scores.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"scores\.jsonl.*choose another folder"):
        best_of(pipeline.system, plan, Counting(), 2, folder=tmp_path)
    assert (tmp_path / "scores.jsonl").read_bytes() == before


def test_a_selection_survives_a_kill(tmp_path):
    command = [
        sys.executable,
        "-m",
        "diptych.cli",
        "do",
        "a cat",
        "--best-of",
        "96",
        "--steps",
        "3",
        "--keep",
        "2",
        "--candidates",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    straight = subprocess.run(
        [*command, str(tmp_path / "a"), "-o", str(tmp_path / "a.png"), "--seed", "5"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    killed = subprocess.Popen(
        [*command, str(tmp_path / "b"), "-o", str(tmp_path / "b.png"), "--seed", "5"],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    saved = tmp_path / "b" / "scores.jsonl"
    while not (saved.is_file() and saved.read_text().endswith("\n")):
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = len(saved.read_text().splitlines())
    assert 0 < done < 96
    # it goes on with the seed that it was begun with
    again = subprocess.run(
        [*command, str(tmp_path / "b"), "-o", str(tmp_path / "b.png")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.replace("/b-", "/a-").split() == straight.stdout.split()
    for number in (0, 1):
        assert (tmp_path / f"a-{number}.png").read_bytes() == (tmp_path / f"b-{number}.png").read_bytes()


@pytest.mark.parametrize(
    ("count", "keep", "message"),
    [(0, 1, "got 0"), (10**6, 1, "got 1000000"), (4, 5, "keep must be 1 to 4"), (4, 0, "keep must be")],
)
def test_counts_that_cannot_be_are_refused(pipeline, plan, count, keep, message):
    with pytest.raises(RequestError, match=message):
        best_of(pipeline.system, plan, Counting(), count, keep)


def test_a_verifier_that_gives_no_number_is_refused(pipeline, plan):
    with pytest.raises(RequestError, match="gave NaN for picture 0"):
        best_of(pipeline.system, plan, Counting(math.nan), 2)

    class Short(Counting):
        def score(self, prompt, pictures):
            return [1.0]

    with pytest.raises(RequestError, match="gave 1 scores for 2 pictures"):
        scores(Short(), "a cat", [RED, BLUE])


def test_the_curve_is_the_mean_over_groups_of_the_best_by_each_judge():
    rows = [
        {
            "category": "one",
            "prompt": "a",
            "right": [1, 0, 0, 1],
            "scores": {"good": [2, 1, 0, 3], "bad": [0, 1, 2, 0], "blind": [1, 1, 1, 1]},
        },
        {
            "category": "two",
            "prompt": "b",
            "right": [0, 0, 0, 1],
            "scores": {"good": [0, 0, 0, 1], "bad": [1, 1, 1, 0], "blind": [1, 1, 1, 1]},
        },
    ]
    result = curve(rows)
    assert result.counts == (1, 2, 4)
    assert result.means == {
        "good": [0.375, 0.75, 1.0],
        "bad": [0.375, 0.0, 0.0],
        "blind": [0.375, 0.25, 0.5],
        "checker (bound)": [0.375, 0.75, 1.0],
    }


def test_the_model_is_asked_for_yes_or_no(pipeline, world):
    system = pipeline.system
    verifier = load_verifier("self", system)
    from diptych.worlds.emoji.captions import caption, sample_wanted
    from diptych.worlds.emoji.claims import spoiled

    rng = np.random.default_rng(3)
    right = []
    for category in ("single", "counting", "colours", "position") * 5:
        wanted = sample_wanted(world, category, rng)
        picture = world.render(world.scene_for(wanted, rng))
        true, false = (
            scores(verifier, caption(world, claim), [picture])[0]
            for claim in (wanted, spoiled(world, wanted, rng))
        )
        right.append(true > false)
    assert sum(right) >= 17
    # the answer in words and the log-odds agree
    question = [Message("user", VERIFY.format("a cat"), (Media.picture(RED),))]
    (odds,) = system.log_odds([question])
    assert (system.answers([question])[0] == "yes") == (odds > 0)
    together = system.log_odds(
        [
            question,
            [Message("user", "does this picture show two very red hearts?", (Media.picture(BLUE),))],
            question,
        ]
    )
    assert together[0] == pytest.approx(odds, abs=1e-3)
    with pytest.raises(ValueError, match="begin with the same token"):
        system.log_odds([question], "yes", "yes")


@pytest.mark.parametrize(("kind", "padding"), [("clip", True), ("siglip", "max_length")])
def test_similarities_are_the_models_own(tmp_path, kind, padding):
    from PIL import Image
    from transformers import AutoModel, AutoProcessor

    verifier = load_verifier(f"clip:{getattr(judges, kind)(tmp_path)}", None)
    ours = scores(verifier, "two red hearts", [RED, BLUE] * 9)
    model, processor = AutoModel.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    given = processor(
        text=["two red hearts"],
        images=[Image.fromarray(RED), Image.fromarray(BLUE)],
        return_tensors="pt",
        padding=padding,
    )
    with torch.inference_mode():
        bias = model.logit_bias if kind == "siglip" else 0.0
        expected = ((model(**given).logits_per_image[:, 0] - bias) / model.logit_scale.exp()).tolist()
    assert ours == pytest.approx(expected * 9, abs=1e-5)


def test_any_vision_language_model_is_asked_the_same(tmp_path):
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    verifier = load_verifier(f"vlm:{judges.vlm(tmp_path)}", None)
    ours = scores(verifier, "a cat", [RED, BLUE])
    assert ours[0] != ours[1]
    model, processor = (
        LlavaForConditionalGeneration.from_pretrained(tmp_path).eval(),
        AutoProcessor.from_pretrained(tmp_path),
    )
    given = processor(
        text="USER: <image>does this picture show a cat? Answer yes or no. ASSISTANT:",
        images=Image.fromarray(RED),
        return_tensors="pt",
    )
    with torch.inference_mode():
        chances = model(**given).logits[0, -1].softmax(-1)
    first = {
        word: processor.tokenizer(word, add_special_tokens=False)["input_ids"][0]
        for word in ("yes", "Yes", "no", "No")
    }
    yes, no = (sum(chances[token] for token in {first[w], first[w.capitalize()]}) for w in ("yes", "no"))
    assert ours[0] == pytest.approx(math.log(yes / no), abs=1e-4)


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path, monkeypatch):
    asked = []

    def refused(host, *_, **__):
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", refused)
    said = r"hf:nobody/nothing could not be loaded \(the hub does not give it, and it is not on this machine"
    with pytest.raises(RequestError, match=said):
        load_verifier("clip:hf:nobody/nothing", None)
    # here, and where it looks for what was fetched before
    assert len(asked) <= 2
    # what was fetched before is used
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(judges.clip(tmp_path)))
    assert load_verifier("clip:hf:nobody/nothing", None).score("a cat", [RED])


def test_verifiers_that_cannot_judge_are_refused(tmp_path, pipeline):
    for name in ("magic", "vlm", "vlm:", "self:x"):
        with pytest.raises(RequestError, match="there is no verifier"):
            load_verifier(name, pipeline.system)
    with pytest.raises(RequestError, match="could not be loaded"):
        load_verifier(f"clip:{tmp_path}", None)
    with pytest.raises(RequestError, match="no chat template"):
        load_verifier(f"vlm:{judges.vlm(tmp_path / 'plain', template=False)}", None)
    published_pipeline(tmp_path / "sana")
    blind = SanaSystem.load(tmp_path / "sana")
    with pytest.raises(RequestError, match="it cannot read pictures"):
        load_verifier("self", blind)
    assert load_verifier("vlm:default", blind, open_ours).score("a cat", [RED])
