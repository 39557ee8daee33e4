"""Features as image space: encoders, pooling, statistics, identity, and what draws pictures from them."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_blip3o import decoder, stirred, vision_tower

from diptych.encoders.features import EvaFeatures, open_features
from diptych.files.folder import ModelFolderError
from diptych.flow import SamplerConfig
from diptych.models.eva_clip import EvaTower, EvaTowerConfig, tower_config
from diptych.models.linear_dit import LinearDiT, LinearDiTConfig
from diptych.spaces.detokenizers import LatentDetokenizer, UnetDetokenizer
from diptych.spaces.features import FeatureSpace, load_features, measured, save_facts
from diptych.systems.blip3o.spaces import load_detokenizer, save_detokenizer

pytest.importorskip("transformers")


def pictures(rows: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 1, 3, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower")
    vision_tower(folder)
    return open_features(folder)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    import published

    from diptych.spaces import load_space

    folder = tmp_path_factory.mktemp("latents")
    published.pipeline(folder)
    return load_space(folder / "vae")


def detokenizer(latents, reads: str = "", channels: int = 32) -> LatentDetokenizer:
    model = stirred(
        LinearDiT(
            LinearDiTConfig(
                depth=1, width=32, cross_heads=1, channels=latents.channels, caption_channels=channels
            )
        )
    )
    sampler = SamplerConfig(num_steps=3, shift=1.0, guidance_scale=2.0)
    return LatentDetokenizer(model, latents, sampler, 64, reads)


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_towers_of_transformers_give_the_states_of_their_patches(tmp_path, kind):
    import transformers

    vision_tower(tmp_path / "one", kind)
    ours = open_features(tmp_path / "one")
    assert (ours.channels, ours.size, ours.grid) == (32, 56, 4)
    shown = pictures(2, 56)[:, 0]
    made = transformers.SiglipVisionModel if kind == "siglip" else transformers.CLIPVisionModel
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (ours.mean, ours.deviation))
    with torch.no_grad():
        states = made.from_pretrained(tmp_path / "one").eval()((shown / 255 - mean) / deviation)
    patches = states.last_hidden_state[:, -16:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(ours.encode(shown), patches, atol=1e-5, rtol=1e-5)
    ours.save(tmp_path / "two")
    assert open_features(tmp_path / "two").identity() == ours.identity()
    with pytest.raises(ValueError, match="reads pictures of 56x56 px, got 48x48"):
        ours.encode(pictures(1, 48)[:, 0])


def test_evas_tower_is_read_by_its_published_names(tmp_path):
    config = EvaTowerConfig(depth=2, width=32, heads=2, mlp=48, patch=14, grid=4)
    torch.manual_seed(0)
    tower = EvaTower(config)
    torch.nn.init.normal_(tower.pos_embed, std=0.1)
    weights = {name: tensor.detach() for name, tensor in tower.state_dict().items()}
    assert tower_config({name: tuple(t.shape) for name, t in weights.items()}, 2) == config
    save_file(weights, tmp_path / "model.safetensors")
    assert open_features(tmp_path).model.config.heads == 1
    EvaFeatures(tower).save(tmp_path / "ours")
    again = open_features(tmp_path / "ours")
    shown = pictures(1, 56)[:, 0]
    assert again.identity() == EvaFeatures(tower).identity()
    assert torch.equal(again.encode(shown), EvaFeatures(tower).encode(shown))
    # by hand: class token first, norms behind the branches, no norm in the end
    x = tower.patch_embed.proj(torch.ones(1, 3, 56, 56)).flatten(2).transpose(1, 2)
    x = torch.cat([tower.cls_token, x], 1) + tower.pos_embed
    for block in tower.blocks:
        x = x + block.norm1(block.attn(x))
        x = x + block.norm2(block.mlp(x))
    torch.testing.assert_close(tower(torch.ones(1, 3, 56, 56)), x[:, 1:])
    save_file({"patch_embed.proj.weight": torch.zeros(4, 3, 2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match="no EVA-CLIP vision tower"):
        open_features(tmp_path)


def test_features_are_pooled_and_each_picture_by_itself(encoder):
    space = FeatureSpace(encoder, side=2, native=56)
    shown = pictures(3, 56)
    found = space.encode(shown)
    assert found.shape == (3, *space.shape(56, 56)) == (3, 1, 32, 2, 2)
    whole = encoder.encode(shown[:, 0])
    torch.testing.assert_close(found[:, 0, :, 0, 1], whole[:, :, :2, 2:].mean((2, 3)))
    torch.testing.assert_close(found[1:2], space.encode(shown[1:2]), atol=1e-5, rtol=1e-5)


def test_measured_features_have_unit_variance_and_come_back(encoder):
    plain, shown = FeatureSpace(encoder, side=2, native=64), pictures(8)
    space = measured(plain, shown[:, 0].split(3))
    found = space.encode(shown)
    by_channel = found[:, 0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(by_channel.mean(1), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(by_channel.std(1, correction=0), torch.ones(32), atol=1e-3, rtol=0)
    torch.testing.assert_close(space.raw(found[:, 0]), plain.encode(shown)[:, 0], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="at least one picture"):
        measured(plain, [])


def test_a_space_is_named_by_encoder_pooling_and_statistics(encoder, latents, tmp_path):
    one = FeatureSpace(encoder, side=2, native=64)
    made = encoder.identity()
    drawing = FeatureSpace(encoder, side=2, native=64, detokenizer=detokenizer(latents, made))
    assert one.identity() == drawing.identity()
    others = [
        FeatureSpace(encoder, side=4, native=64),
        FeatureSpace(encoder, side=2, native=56),
        measured(one, [pictures(2)[:, 0]]),
        FeatureSpace(None, 2, 64, channels=32, made_by="another"),
    ]
    assert len({space.identity() for space in (one, *others)}) == 5
    save_facts(others[2], tmp_path)
    alone = load_features(tmp_path)
    assert alone.identity() == others[2].identity() == load_features(tmp_path, encoder).identity()
    with pytest.raises(ValueError, match="draws alone"):
        alone.encode(pictures(1))
    vision_tower(tmp_path / "clip", "clip")
    with pytest.raises(ValueError, match="made by the encoder"):
        load_features(tmp_path, open_features(tmp_path / "clip"))


def test_sizes_that_a_space_cannot_give(encoder):
    space = FeatureSpace(encoder, side=2, native=64)
    assert space.round_size(70, 40) == (64, 64)
    for wrong in (lambda: space.shape(128, 64), lambda: space.encode(pictures(1, 56))):
        with pytest.raises(ValueError, match="pictures of 64x64 px alone"):
            wrong()
    with pytest.raises(ValueError, match="divides the encoder's 4 patches, got 3"):
        FeatureSpace(encoder, side=3)
    with pytest.raises(ValueError, match="no detokenizer"):
        space.decode(space.encode(pictures(1)))


def test_a_detokenizer_of_other_features_is_refused(encoder, latents):
    with pytest.raises(ValueError, match="draws from 24 channels, and the features have 32"):
        FeatureSpace(encoder, side=2, detokenizer=detokenizer(latents, channels=24))
    with pytest.raises(ValueError, match="trained on features of another encoder"):
        FeatureSpace(encoder, side=2, detokenizer=detokenizer(latents, reads="another"))


def test_decoding_draws_from_the_seed_of_each_row(encoder, latents, tmp_path):
    space = FeatureSpace(encoder, 2, 64, detokenizer=detokenizer(latents, encoder.identity()))
    features = space.encode(pictures(2))
    drawn = space.decode(features, [1, 2])
    assert drawn.shape == (2, 1, 3, 64, 64)
    assert torch.equal(space.decode(features, [1, 2]), drawn)
    alone = space.decode(features[1:], [2])
    assert (alone.int() - drawn[1:].int()).abs().max() <= 1
    assert not torch.equal(space.decode(features[:1], [3]), drawn[:1])
    assert not torch.equal(space.decode(features[1:], [1]), drawn[:1])
    save_detokenizer(space.detokenizer, tmp_path / "ours")
    again = FeatureSpace(encoder, 2, 64, detokenizer=load_detokenizer(tmp_path / "ours"))
    assert torch.equal(again.decode(features, [1, 2]), drawn)


def test_the_published_decoder_draws_by_the_features_and_their_mean(tmp_path):
    import diffusers

    decoder(tmp_path)
    made = UnetDetokenizer.load(tmp_path)
    made.num_steps = 3
    assert (made.native, made.channels) == (32, 32)
    generator = torch.Generator().manual_seed(4)
    features, negative = (torch.randn(1, 32, 2, 2, generator=generator) for _ in range(2))
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    found = made.latents(features, negative, noise)
    scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler")
    scheduler.set_timesteps(3)
    x, sizes = noise * scheduler.init_noise_sigma, torch.tensor([[32.0, 32, 0, 0, 32, 32]])
    for time in scheduler.timesteps:
        scaled, halves = scheduler.scale_model_input(x, time), []
        for told in (features, negative):
            context = told.flatten(2).transpose(1, 2)
            conditions = {"text_embeds": context.mean(1), "time_ids": sizes}
            with torch.no_grad():
                halves.append(
                    made.unet(scaled, time, context, added_cond_kwargs=conditions, return_dict=False)[0]
                )
        x = scheduler.step(halves[1] + 3 * (halves[0] - halves[1]), time, x).prev_sample
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)
    assert made.draw(features, [1]).shape == (1, 3, 32, 32)
    save_detokenizer(made, tmp_path / "ours")
    again = load_detokenizer(tmp_path / "ours")
    assert again.num_steps == 3
    assert torch.equal(again.draw(features, [1]), made.draw(features, [1]))
    with pytest.raises(ValueError, match="no weights in safetensors"):
        UnetDetokenizer.load(tmp_path / "nothing")
