"""Training what draws behind a language model, and the small models that make its spaces."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import squares
import torch
import torch.nn.functional as F

from diptych.encoders.contrastive import ContrastiveFeatures
from diptych.inference import Pipeline, draw
from diptych.models.contrastive import VisionConfig
from diptych.models.contrastive.model import contrast
from diptych.models.linear_dit import LinearDiTConfig
from diptych.optim.build import OptimConfig
from diptych.request import Message, Task
from diptych.spaces import load_space
from diptych.systems.blip3o import caches
from diptych.systems.blip3o.config import EVERYTHING, BlipStage, Latents, Words
from diptych.systems.blip3o.drawing_job import DrawingJob
from diptych.systems.blip3o.pictures import Squares
from diptych.systems.blip3o.recipes import RECIPES, SMALL_WORLD
from diptych.systems.blip3o.spaces import load_any
from diptych.systems.registry import FAMILIES, open_system, read_run
from diptych.training.export import export
from diptych.training.run import train
from diptych.training.trainer import Trainer

QUESTION = [Message("user", "how many cats are there?")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return squares.pictures(tmp_path_factory.mktemp("pictures"))


def tiny(name, pictures, steps=2, **more):
    """A recipe at toy size over an index of small squares."""
    config = RECIPES[name]()
    optim = OptimConfig(name="adamw", lr=1e-2, warmup=1)
    stages = tuple(replace(stage, steps=steps, optim=optim) for stage in config.stages)
    data = replace(config.data, pictures_per_step=4, resolutions=(32,), validation=0.0)
    values = {
        "pictures": str(pictures),
        "data": data,
        "stages": stages,
        "vision": VisionConfig(size=32, width=32, depth=1, heads=2),
        "text": Words(vocab_size=300, channels=32, depth=1, heads=2),
        "latents": Latents(channels=4, width=8),
        "side_vectors": 4,
        "model": replace(config.model, depth=1, width=32, heads=2, ffn_width=32),
        "bf16": False,
        "ema": 0.5,
        "save_every": 1,
        "sample_every": 10**6,
        "log_every": 1,
    }
    if config.linear is not None:
        values["linear"] = LinearDiTConfig(depth=1, width=64, cross_heads=1)
    return replace(config, **{**values, **more})


FAMILY = next(family for family in FAMILIES if family.name == "blip3o")


def trained(config, folder):
    return train(FAMILY, config, folder / "run", open_system)


def exported(config, folder):
    trained(config, folder)
    out = folder / "model"
    export(FAMILY, config, folder / "run", out, open_system, command="here", hardware="this")
    return out


@pytest.fixture(scope="module")
def spaces(pictures, tmp_path_factory):
    """A contrastive encoder, an autoencoder, and the features that a detokenizer draws from."""
    folder = tmp_path_factory.mktemp("spaces")
    encoder = exported(tiny("contrastive", pictures), folder / "contrastive")
    latents = exported(tiny("autoencoder", pictures), folder / "autoencoder")
    told = {"encoder": str(encoder), "space": str(latents)}
    features = exported(tiny("blip3o-detokenizer", pictures, **told), folder / "detokenizer")
    return SimpleNamespace(encoder=encoder, latents=latents, features=features)


@pytest.fixture(scope="module")
def model(pictures, spaces, tmp_path_factory):
    """A model that draws features behind the default one."""
    return exported(tiny("blip3o", pictures, space=str(spaces.features)), tmp_path_factory.mktemp("model"))


def test_an_own_caption_that_is_equal_to_anothers_is_no_wrong_answer():
    logits = torch.tensor([[4.0, 9.0, 0.0], [9.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
    same = torch.eye(3, dtype=torch.bool)
    apart = contrast(logits, same)
    same[0, 1] = same[1, 0] = True
    joined = contrast(logits, same)
    assert (joined[:2] < apart[:2]).all()
    torch.testing.assert_close(joined[0], F.cross_entropy(logits[:1, [0, 2]], torch.tensor([0])))


def test_a_contrastive_model_learns_which_caption_is_whose(pictures, tmp_path):
    config = tiny("contrastive", pictures, steps=40)
    trainer = trained(config, tmp_path)
    losses = [
        json.loads(line)["contrast"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])
    assert trainer.model.vision.config.grid == 4


def test_the_parts_of_a_space_are_read_again_as_they_were_trained(spaces):
    encoder, latents, features = (
        ContrastiveFeatures.load(spaces.encoder),
        load_space(spaces.latents),
        load_any(spaces.features),
    )
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 1, 3, 32, 32), generator=generator, dtype=torch.uint8)
    assert encoder.encode(pixels[:, 0]).shape == (3, 32, 4, 4)
    assert latents.encode(pixels).shape == (3, 1, 4, 4, 4)
    assert features.facts.made_by == encoder.identity()
    target = features.encode(pixels)
    assert target.shape == (3, 1, 32, 4, 4)
    drawn = features.decode(target, seeds=[1, 2, 1])
    assert drawn.shape == pixels.shape
    torch.testing.assert_close(features.decode(target[2:], seeds=[1]), drawn[2:], atol=1, rtol=0)


def test_an_encoders_similarity_is_that_of_its_towers(spaces):
    encoder = ContrastiveFeatures.load(spaces.encoder)
    pixels = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    found = encoder.similarity(pixels, ["a red square", "a blue square"])
    assert found.shape == (2,)
    assert (found.abs() <= 1 + 1e-6).all()


def test_a_feature_encoder_refuses_pictures_of_another_size(spaces):
    with pytest.raises(ValueError, match="32x32 px, got 64x32"):
        ContrastiveFeatures.load(spaces.encoder).encode(torch.zeros(1, 3, 32, 64, dtype=torch.uint8))


def test_a_frozen_language_model_answers_as_before_and_bridge_and_denoiser_learn(pictures, spaces, tmp_path):
    before = open_system("default")
    answer = "".join(before.answer(QUESTION))
    # gates and head of a fresh denoiser are closed: it takes some steps until the bridge hears of anything
    config = tiny("blip3o", pictures, steps=5, space=str(spaces.features))
    config = replace(config, bridge=replace(config.bridge, kind="queries", queries=4))
    job = DrawingJob(config, tmp_path, open_system)
    fresh = {name: value.clone() for name, value in job.starting_values()}
    trainer = Trainer(job, tmp_path, quiet=True)
    trainer.train()
    learnt = dict(trainer.model.named_parameters())
    assert "bridge.queries" in learnt
    assert not torch.equal(learnt["bridge.queries"], fresh["bridge.queries"])
    assert not any(name.startswith("backbone.") for name in learnt)
    kept = job.backbone.model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in before.model.state_dict().items())
    assert "".join(job.system({}).answer(QUESTION)) == answer


def test_an_exported_model_names_its_language_model_and_holds_no_copy(model):
    system, default = open_system(model), open_system("default")
    assert not (model / "backbone").exists()
    told = json.loads((model / "config.json").read_text())["backbone"]
    assert told["model"] == "default"
    assert len(told["sha256"]) == 64
    assert "".join(system.answer(QUESTION)) == "".join(default.answer(QUESTION))
    pipeline = Pipeline(system)
    plans = [pipeline.plan("a red square", task=Task.TEXT_TO_IMAGE, seed=seed) for seed in (1, 2)]
    together = draw(system, plans)
    assert together[0][0].shape == (32, 32, 3)
    (alone,) = draw(system, plans[1:])
    assert abs(alone[0].astype(int) - together[1][0].astype(int)).max() <= 1


def recipes(pictures, spaces, model):
    """Every recipe of the family at toy size."""
    features = {"space": str(spaces.features)}
    world = replace(SMALL_WORLD, size=32, glyph=8, lattice=11)
    unfreezing = tiny("blip3o-unfreezing", pictures, start=str(model))
    return {
        "contrastive": tiny("contrastive", pictures, steps=3),
        "autoencoder": tiny("autoencoder", pictures, steps=3),
        "blip3o-detokenizer": tiny(
            "blip3o-detokenizer", pictures, steps=3, encoder=str(spaces.encoder), space=str(spaces.latents)
        ),
        "blip3o": tiny("blip3o", pictures, steps=3, **features),
        "blip3o-joint": tiny("blip3o-joint", pictures, steps=3, **features, talks_per_step=2),
        "blip3o-unfreezing": replace(
            unfreezing, stages=tuple(replace(s, steps=2) for s in unfreezing.stages)
        ),
        "blip3o-tuning": tiny("blip3o-tuning", pictures, steps=3, start=str(model)),
        "blip3o-emoji": tiny("blip3o-emoji", pictures, steps=3, **features),
        "blip3o-editing": tiny("blip3o-editing", "", steps=3, start=str(model), world=world),
    }


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(name, pictures, spaces, model, tmp_path):
    config = recipes(pictures, spaces, model)[name]
    straight = train(FAMILY, config, tmp_path / "straight", open_system, quiet=True)
    stopped = Trainer(FAMILY.job(config, tmp_path / "run", open_system), tmp_path / "run", quiet=True)
    told = stopped.log.step

    def tell(number, *rest):
        told(number, *rest)
        stopped.asked_to_stop = number == 1

    stopped.log.step = tell
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    family, saved = read_run(tmp_path / "run")
    resumed = train(family, saved, tmp_path / "run", open_system, quiet=True)
    for (part, one), (_, other) in zip(
        straight.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), part
    averaged = straight.ema.shadow
    assert all(torch.equal(averaged[part], value) for part, value in resumed.ema.shadow.items())


def test_a_bridge_learns_before_the_denoiser_that_it_leads_to(pictures, model, tmp_path):
    config = tiny("blip3o-unfreezing", pictures, start=str(model))
    first, second = config.stages
    config = replace(config, stages=(replace(first, steps=2), replace(second, steps=0)))
    job = DrawingJob(config, tmp_path, open_system)
    assert job.learns("bridge.queries", first)
    assert not job.learns("denoiser.head.weight", first)
    assert job.learns("denoiser.head.weight", second)


def test_a_bridge_that_cannot_learn_is_not_trained_alone(pictures, model, tmp_path):
    config = tiny("blip3o-unfreezing", pictures, start=str(model))
    with pytest.raises(ValueError, match="'states' has nothing that could learn"):
        DrawingJob(replace(config, new_bridge=False), tmp_path, open_system)


def test_joint_training_moves_the_language_model_and_writes_it(pictures, spaces, tmp_path):
    config = tiny("blip3o-joint", pictures, space=str(spaces.features), talks_per_step=2)
    out = exported(config, tmp_path)
    assert (out / "backbone" / "config.json").is_file()
    system, default = open_system(out), open_system("default")
    old, new = default.model.state_dict(), system.backbone.model.state_dict()
    # the language part learns, and what the model itself draws with stays
    for name, value in old.items():
        if name.endswith(".weight") and value.ndim == 2 and ".0." in name:
            assert torch.equal(value.float(), new[name].float()) == (".gen." in name), name
    losses = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(line["text"] > 0 for line in losses if "text" in line)


def test_no_cross_entropy_is_computed_that_no_loss_uses(pictures, spaces, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a loss of text was computed")

    config = tiny("blip3o-joint", pictures, space=str(spaces.features), talks_per_step=2)
    stages = tuple(replace(stage, text_weight=0.0) for stage in config.stages)
    monkeypatch.setattr(F, "cross_entropy", never)
    trainer = trained(replace(config, stages=stages), tmp_path)
    assert trainer.step == 2


def test_text_is_not_weighed_where_the_language_model_is_frozen():
    with pytest.raises(ValueError, match="trainable must be 'all'"):
        BlipStage(name="both", steps=1, text_weight=0.5)
    BlipStage(name="both", steps=1, text_weight=0.5, trainable=EVERYTHING)


@pytest.mark.parametrize("space", ["features", "latents"])
def test_cached_and_uncached_runs_are_equal_to_the_bit(space, pictures, spaces, tmp_path):
    config = tiny("blip3o", pictures, space=str(getattr(spaces, space)))
    plain = train(FAMILY, config, tmp_path / "plain", open_system, quiet=True)
    kept = replace(config, cache=str(tmp_path / "cache"))
    first = train(FAMILY, kept, tmp_path / "first", open_system, quiet=True)
    again = train(FAMILY, kept, tmp_path / "again", open_system, quiet=True)
    for (name, one), (_, two), (_, three) in zip(
        plain.model.named_parameters(),
        first.model.named_parameters(),
        again.model.named_parameters(),
        strict=True,
    ):
        assert torch.equal(one, two), name
        assert torch.equal(two, three), name


def test_a_cache_of_something_else_is_refused_by_name(pictures, spaces, tmp_path):
    space, latents, index = load_any(spaces.features), load_any(spaces.latents), Squares(pictures)
    cache = tmp_path / "cache"
    caches.opened(cache, space, None, index, 32, 0.0)
    with pytest.raises(ValueError, match="another encoder"):
        caches.opened(cache, latents, None, index, 32, 0.0)
    pooled = load_any(spaces.features)
    pooled.facts = replace(pooled.facts, side=2)
    with pytest.raises(ValueError, match=r"another pooling \(32x4x4, here 32x2x2\)"):
        caches.opened(cache, pooled, None, index, 32, 0.0)
    raw = load_any(spaces.features)
    raw.facts = replace(raw.facts, mean=(), deviation=())
    with pytest.raises(ValueError, match="another normalisation"):
        caches.opened(cache, raw, None, index, 32, 0.0)
    told = SimpleNamespace(identity=lambda: "a reader")
    with pytest.raises(ValueError, match=r"another prompts \(none, here a reader\)"):
        caches.opened(cache, space, told, index, 32, 0.0)
    fewer = Squares(pictures)
    fewer.rows = fewer.rows[1:]
    with pytest.raises(ValueError, match="another data"):
        caches.opened(cache, space, None, fewer, 32, 0.0)


def test_a_run_goes_on_in_its_own_space_alone(pictures, spaces, tmp_path):
    space = tmp_path / "space"
    shutil.copytree(spaces.latents, space)
    config = tiny("blip3o", pictures, space=str(space))
    train(FAMILY, config, tmp_path / "run", open_system, quiet=True)
    shutil.rmtree(space)
    shutil.copytree(exported(tiny("autoencoder", pictures, steps=1), tmp_path / "other"), space)
    with pytest.raises(ValueError, match="the image space is not the one that the run in"):
        FAMILY.job(config, tmp_path / "run", open_system)


def test_regression_draws_one_picture_of_a_prompt_whatever_the_seed(pictures, spaces, tmp_path):
    base = RECIPES["blip3o"](loss="mse")
    config = tiny("blip3o", pictures, space=str(spaces.latents))
    model = replace(config.model, blind=True)
    system = open_system(exported(replace(config, model=model, law=base.law, sampler=base.sampler), tmp_path))
    pipeline = Pipeline(system)
    plans = [pipeline.plan("a red square", task=Task.TEXT_TO_IMAGE, seed=seed) for seed in (1, 2)]
    first, second = draw(system, plans)
    assert abs(first[0].astype(int) - second[0].astype(int)).max() <= 1
    with pytest.raises(ValueError, match="level 1 alone"):
        replace(config, model=model)


def test_a_linear_denoiser_stands_in_by_configuration(pictures, spaces, tmp_path):
    linear = LinearDiTConfig(depth=1, width=64, cross_heads=1)
    out = exported(tiny("blip3o", pictures, space=str(spaces.features), linear=linear), tmp_path)
    assert json.loads((out / "config.json").read_text())["denoiser"]["kind"] == "linear_dit"
    system = open_system(out)
    (picture,) = draw(system, [Pipeline(system).plan("a red square", task=Task.TEXT_TO_IMAGE, seed=1)])
    assert picture[0].shape == (32, 32, 3)
