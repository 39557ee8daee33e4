"""The transformer over features: against diffusers' class of the same make, names, surgery, bounds."""

import dataclasses

import pytest
import torch
from tiny_blip3o import stirred

from diptych.models.feature_dit import FeatureDiT, FeatureDiTConfig, FromPublished, config_of, to_published
from diptych.surgery import add_lora, grow, merge_lora, prune, widen

CONFIG = FeatureDiTConfig(depth=2, width=48, heads=4, channels=24, caption_channels=40, ffn_width=128)


@pytest.fixture(scope="module")
def model() -> FeatureDiT:
    return stirred(FeatureDiT(CONFIG))


def inputs(rows: int = 3, tokens: int = 7, side: tuple[int, int] = (8, 8)) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, 1, CONFIG.channels, *side, generator=generator)
    states = torch.randn(rows, tokens, CONFIG.caption_channels, generator=generator)
    mask = torch.arange(tokens) < torch.tensor([tokens, 4, 2, 1][:rows])[:, None]
    return x, torch.tensor([0.9, 0.4, 0.125, 0.7])[:rows], states, mask


@torch.no_grad()
def velocity(model: FeatureDiT, x, sigma, states, mask=None) -> torch.Tensor:
    return model(x, sigma, model.condition(states, mask))


@pytest.fixture(scope="module")
def theirs(model):
    """diffusers' class with the same weights; the projection of the condition is BLIP3-o's own, before it."""
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=24,
        hidden_size=48,
        num_layers=2,
        num_attention_heads=4,
        num_kv_heads=4,
        multiple_of=32,
        norm_eps=1e-5,
        learn_sigma=False,
        cross_attention_dim=48,
    ).eval()
    weights = to_published(model.state_dict())
    projection = {name: tensor for name, tensor in weights.items() if name.startswith("caption_projection")}
    rest = {name: tensor for name, tensor in weights.items() if name not in projection}
    missing, unexpected = made.load_state_dict(rest, strict=False)
    assert not unexpected
    assert set(missing) <= {"pad_token"}

    def run(x, sigma, states, mask):
        inner = torch.nn.functional.linear(
            states,
            projection["caption_projection.linear_1.weight"],
            projection["caption_projection.linear_1.bias"],
        )
        inner = torch.nn.functional.gelu(inner, approximate="tanh")
        caption = torch.nn.functional.linear(
            inner,
            projection["caption_projection.linear_2.weight"],
            projection["caption_projection.linear_2.bias"],
        )
        from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

        rotary = get_2d_rotary_pos_embed_lumina(12, 384, 384)
        with torch.no_grad():
            # pixel counts as its own pipeline gives them: 8 latents of one token
            return made(
                hidden_states=x[:, 0],
                timestep=1000 * sigma,
                encoder_hidden_states=caption,
                encoder_mask=mask.long(),
                image_rotary_emb=rotary,
                cross_attention_kwargs={},
                return_dict=False,
            )[0][:, None]

    return run


def test_it_computes_what_diffusers_does(model, theirs):
    x, sigma, states, mask = inputs()
    torch.testing.assert_close(
        velocity(model, x, sigma, states, mask), theirs(x, sigma, states, mask), atol=1e-5, rtol=1e-5
    )


def test_guided_sampling_ends_where_diffusers_does(model, theirs):
    x, _, states, _ = inputs(2)
    every, none = torch.ones(states.shape[:2], dtype=torch.bool), torch.zeros_like(states)
    ours, reference = x, x
    for step in range(4):
        sigma = torch.full((2,), 1 - step / 4)
        guided = []
        for where, run in ((ours, lambda *a: velocity(model, *a)), (reference, theirs)):
            conditioned, zero = run(where, sigma, states, every), run(where, sigma, none, every)
            guided.append(where - (zero + 3 * (conditioned - zero)) / 4)
        ours, reference = guided
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def test_published_names_and_back(model):
    weights = to_published(model.state_dict())
    assert "layers.1.attn2.to_out.0.weight" in weights
    config = config_of({name: tuple(tensor.shape) for name, tensor in weights.items()}, whole_time=False)
    assert dataclasses.replace(config, time_width=0) == CONFIG
    back = FromPublished(weights, list(model.state_dict()))
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"no place for layers\.0\.else"):
        FromPublished({**weights, "layers.0.else": torch.zeros(1)}, list(model.state_dict()))
    weights.pop("layers.0.gate")
    with pytest.raises(ValueError, match=r"the weights have no layers\.0\.gate"):
        FromPublished(weights, list(model.state_dict()))
    with pytest.raises(ValueError, match="no transformer over features"):
        config_of({"embed.weight": (4, 4)})


