"""Noise and changed documents of every kind that others make: read, or refused by an error of ours.

`make test` tries the same few each time; `make test-hostile` 10,000 of each kind, from a seed that it prints.
"""

import io
import json
import os
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.captioned.cache import MANIFEST, TargetCache
from diptych.data.captioned.index import INDEX, Index, build
from diptych.data.conversations.readers import JsonlSource
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.prompts import read_prompts
from diptych.files.folder import card, locate
from diptych.files.lineage import lines
from diptych.files.weights import open_weights
from diptych.planning import Course, RulePlanner, settle, understood
from diptych.request import Plan, Task
from diptych.systems.registry import read_run, settings_of
from diptych.systems.sana.convert import read_checkpoint
from diptych.systems.sana.lora import read_lora
from diptych.systems.sana.lora import settings_of as lora_settings
from diptych.worlds.emoji import world_of
from hostile.corpus.pictures import encoded
from hostile.stock import LINE, Stock

ALL = bool(os.environ.get("DIPTYCH_HOSTILE"))
KINDS = 14
"""Tests here that are given examples; 200 in all for `make test`."""
EXAMPLES = 10_000 if ALL else -(-200 // KINDS)
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=not ALL,
    deadline=None,
    database=None,
    # folders of a test are used by all of its examples, each of which writes what it reads
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

texts = st.text(max_size=12) | st.sampled_from(
    ["", "\0", "\ud800", "../x", "/etc/passwd", "x" * 5000, "\x1b[31m", "<image>", "gpt", "1", "nan"]
)
numbers = (
    st.integers(-3, 3)
    | st.sampled_from([-(2**63), 2**31, 2**53 + 1, 2**64, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
)
odd = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def changed_values(draw, values):
    """A document with some of its values replaced, removed or added to."""
    values = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 3))):
        place, key = {"": values}, ""
        # a way down, which may end at any depth
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
            place = place[key]
            key = (
                draw(st.sampled_from(sorted(place)))
                if isinstance(place, dict)
                else draw(st.integers(0, len(place) - 1))
            )
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "remove" and key != "":
            del place[key]
        elif what == "add" and isinstance(place, dict) and key != "":
            place[draw(texts)] = draw(odd)
        else:
            place[key] = draw(odd)
        if key == "":
            values = place.get("", values)
    return values


@st.composite
def changed_bytes(draw, data):
    """Bytes with some flipped, cut out or put in; or noise."""
    if not draw(st.integers(0, 9)):
        return draw(st.binary(max_size=300))
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(made) - 1)))
        length = draw(st.integers(0, 16))
        made[at : at + length] = draw(st.binary(max_size=16))
    return bytes(made[: draw(st.integers(0, len(made)))] if not draw(st.integers(0, 3)) else made)


def documents(*values):
    """JSON files: changed documents, and changed bytes of them."""
    each = [changed_values(value).map(as_json) | changed_bytes(as_json(value)) for value in values]
    return st.one_of(each)


