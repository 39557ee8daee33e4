"""Instruction sets: which prompts are drawn, by whom, and what is recorded."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.curation import instruct
from diptych.curation.engine import curate
from diptych.curation.instruct import Instructions, InstructSource, Known, _pixels
from diptych.curation.pool import Here
from diptych.curation.probe import Probe
from diptych.curation.read import open_source
from diptych.curation.recipes import Recipe
from diptych.files.typed import to_json

PROMPTS = [
    ("animals", "a cat sleeping on a red sofa"),
    ("animals", "two dogs running through tall grass"),
    ("animals", "an owl at night"),
    ("text", "a sign that says open"),
    ("text", "a neon sign with the word jazz"),
    ("text", "A photo of a TRAFFIC light!"),
]


@pytest.fixture
def told(tmp_path) -> Path:
    rows = [json.dumps({"prompt": prompt, "category": name}) for name, prompt in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "evaluation.txt").write_text("a photo of a traffic light\na dog and two cats\n")
    path = tmp_path / "set.json"
    return written(path)


def written(path: Path, drawer: dict | None = None, **changes) -> Path:
    values = {
        "prompts": "prompts.jsonl",
        "exclude": ["evaluation.txt"],
        "drawer": drawer or {"model": "default", "licence": "CC0-1.0", "price": 0.25},
        **changes,
    }
    path.write_text(json.dumps(values))
    return path


class _Painter:
    """Draws the length of the prompt, and fails at owls."""

    tokens = 7

    def __init__(self, *_) -> None:
        self.drawn: list[str] = []

    def draw(self, prompt: str, seed: int) -> np.ndarray:
        if "owl" in prompt:
            raise instruct.NoAnswer("HTTP 400", again=False)
        self.drawn.append(prompt)
        return np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def run(path: Path, out: Path):
    recipe = Recipe("test", {}, [Probe(min_side=1, min_sharpness=None)])
    return curate(recipe, path, out, Here(out))


def test_categories_are_balanced_and_evaluations_left_out(told):
    chosen = [one for unit in InstructSource(told).units() for one in unit.asked]
    refused = [one.prompt for one in chosen if one.problem]
    assert refused == ["A photo of a TRAFFIC light!"]
    drawn = [one.category for one in chosen if not one.problem]
    assert sorted(drawn) == ["animals", "animals", "text", "text"]


def test_each_prompt_ends_in_one_outcome_with_cost_licence_and_drawer_recorded(told, tmp_path, monkeypatch):
    monkeypatch.setattr(instruct, "_Ours", _Painter)
    path = written(told, exclude=["evaluation.txt"], seed=3)
    found = run(path, tmp_path / "out")
    outcomes = found.view().strings("problem").tolist()
    chosen = [one.prompt for unit in InstructSource(path).units() for one in unit.asked]
    expected = ["a prompt of an evaluation"] + [
        "not drawn: HTTP 400" if "owl" in prompt else "" for prompt in chosen[1:]
    ]
    assert outcomes == expected
    (store,) = (tmp_path / "out" / "fetched").iterdir()
    with tarfile.open(store) as tar:
        record = json.loads(tar.extractfile("told.json").read())
    drawn = outcomes.count("")
    assert (record["licence"], record["drawn"], record["cost"]) == ("CC0-1.0", drawn, drawn * 0.25)
    assert record["tokens"] == 7


def test_nothing_is_drawn_twice(told, tmp_path, monkeypatch):
    monkeypatch.setattr(instruct, "_Ours", _Painter)
    run(told, tmp_path / "out")
    monkeypatch.setattr(instruct, "_Ours", lambda *_: pytest.fail("drawn again"))
    assert run(told, tmp_path / "out").decisions()[1].counts[-1].kept >= 3


def test_a_model_of_ours_draws(told, tmp_path):
    path = written(told, per_category=1)
    out = tmp_path / "out"
    recipe = Recipe("test", {}, [Probe(min_side=1, min_sharpness=None, max_solid=None)])
    made = curate(recipe, path, out, Here(out, "diptych.systems.registry:open_ours"))
    assert made.decisions()[1].counts[-1].kept == 2
    assert isinstance(open_source(path), InstructSource)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("A photo of a Traffic Light.", "a prompt of an evaluation"),
        ("the traffic light", "a prompt of an evaluation"),
        ("two cats and a dog, photo", "near a prompt of an evaluation"),
        ("two cats and a dog in a boat on the sea", ""),
        ("an owl", ""),
    ],
)
def test_a_prompt_near_an_evaluations_is_known_in_other_words(prompt, said):
    known = Known(["a photo of a traffic light", "a dog and two cats"])
    assert known.says(prompt, 0.7) == said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"drawer": {"model": "default"}}, "licence says how"),
        ({"drawer": {"licence": "x"}}, "give either model or url"),
        ({"drawer": {"url": "host", "served": "y", "licence": "x"}}, "'host' is no address of a server"),
        ({"per_category": 3}, "per_category is 3, and 'text' has 2 prompts"),
        ({"prompts": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"exclude": ["nowhere.txt"]}, "nowhere.txt: no such file"),
        ({"nearnes": 0.5}, "unknown key 'nearnes' .nearest: 'nearness'"),
    ],
)
def test_settings_that_cannot_be_are_told_with_their_place(told, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        InstructSource(written(told, **changes)).units()


def test_a_line_that_is_no_prompt_is_told_with_its_number(told):
    (told.parent / "prompts.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": 3}\n')
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: 'prompt' and 'category' must be texts"):
        InstructSource(told).units()


def test_a_servers_answer_is_read_as_a_picture_or_refused():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    coded = base64.b64encode(file.getvalue()).decode()
    pixels, tokens = _pixels({"data": [{"b64_json": coded}], "usage": {"total_tokens": 5}})
    assert pixels.shape == (8, 8, 3)
    assert tokens == 5
    for wrong in ({"data": [{"b64_json": "***"}]}, {"data": [{"b64_json": base64.b64encode(b"x").decode()}]}):
        with pytest.raises(ValueError, match=r"base64|not a readable picture"):
            _pixels(wrong)


def test_instructions_are_read_back_as_they_were_written(told):
    source = InstructSource(told)
    told.write_text(to_json(source.told))
    assert InstructSource(told).told == source.told
    assert isinstance(source.told, Instructions)
