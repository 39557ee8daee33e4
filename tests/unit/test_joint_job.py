"""The joint job: where its model, its words and its samples come from, and what it writes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from safetensors.torch import load_file, save_file

from diptych import surgery
from diptych.data.conversations.loader import LoaderConfig
from diptych.data.conversations.tokens import TextTokenizer
from diptych.files.folder import ModelFolderError
from diptych.flow import FlowConfig
from diptych.models.mot import Experts, MoT
from diptych.systems.u1 import sources
from diptych.systems.u1.config import Stage, TrainConfig
from diptych.systems.u1.job import JointJob, export, learns, make_job
from diptych.systems.u1.probe import probe
from diptych.systems.u1.recipes import RECIPES
from diptych.systems.u1.system import U1System
from diptych.training.export import OPTIMISER
from diptych.training.parallel import fill
from diptych.worlds.emoji import WorldConfig


def unused(name: str):
    raise AssertionError(f"{name} was opened")


def config(tmp_path: Path, **changes: object) -> TrainConfig:
    """A run on one's own file alone."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "cat.png")
    turns = [{"from": "human", "value": "a cat"}, {"from": "gpt", "value": "<image>"}]
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"conversations": turns, "image": "cat.png"}) + "\n")
    base = TrainConfig(
        name="toy",
        model=replace(TINY, vocab_size=300),
        world=WorldConfig(size=96),
        jsonl=(str(path),),
        stages=(Stage(name="one", steps=2, mixture={"mine": 1.0}),),
        data=LoaderConfig(documents_per_step=2, row_tokens=64, workers=0),
        bf16=False,
    )
    return replace(base, **changes)


