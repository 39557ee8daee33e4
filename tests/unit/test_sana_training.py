"""Training SANA: cached and uncached alike, resumed to the bit, adapters, control."""

import dataclasses

import numpy as np
import pytest
import squares
import torch
from golden_files import load, write
from published import pipeline as published_pipeline
from squares import config, run

import diptych
from diptych.cli import main
from diptych.data.captioned.index import Index
from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.data.pictures import edges
from diptych.flow import NoiseLaw
from diptych.inference import draw
from diptych.models.linear_dit import LinearDiT, LinearDiTConfig
from diptych.optim.build import OptimConfig
from diptych.surgery import add_lora, lora_weights, merge_lora
from diptych.systems.sana.config import SanaStage
from diptych.systems.sana.job import SanaJob
from diptych.systems.sana.lora import merge_adapters, read_lora, write_lora
from diptych.systems.sana.system import SanaSystem
from diptych.training.parallel import fill
from diptych.training.trainer import Trainer


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return squares.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    for part in ("encoder", "decoder"):
        write(f"tiny_autoencoders/taef2_{part}", folder / f"taef2_{part}.safetensors")
    return folder


def started(job):
    """A job whose model has its starting values, as a run places it."""
    job.task.to_empty(device="cpu")
    fill(job.model, job.starting_values())
    return job


def weights(trainer):
    return {
        **{f"m.{k}": v for k, v in trainer.model.named_parameters()},
        **{f"e.{k}": v for k, v in trainer.ema.shadow.items()},
    }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_cached_run_equals_an_uncached_one_to_the_bit(pictures, space, tmp_path):
    arguments = [
        "data",
        "cache",
        str(pictures),
        "-o",
        str(tmp_path / "cache"),
        "--space",
        str(space),
        "--resolutions",
        "32",
        "--multiple",
        "8",
        "--batch",
        "4",
        "--validation",
        "0.1",
    ]
    assert main(arguments) == 0
    plain = run(config(pictures, space), tmp_path / "plain")
    cached = run(config(pictures, space, cache=str(tmp_path / "cache")), tmp_path / "cached")
    assert_equal(weights(plain), weights(cached))


@pytest.mark.parametrize("at", [2, 3])
def test_a_resumed_run_equals_the_straight_one_to_the_bit(pictures, space, tmp_path, at, monkeypatch):
    straight = run(config(pictures, space), tmp_path / "straight")
    step = Trainer._train_step

    def breaking(self, *arguments):
        if self.step == at:
            raise KeyError("killed")
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_train_step", breaking)
    with pytest.raises(KeyError):
        run(config(pictures, space), tmp_path / "broken")
    monkeypatch.undo()
    assert_equal(weights(straight), weights(run(config(pictures, space), tmp_path / "broken")))


def test_recomputed_blocks_learn_the_same(pictures, space, tmp_path):
    plain = run(config(pictures, space), tmp_path / "plain")
    recomputed = run(config(pictures, space, checkpoint_blocks=True), tmp_path / "recomputed")
    for (name, a), b in zip(plain.model.named_parameters(), recomputed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_a_curriculum_goes_through_its_resolutions(pictures, space, tmp_path):
    stages = tuple(
        SanaStage(name=str(r), steps=2, resolutions=(r,), optim=OptimConfig(lr=1e-3)) for r in (16, 32)
    )
    cfg = config(pictures, space, stages=stages)
    job = SanaJob(cfg, tmp_path / "shapes")
    shapes = [
        job.dataset(stage, 0, 1)[step].batches[0].noise.shape[-2:]
        for stage, step in ((stages[0], 0), (stages[1], 2))
    ]
    assert [a * b for a, b in shapes] == [4, 16] or [a * b for a, b in shapes] == [4, 18]
    run(cfg, tmp_path)


def test_training_learns_colours_from_words(pictures, space, tmp_path):
    """Real training, real autoencoder: after it, 'red' draws more red than blue."""
    stage = SanaStage(name="one", steps=150, optim=OptimConfig(lr=4e-3, warmup=5, decay=0.3))
    model = LinearDiTConfig(depth=2, width=64, cross_heads=2, caption_channels=32, patch=2)
    data = PictureLoaderConfig(pictures_per_step=16, resolutions=(32,), workers=0)
    cfg = config(pictures, space, stages=(stage,), model=model, data=data, ema=0.9, save_every=150)
    trainer = run(cfg, tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "model")]) == 0
    pipeline = diptych.load(tmp_path / "model", "cpu")
    drawn = {}
    for name in ("red", "green", "blue"):
        plans = [pipeline.plan(f"a {name} picture", seed=s, width=32, height=32) for s in range(4)]
        drawn[name] = np.concatenate(draw(pipeline.system, plans)).astype(float).mean((0, 1, 2))
    assert trainer.step == 150
    for channel, name in enumerate(("red", "green", "blue")):
        assert int(drawn[name].argmax()) == channel, drawn


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    published_pipeline(folder)
    return folder