def as_json(value: object) -> bytes:
    # a lone surrogate is written as its number, as other writers do
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    return Stock((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "stock")


def replaced(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def skeleton(source: Path, target: Path) -> Path:
    """The JSON of a model folder, without weights."""
    for path in source.rglob("*.json"):
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.relative_to(source))
    return target


DEFAULT = json.loads((locate(None) / "config.json").read_text())
CARD = json.loads((locate(None) / "card.json").read_text())


@fuzzed
@given(data=st.data())
def test_configs_of_our_folders(data, tmp_path, stock):
    name = data.draw(st.sampled_from(["joint", "drawn"]))
    folder = tmp_path / name
    if not folder.exists():
        skeleton(stock[name], folder)
    config = data.draw(documents(json.loads((stock[name] / "config.json").read_text())))
    replaced(folder / "config.json", config)
    with suppress(ValueError):
        settings_of(folder)


@fuzzed
@given(data=st.data())
def test_configs_of_published_folders(data, tmp_path, stock):
    names = [
        "model_index.json",
        "transformer/config.json",
        "scheduler/scheduler_config.json",
        "vae/config.json",
    ]
    name = data.draw(st.sampled_from(names))
    folder = tmp_path / "published"
    if not folder.exists():
        skeleton(stock["published"], folder)
    good = (stock["published"] / name).read_bytes()
    replaced(folder / name, data.draw(documents(json.loads(good))))
    try:
        with suppress(ValueError):
            settings_of(folder)
    finally:
        (folder / name).write_bytes(good)


@fuzzed
@given(data=st.data())
def test_configs_of_runs(data, tmp_path, stock):
    name = data.draw(st.sampled_from(["joint_run", "drawn_run"]))
    config = json.loads((stock[name] / "config.json").read_text())
    replaced(tmp_path / "config.json", data.draw(documents(config)))
    with suppress(ValueError):
        read_run(tmp_path)


@fuzzed
@given(documents(CARD, {"name": "a", "parents": [{"name": "b", "parents": ["c"]}], "sha256": {"a": "0"}}))
def test_cards(tmp_path, text):
    replaced(tmp_path / "card.json", text)
    (tmp_path / "model.safetensors").touch()
    with suppress(ValueError):
        told = card(tmp_path)
        assert all(isinstance(line, str) for _, line in lines(told))
        world_of(told)
    with suppress(ValueError):
        open_weights(tmp_path)


@fuzzed
@given(documents(json.loads(Plan(task=Task.EDIT, prompt="a cat", width=96, height=96).to_json())))
def test_plans(text):
    with suppress(ValueError):
        plan = Plan.from_json(text.decode("utf-8", "surrogateescape"))
        assert plan.shown()
        settled = settle(plan, settings_of())
        assert Plan.from_json(settled.to_json()) == settled


WORDS = [
    "three pictures of a dog, 96x96, seed 7",
    "a wide cat in 5 steps with guidance 3.5 without hearts",
    "replace the heart by a 10 second clip, reference",
    "how many cats are there",
    "remove",
    "99999999999999999999",
    "0x0",
    "-1",
    "\ud800",
    "\u0301",
    "①",
    "٣",
]


@fuzzed
@given(
    st.lists(st.sampled_from(" ".join(WORDS).split()) | st.text(max_size=6), max_size=12), st.integers(0, 3)
)
def test_words_of_requests(words, pictures):
    with suppress(ValueError):
        course = understood(settings_of(), " ".join(words), pictures, planner=RulePlanner())
        assert Course.from_json(course.to_json()) == course


LINES = [
    LINE,
    {
        "conversations": [{"from": "human", "value": "<image> x"}, {"from": "gpt", "value": "y"}],
        "image": "a.png",
    },
    {"conversations": [{"from": "human", "value": "<image><image>"}], "image": ["a.png", "b.avif"]},
]


@fuzzed
@given(st.lists(documents(*LINES), min_size=1, max_size=3))
def test_lines_of_conversations(tmp_path, rows):
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        (tmp_path / "b.avif").write_bytes(b"\0\0\0\x1cftypavif" + bytes(50))
    path = replaced(tmp_path / "lines.jsonl", b"\n".join(rows))
    with suppress(ValueError):
        source = JsonlSource(path, seed=0, sizes=lambda pixels, **_: pixels)
        for number in range(len(source)):
            # a bad one is an error of ours too, and ends no other
            with suppress(ValueError):
                assert source.read(number).turns


@fuzzed
@given(st.lists(documents({"prompt": "a cat"}, {"caption": "a"}, {"text": "b"}), min_size=1, max_size=3))
def test_files_of_prompts(tmp_path, rows):
    for name in ("a.jsonl", "a.txt"):
        path = replaced(tmp_path / name, b"\n".join(rows))
        with suppress(ValueError):
            assert all(read_prompts(path, 5))


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (
            ("a.png", encoded("PNG", Image.new("RGB", (8, 8)))),
            ("a.json", b'{"prompt": "a cat", "captions": ["b", 5]}'),
            ("deep/" * 30 + "b.txt", b"a long name"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def indexed(folder: Path) -> None:
    """Whatever is in it: an index, whose rows are pictures or have a reason."""
    with suppress(ValueError):
        index = Index(build(folder))
        assert all(row.problem for row in index.problems)
        for number in range(len(index)):
            index.picture(number)
    shutil.rmtree(folder / f"{INDEX}.parts", ignore_errors=True)
    (folder / INDEX).unlink(missing_ok=True)


@fuzzed
@given(changed_bytes(_tar()), documents({"a": {"prompt": "x"}}), documents({"a": {"prompt": 0.5}}))
def test_tars_and_their_sidecars(tmp_path, tar, captions, scores):
    replaced(tmp_path / "0.tar", tar)
    replaced(tmp_path / "0_x.json", captions)
    replaced(tmp_path / "0_clip_score.json", scores)
    indexed(tmp_path)


@fuzzed
@given(
    st.lists(documents({"file_name": "a.png", "captions": ["x", "y"], "scores": [0.5, 1]}), max_size=3),
    changed_bytes(b'file_name,text\na.png,"a cat"\nb.png,b\n'),
    st.binary(max_size=30),
)
def test_listings_of_pictures(tmp_path, rows, table, caption):
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    replaced(tmp_path / "list.jsonl", b"\n".join(rows))
    replaced(tmp_path / "metadata.csv", table)
    replaced(tmp_path / "a.txt", caption)
    indexed(tmp_path)


@fuzzed
@given(data=st.data())
def test_manifests_of_caches(data, tmp_path, stock):
    folder = tmp_path / "cache"
    if not folder.exists():
        stock.put("cache", folder)
    good = json.loads((stock["cache"] / MANIFEST).read_text())
    replaced(folder / MANIFEST, data.draw(documents(good)))
    with suppress(ValueError):
        TargetCache(folder, good["space"], None)


@fuzzed
@given(data=st.data())
def test_headers_of_weights(data, tmp_path, stock):
    good = (stock["lora"]).read_bytes()
    path = replaced(tmp_path / "model.safetensors", data.draw(_headers(good) | changed_bytes(good)))
    with suppress(ValueError):
        weights = open_weights(tmp_path)
        weights.shapes()
        weights.all()
    with suppress(ValueError):
        read_lora(read_checkpoint(path), lora_settings(path))


def _headers(data: bytes):
    """Files whose header is a changed document, of the length that it says."""
    length = int.from_bytes(data[:8], "little")
    told = {
        **json.loads(data[8 : 8 + length]),
        "__metadata__": {
            "lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 4})
        },
    }
    return changed_values(told).map(
        lambda values: len(text := as_json(values)).to_bytes(8, "little") + text + data[8 + length :]
    )


@fuzzed
@given(
    documents({"r": 2, "lora_alpha": 4, "rank_pattern": {"to_q": 2}, "alpha_pattern": {}, "use_dora": False})
)
def test_settings_of_adapters(tmp_path, stock, text):
    path = tmp_path / "adapter_model.safetensors"
    if not path.exists():
        stock.put("lora", path)
    replaced(tmp_path / "adapter_config.json", text)
    with suppress(ValueError):
        lora_settings(path)


TOKENIZER = json.loads((locate(None) / "tokenizer.json").read_text())


@fuzzed
@given(documents(TOKENIZER))
def test_tokenizers(tmp_path, text):
    path = replaced(tmp_path / "tokenizer.json", text)
    with suppress(ValueError):
        TextTokenizer.load(path)


def test_as_many_kinds_as_the_examples_are_shared_among():
    kinds = [
        test for name, test in globals().items() if name.startswith("test_") and hasattr(test, "hypothesis")
    ]
    assert len(kinds) == KINDS
    assert ALL or 200 <= KINDS * EXAMPLES < 200 + KINDS