@pytest.fixture
def start(tmp_path: Path, tokenizer: TextTokenizer) -> Path:
    """A small model to start from, deeper than the config's."""
    model = MoT(replace(TINY, vocab_size=tokenizer.vocab_size, depth=3))
    model.initialise(torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(6)
    torch.nn.init.normal_(model.pixel_head.second.weight, std=0.1, generator=generator)
    U1System(model, tokenizer, FlowConfig(), 32, {"name": "first"}).save(tmp_path / "start")
    return tmp_path / "start"


def materialised(job: JointJob) -> JointJob:
    assert all(p.is_meta for p in job.model.parameters())
    job.task.to_empty(device="cpu")
    fill(job.model, job.starting_values())
    return job


def test_a_run_from_scratch_learns_its_words_and_begins_from_its_seed(world, tmp_path):
    stages = (Stage(name="one", steps=1, mixture={"generate": 1.0}),)
    fresh = config(tmp_path, seed=3, jsonl=(), stages=stages)
    job = materialised(make_job(fresh, tmp_path / "run", unused))
    assert job.parent is None
    assert job.config.model == replace(TINY, vocab_size=job.tokenizer.vocab_size)
    expected = MoT(job.config.model)
    expected.initialise(torch.Generator().manual_seed(3))
    for (name, ours), theirs in zip(job.model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    (tmp_path / "run").mkdir()
    job.prepare(tmp_path / "run")
    again = make_job(fresh, tmp_path / "run", unused)
    assert again.tokenizer.encode("two hearts") == job.tokenizer.encode("two hearts")


def test_a_run_that_starts_from_a_model_has_its_sizes_words_and_weights(start, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "EmojiWorld", unused)
    save_file({"0|embedding.weight|step": torch.ones(1)}, start / OPTIMISER)
    job = materialised(make_job(config(tmp_path, start=str(start)), tmp_path / "run", unused))
    model = U1System.load(start)
    assert job.config.model == model.model.config
    assert job.parent["name"] == "first"
    assert set(job.optimiser_state()) == {"0|embedding.weight|step"}
    for (name, ours), theirs in zip(job.model.named_parameters(), model.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    batch = job.dataset(job.config.stages[0], 0, 1)[0].batches[0]
    assert batch.noisy_task == ("generate", "generate")
    losses = job.task(batch)
    assert losses.by_kind(batch)["flow/generate"] == losses.flow_pictures.tolist()
    (start / "config.json").write_text("{}")
    with pytest.raises(ModelFolderError, match="family None"):
        make_job(config(tmp_path, start=str(start)), tmp_path / "run", unused)


def test_adapters_alone_learn_and_are_merged_at_export(start, tmp_path):
    stages = (Stage(name="one", steps=2, mixture={"mine": 1.0}, trainable="lora"),)
    chosen = config(tmp_path, start=str(start), lora_rank=2, stages=stages)
    job = materialised(make_job(chosen, tmp_path / "run", unused))
    learning = [name for name, _ in job.model.named_parameters() if job.learns(name, stages[0])]
    assert learning
    assert all("lora_" in name for name in learning)
    assert job.optimiser_state() == {}
    for name, parameter in job.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    about = {"name": "toy", "steps": 2, "recipe": {}, "parents": [{"name": "first"}]}
    system = export(job, about, tmp_path / "out")
    assert system.card["documents"] == 4
    assert system.card["data"] == str(tmp_path / "mine.jsonl")
    assert "licence" not in system.card
    adapters = load_file(tmp_path / "out-lora.safetensors")
    assert adapters["base_model.model.blocks.0.und.q.lora_A.weight"].shape == (2, TINY.width)
    batch = job.dataset(stages[0], 0, 1)[0].batches[0]
    expected = job.task(batch).sums["flow"]
    merged = surgery.merge_lora(job.model)
    job.task.model = merged
    torch.testing.assert_close(job.task(batch).sums["flow"], expected, rtol=1e-5, atol=1e-5)
    saved = U1System.load(tmp_path / "out").model.state_dict()
    for name, tensor in merged.state_dict().items():
        assert torch.equal(saved[name], tensor.half().float()), name


def test_what_belongs_to_a_stream_is_told_by_the_model_alone(monkeypatch):
    streams = {"understanding": (".und.",), "generation": ("text_head",)}
    monkeypatch.setattr(MoT, "facts", replace(MoT.facts, streams=streams))
    assert learns("text_head.weight", "generation")
    assert not learns("pixel_head.first.weight", "generation")


def test_what_learns_in_a_stage():
    und, gen, lora = (
        "blocks.0.und.q.weight",
        "pixel_head.first.weight",
        "blocks.0.und.q.lora_A.default.weight",
    )
    table = {"all": (True, True), "understanding": (True, False), "generation": (False, True)}
    for part, expected in table.items():
        assert (learns(und, part), learns(gen, part), learns(lora, part)) == (*expected, False)
    assert [learns(name, "lora") for name in (und, gen, lora)] == [False, False, True]


def test_settings_that_contradict_one_another_are_refused(tmp_path):
    lora = (Stage(name="one", steps=1, mixture={"mine": 1.0}, trainable="lora"),)
    for changes, message in (
        ({"mixture": {"generate": 1.0}}, "no mixture draws from 'mine'"),
        ({"text": (str(tmp_path / "mine.txt"),)}, "'mine' would name two sources"),
        ({"jsonl": (str(tmp_path / "edit.jsonl"),)}, "'edit' would name two sources"),
        ({"stages": lora}, "a stage trains 'lora', but lora_rank is 0"),
        ({"lora_rank": 4}, "lora_rank is 4, but no stage trains 'lora'"),
        ({"start": "default", "tokenizer": "words.json"}, "tokenizer is for a run from scratch"),
    ):
        with pytest.raises(ValueError, match=message):
            config(tmp_path, **changes)
    for name in ("text_weight", "flow_weight", "perceptual_weight"):
        with pytest.raises(ValueError, match=f"{name} must be 0 or above, got -1"):
            Stage(name="one", steps=1, mixture={}, **{name: -1.0})


def test_a_mixture_for_all_stages_and_sources_that_are_not_there(tmp_path, tokenizer):
    chosen = config(tmp_path, mixture={"mine": 0.5, "text": 0.5})
    assert chosen.shares(chosen.stages[0]) == {"mine": 0.5, "text": 0.5}
    with pytest.raises(ValueError, match="mixture names other, but the sources are clip, clip-control"):
        JointJob(config(tmp_path, mixture={"mine": 1.0, "other": 1.0}), sources.sources_of(chosen), tokenizer)
    (tmp_path / "mine.jsonl").unlink()
    job = JointJob(chosen, sources.sources_of(chosen), tokenizer)
    with pytest.raises(ValueError, match=r"mine\.jsonl: no such file"):
        job.dataset(chosen.stages[0], 0, 1)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_have_dials_that_resolve_to_a_model(name):
    recipe = RECIPES[name]
    jsonl = {"jsonl": ("drawn.jsonl",)} if name == "emoji-verifier" else {}
    small, large = (replace(recipe(size=size), **jsonl) for size in (2, 4))
    assert small.name == name
    assert (small.model.depth, large.model.depth) == (2, 4)
    assert large.model.width == 2 * small.model.width
    assert recipe(size=2, depth=5).model.depth == 5
    assert recipe.__doc__


def test_a_probe_counts_the_micro_batch_of_the_config(tmp_path):
    def kept(chosen: TrainConfig) -> int:
        made = probe(chosen)
        sizes = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[id(tensor.untyped_storage())] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = made.forward()
        assert loss.ndim == 0
        assert made.block_input % chosen.model.width == 0
        return sum(storage.nbytes() for storage in sizes.values())

    base = config(tmp_path, jsonl=(), mixture={"generate": 1.0})
    double = replace(base, data=replace(base.data, documents_per_step=4))
    assert kept(double) == pytest.approx(2 * kept(base), rel=0.25)
    assert kept(replace(double, data=replace(double.data, accumulate=2))) == pytest.approx(
        kept(base), rel=0.01
    )
    with pytest.raises(ValueError, match="experts"):
        probe(replace(base, model=replace(TINY, und_experts=Experts(count=2, per_token=1, width=8))))


def test_validation_takes_fixed_samples_and_noise(world, tmp_path, tokenizer):
    stages = (Stage(name="one", steps=1, mixture={"generate": 1.0}),)
    chosen = config(tmp_path, jsonl=(), stages=stages, data=LoaderConfig(documents_per_step=64, workers=0))
    model = replace(TINY, vocab_size=tokenizer.vocab_size)
    chosen = replace(chosen, model=model)
    opened = sources.sources_of(chosen)
    job = JointJob(chosen, opened, tokenizer, sources.kept_sources(chosen, opened))
    materialised(job)
    losses = job.validate(torch.device("cpu"))
    assert losses == job.validate(torch.device("cpu"))
    assert set(losses) == {"validation", "validation/flow"}
    assert np.isfinite(losses["validation"])
    assert JointJob(chosen, sources.sources_of(chosen), tokenizer).validate(torch.device("cpu")) == {}