def tiny():
    torch.manual_seed(0)
    model = LinearDiT(LinearDiTConfig(depth=2, width=32, cross_heads=2, caption_channels=16, channels=4))
    model.initialise(torch.Generator().manual_seed(0))
    return model


def velocity(model):
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 1, 4, 4, 6, generator=generator), torch.randn(2, 5, 16, generator=generator)
    with torch.no_grad():
        return model(x, torch.tensor([0.3, 0.9]), model.condition(text))


def test_adapters_change_nothing_at_first_and_merge_exactly():
    model = tiny()
    before = velocity(model)
    add_lora(model, 4)
    assert torch.equal(velocity(model), before)
    for _, b in lora_weights(model).values():
        b.normal_(std=0.1)
    adapted = velocity(model)
    assert float((adapted - before).abs().max()) > 1e-3
    merged = merge_lora(model)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(velocity(merged), adapted, rtol=0, atol=1e-5)


def test_a_lora_run_trains_adapters_alone_and_exports_a_merged_model(pictures, base, tmp_path):
    stage = SanaStage(
        name="adapters", steps=3, trainable="lora", optim=OptimConfig(name="adamw", lr=1e-2, warmup=1)
    )
    cfg = config(pictures, stages=(stage,), lora_rank=4)
    trainer = run(cfg, tmp_path / "run", start=str(base))
    original = SanaSystem.load(base).model.state_dict()
    moved = 0
    for name, parameter in trainer.model.denoiser.named_parameters():
        if "lora_" in name:
            moved += int("lora_B" in name and bool(parameter.abs().max() > 0))
        else:
            assert torch.equal(parameter, original[name.replace(".base_layer", "")]), name
    assert moved == 2 * 7
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "model")]) == 0
    exported = SanaSystem.load(tmp_path / "model").model.state_dict()
    assert exported.keys() == original.keys()
    assert not torch.equal(
        exported["blocks.0.attention.qkv.weight"], original["blocks.0.attention.qkv.weight"]
    )
    assert torch.equal(exported["head.weight"], original["head.weight"])


@pytest.mark.parametrize("style", ["peft", "diffusers", "kohya"])
def test_lora_files_of_every_style_go_round_and_merge_alike(style, tmp_path):
    model = tiny()
    add_lora(model, 4)
    generator = torch.Generator().manual_seed(2)
    for _, b in lora_weights(model).values():
        b.normal_(std=0.1, generator=generator)
    adapted = velocity(model)
    file = write_lora(lora_weights(model), style)
    assert any("attn1" in key for key in file)
    plain = tiny()
    merge_adapters(plain, read_lora(file))
    torch.testing.assert_close(velocity(plain), adapted, rtol=0, atol=1e-5)
    other = write_lora(read_lora(file), "kohya")
    again = tiny()
    merge_adapters(again, read_lora(other))
    torch.testing.assert_close(velocity(again), adapted, rtol=0, atol=1e-5)