def test_the_published_size_is_that_of_the_paper():
    with torch.device("meta"):
        from diptych.models.feature_dit import PRESETS

        model = FeatureDiT(PRESETS["blip3o_1.4b"])
    assert model.config.inner == 4864
    assert 1.36e9 < sum(p.numel() for p in model.parameters()) < 1.37e9


def test_a_row_of_a_batch_is_what_it_is_alone(model):
    x, sigma, states, mask = inputs(4)
    together = velocity(model, x, sigma, states, mask)
    for row in range(4):
        length = int(mask[row].sum())
        alone = velocity(model, x[row : row + 1], sigma[row : row + 1], states[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_zeros_are_all_alike(model):
    x, sigma, states, _ = inputs()
    one = velocity(model, x, sigma, torch.zeros_like(states[:, :1]))
    torch.testing.assert_close(velocity(model, x, sigma, torch.zeros_like(states)), one, atol=1e-5, rtol=1e-5)


def test_a_whole_time_is_that_of_the_level_below(model):
    x, _, states, _ = inputs(1)
    whole = stirred(FeatureDiT(dataclasses.replace(CONFIG, whole_time=True)))
    thirds, cut = torch.tensor([29 / 30]), torch.tensor([0.966])
    assert torch.equal(velocity(whole, x, thirds, states), velocity(whole, x, cut, states))
    assert not torch.equal(velocity(model, x, thirds, states), velocity(model, x, cut, states))
    # 0.9 in float32 is below 0.9, and still at 900
    below, level = torch.tensor([0.9]), torch.tensor([0.9005])
    assert torch.equal(velocity(whole, x, below, states), velocity(whole, x, level, states))


def test_a_blind_one_is_a_regression():
    model = stirred(FeatureDiT(dataclasses.replace(CONFIG, blind=True)))
    x, _, states, _ = inputs(2)
    full, half = torch.ones(2), torch.full((2,), 0.5)
    clean = x - velocity(model, x, full, states)
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(other - velocity(model, other, full, states), clean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other - velocity(model, other, half, states) / 2, clean, atol=1e-5, rtol=1e-5)


def test_growth_pruning_width_and_adapters(model):
    arguments = inputs()
    before = velocity(model, *arguments)
    assert torch.equal(velocity(grow(model, 3, keep=2), *arguments), before)
    assert len(prune(model, [0]).blocks) == 1
    torch.testing.assert_close(velocity(widen(model, 96), *arguments), before, atol=1e-4, rtol=1e-4)
    adapted = stirred(FeatureDiT(CONFIG))
    adapted.load_state_dict(model.state_dict())
    add_lora(adapted, 2)
    assert torch.equal(velocity(adapted, *arguments), before)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    changed = velocity(adapted, *arguments)
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(velocity(merge_lora(adapted), *arguments), changed, atol=1e-5, rtol=1e-5)


def test_a_grown_block_learns_from_the_first_step(model):
    grown = grow(model, 3, keep=2)
    grown.requires_grad_(True)
    x, sigma, states, mask = inputs()
    grown(x, sigma, grown.condition(states, mask)).square().mean().backward()
    for name in ("attention_out_norm", "feed_out_norm"):
        gradient = grown.blocks[2].get_submodule(name).weight.grad
        assert gradient.isfinite().all()
        assert gradient.any()


def test_starting_values_give_no_velocity_and_learn():
    model = FeatureDiT(CONFIG)
    model.initialise(torch.Generator().manual_seed(0))
    x, sigma, states, mask = inputs()
    assert not velocity(model, x, sigma, states, mask).any()
    model(x, sigma, model.condition(states, mask)).sum().backward()
    assert model.head.weight.grad.any()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heads": 5}, "width must be a multiple of 4 heads"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"depth": 5000}, "depth must be at most 1,024"),
        ({"ffn_width": -1}, "ffn_width must be 0 or above"),
    ],
)
def test_sizes_that_cannot_be(wrong, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(CONFIG, **wrong)


def test_what_it_does_not_take(model):
    x, sigma, states, mask = inputs()
    with pytest.raises(ValueError, match="draws single pictures, got 2 frames"):
        velocity(model, x.expand(-1, 2, -1, -1, -1), sigma, states)
    with pytest.raises(ValueError, match="nothing that is seen"):
        velocity(model, x, sigma, states, mask & False)