def test_a_lora_of_diffusers_does_here_what_it_does_there(base, tmp_path):
    """peft on diffusers' own transformer, its file read here."""
    import diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    peer = diffusers.SanaTransformer2DModel.from_pretrained(base / "transformer").eval()
    peer.add_adapter(
        LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "to_v", "conv_inverted", "to_out.0"])
    )
    torch.manual_seed(0)
    for name, parameter in peer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    file = {f"transformer.{key}": tensor for key, tensor in get_peft_model_state_dict(peer).items()}
    file |= {key.replace("lora_A.weight", "alpha"): torch.tensor(6.0) for key in file if "lora_A" in key}
    model = SanaSystem.load(base).model
    merge_adapters(model, read_lora(file))
    x, text = torch.randn(2, 4, 6, 6), torch.randn(2, 5, 24)
    with torch.no_grad():
        expected = peer(x, text, torch.tensor([300.0, 900.0])).sample
        ours = model(x[:, None], torch.tensor([0.3, 0.9]), model.condition(text))[:, 0]
    assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_lora_for_another_size_is_refused_and_changes_nothing():
    model = tiny()
    add_lora(model, 2)
    adapters = lora_weights(model)
    wide = LinearDiT(LinearDiTConfig(depth=2, width=64, cross_heads=2, caption_channels=16, channels=4))
    before = {name: p.clone() for name, p in wide.named_parameters()}
    with pytest.raises(ValueError, match=r"for a matrix of \(96, 32\), here it is \(192, 64\)"):
        merge_adapters(wide, adapters)
    shallow = LinearDiT(LinearDiTConfig(depth=1, width=32, cross_heads=2, caption_channels=16, channels=4))
    with pytest.raises(ValueError, match="for a deeper model"):
        merge_adapters(shallow, adapters)
    assert all(torch.equal(before[name], p) for name, p in wide.named_parameters())
    with pytest.raises(ValueError, match="is no key of a LoRA for SANA"):
        read_lora({"transformer.single_blocks.0.proj.lora_A.weight": torch.zeros(1)})


def test_fine_tuning_a_published_folder_goes_on_from_its_weights(pictures, base, tmp_path):
    stage = SanaStage(name="tune", steps=2, optim=OptimConfig(name="adamw", lr=1e-6, warmup=1))
    trainer = run(config(pictures, stages=(stage,)), tmp_path / "run", start=str(base))
    original = SanaSystem.load(base).model.state_dict()
    for name, parameter in trainer.model.denoiser.named_parameters():
        torch.testing.assert_close(parameter.detach(), original[name], rtol=0, atol=1e-4, msg=name)
    longer = config(pictures, stages=(dataclasses.replace(stage, steps=3),))
    resumed = run(longer, tmp_path / "run", start=str(base))
    assert resumed.step == 3


def test_cached_text_of_a_language_model_gives_the_same_run(pictures, base, tmp_path):
    arguments = [
        "data",
        "cache",
        str(pictures),
        "-o",
        str(tmp_path / "cache"),
        "--model",
        str(base),
        "--resolutions",
        "32",
        "--multiple",
        "2",
        "--batch",
        "4",
        "--validation",
        "0.1",
    ]
    assert main(arguments) == 0
    stage = SanaStage(name="tune", steps=3, optim=OptimConfig(name="adamw", lr=1e-4, warmup=1))
    plain = run(config(pictures, stages=(stage,)), tmp_path / "plain", start=str(base))
    cached = run(
        config(pictures, stages=(stage,), cache=str(tmp_path / "cache")), tmp_path / "cached", start=str(base)
    )
    assert_equal(weights(plain), weights(cached))
    control = config(pictures, stages=(stage,), control="edges")
    with pytest.raises(ValueError, match="holds no edges: go on with"):
        SanaJob(
            dataclasses.replace(control, cache=str(tmp_path / "cache"), start=str(base)), tmp_path / "refused"
        )
    assert main([*arguments, "--control", "edges"]) == 0
    plain = run(control, tmp_path / "plain control", start=str(base))
    cached = run(
        dataclasses.replace(control, cache=str(tmp_path / "cache")),
        tmp_path / "cached control",
        start=str(base),
    )
    assert_equal(weights(plain), weights(cached))


def test_the_null_condition_is_the_same_in_training_and_in_sampling(pictures, base, tmp_path):
    data = PictureLoaderConfig(pictures_per_step=4, resolutions=(32,), workers=0, drop_text=1.0)
    job = started(SanaJob(config(pictures, data=data, start=str(base)), tmp_path))
    batch = job.dataset(job.config.stages[0], 0, 1)[0].batches[0]
    condition = job.task.system.read(batch.prompts, batch.stacks)
    text, mask = condition.dropped(batch.drop_text, batch.drop_media).text
    null, real = job.encoder.encode([""], instruct=False)
    for row in range(len(batch)):
        assert int(mask[row].sum()) == int(real.sum())
        torch.testing.assert_close(text[row][mask[row]], null[0][real[0]])


def test_gradients_reach_a_text_encoder_that_learns_through_kept_and_dropped_rows(pictures, space, tmp_path):
    data = PictureLoaderConfig(pictures_per_step=4, resolutions=(32,), workers=0, drop_text=0.0)
    job = started(SanaJob(config(pictures, space, data=data), tmp_path))
    batch = job.dataset(job.config.stages[0], 0, 1)[0].batches[0]
    for dropped in (False, True):
        job.model.zero_grad(set_to_none=True)
        rows = dataclasses.replace(batch, drop_text=torch.full((4,), dropped))
        job.task(rows).sums["flow"].backward()
        assert float(job.model.text.embedding.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("change", ["other encoder", "cut shard", "missing shard", "other size"])
def test_a_cache_that_does_not_belong_is_refused(pictures, space, base, tmp_path, change):
    cache = tmp_path / "cache"
    arguments = [
        "data",
        "cache",
        str(pictures),
        "-o",
        str(cache),
        "--space",
        str(space),
        "--resolutions",
        "32",
        "--multiple",
        "8",
        "--batch",
        "4",
    ]
    assert main(arguments) == 0
    shard = next(cache.glob("latents-*"))
    cfg = config(pictures, space, cache=str(cache))
    expected = {
        "other encoder": "another space encoder",
        "cut shard": "has 100 of",
        "missing shard": "is missing",
        "other size": "no latents of",
    }
    if change == "cut shard":
        shard.write_bytes(shard.read_bytes()[:100])
    elif change == "missing shard":
        shard.unlink()
    elif change == "other size":
        cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, resolutions=(64,)))
    with pytest.raises(ValueError, match=expected[change]):
        run(cfg, tmp_path / "run", start=str(base) if change == "other encoder" else "")


def test_a_cache_that_was_stopped_goes_on(pictures, space, tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.data.captioned.cache.SHARD", 8)
    arguments = [
        "data",
        "cache",
        str(pictures),
        "-o",
        str(tmp_path),
        "--space",
        str(space),
        "--resolutions",
        "32",
        "--multiple",
        "8",
        "--batch",
        "4",
    ]
    from diptych.spaces import LatentSpace

    encode, calls = LatentSpace.encode, []

    def counting(self, pixels):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return encode(self, pixels)

    monkeypatch.setattr(LatentSpace, "encode", counting)
    assert main(arguments) == 130
    assert not (tmp_path / "cache.json").exists()
    assert main(arguments) == 0
    assert len(calls) == len(Index(pictures)) + 20 - 16, "two shards of eight were whole before the stop"


def with_frames(model):
    made = LinearDiT(dataclasses.replace(model.config, multi_frame=True))
    made.load_state_dict(model.state_dict(), strict=False)
    return made


def test_attached_frames_change_nothing_before_training_and_something_after():
    model = tiny()
    framed = with_frames(model)
    generator = torch.Generator().manual_seed(1)
    x, given = torch.randn(2, 2, 1, 4, 4, 6, generator=generator)
    text = framed.condition(torch.randn(2, 3, 16, generator=generator))
    sigma = torch.tensor([0.5, 0.8])
    both, levels = torch.cat([x, given], 1), torch.stack([sigma, torch.zeros(2)], 1)
    with torch.no_grad():
        alone = model(x, sigma, text)
        assert torch.equal(framed(x, sigma, text), alone)
        attached = framed(both, levels, text, roles=("target", "control"))[:, :1]
        torch.testing.assert_close(attached, alone, rtol=0, atol=1e-6)
        for block in framed.blocks:
            block.attention.mix.normal_(generator=generator)
        assert (
            float((framed(both, levels, text, roles=("target", "control"))[:, :1] - alone).abs().max()) > 1e-3
        )
        for block in framed.blocks:
            block.attention.mix.zero_()
            block.attention.beside.normal_(generator=generator)
        # what lies at one place of the given frame changes that place most
        given = given.clone()
        before = framed(both, levels, text, roles=("target", "control"))[:, 0]
        given[..., 0, 0] += 5
        after = framed(torch.cat([x, given], 1), levels, text, roles=("target", "control"))[:, 0]
        moved = (after - before).abs().amax((0, 1))
        assert float(moved[0, 0]) > 3 * float(moved[-1, -1])
        # one frame alone is still the picture model
        assert torch.equal(framed(x, sigma, text), alone)


def test_frames_of_one_role_see_each_other_in_any_order():
    model = with_frames(tiny())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (model.roles, *(block.attention.mix for block in model.blocks)):
            parameter.normal_(generator=generator)
        x, text = (
            torch.randn(1, 3, 4, 4, 4, generator=generator),
            model.condition(torch.randn(1, 3, 16, generator=generator)),
        )
        out = model(x, torch.tensor([0.5]), text, roles=("target",) * 3)
        turned = model(x[:, [2, 0, 1]], torch.tensor([0.5]), text, roles=("target",) * 3)
    torch.testing.assert_close(turned, out[:, [2, 0, 1]], rtol=0, atol=1e-5)


def test_frames_of_one_role_are_told_apart_by_their_times():
    """The same three frames at other times draw something else; all at one time, as before there were any."""
    model = with_frames(tiny())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.mix.normal_(generator=generator)
            block.attention.beside.normal_(generator=generator)
        x = torch.randn(1, 3, 4, 4, 4, generator=generator)
        text, sigma = model.condition(torch.randn(1, 3, 16, generator=generator)), torch.tensor([0.5])

        def draw_at(*times):
            return model(x, sigma, text, times=torch.tensor(times))

        untimed = model(x, sigma, text)
        torch.testing.assert_close(draw_at(5, 5, 5), untimed, rtol=0, atol=1e-6)
        assert float((draw_at(0, 1, 2) - untimed).abs().max()) > 1e-3
        # what is near in time counts more: the order of times matters before `frame_time` has learned
        assert float((draw_at(0, 1, 2) - draw_at(1, 0, 2)).abs().max()) > 1e-3
        torch.nn.init.normal_(model.frame_time.weight, std=0.1, generator=generator)
        assert float((draw_at(5, 5, 5) - untimed).abs().max()) > 1e-3
        picture = x[:, :1]
        assert torch.equal(model(picture, sigma, text, times=torch.tensor([7])), model(picture, sigma, text))


def test_frames_need_a_model_that_has_them():
    model = tiny()
    with pytest.raises(ValueError, match="2 frames: its config has multi_frame off"):
        model(torch.zeros(1, 2, 4, 4, 4), torch.tensor([0.5]), model.condition(torch.zeros(1, 1, 16)))


def test_edges_are_where_brightness_changes():
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, 8:] = 200
    found = edges(pixels)
    assert found[:, 7:9].min() == 255
    assert found[:, :6].max() == 0


def test_a_control_run_learns_exports_and_draws_along_a_picture(pictures, base, tmp_path):
    stage = SanaStage(name="control", steps=3, optim=OptimConfig(name="adamw", lr=1e-2, warmup=1))
    trainer = run(config(pictures, stages=(stage,), control="edges"), tmp_path / "run", start=str(base))
    attention = trainer.model.denoiser.blocks[0].attention
    assert float(attention.mix.detach().abs().max()) > 0
    assert float(attention.beside.detach().abs().max()) > 0
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "model")]) == 0
    pipeline = diptych.load(tmp_path / "model", "cpu")
    assert pipeline.system.control == "edges"
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    result = pipeline.run("red", images=[edges(picture)], task="control-to-image", steps=3, seed=1)
    assert result.plan.inputs == ("control",)
    assert result.images[0].shape == (32, 32, 3)
    other = pipeline.run("red", task="text-to-image", steps=3, seed=1)
    assert not np.array_equal(other.images[0], result.images[0])


def test_training_levels_are_the_published_ones_without_their_grid():
    expected = load("flow/training")
    for shift in (1, 3, 6):
        law = NoiseLaw(shift=float(shift))
        names = [name for name in expected if name.startswith(f"shift_{shift}.")]
        assert names
        torch.testing.assert_close(
            law.shifted(expected["u"]), expected[f"shift_{shift}.sigma_continuous"], rtol=0, atol=1e-6
        )


def test_noise_levels_follow_the_logit_normal_law():
    law = NoiseLaw(mean=0.5, std=1.5, shift=3.0)
    sigma = law.sigma(torch.tensor([0.0, -1.0]))
    u = torch.sigmoid(torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(sigma, 3 * u / (1 + 2 * u))
