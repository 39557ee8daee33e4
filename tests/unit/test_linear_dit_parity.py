"""The linear DiT against the public implementations: golden data of the native code, and diffusers live."""

import hashlib

import pytest
import torch
from golden_files import load, load_json

from diptych.flow import SamplerConfig, TrigFlow, angles, integrate, solve
from diptych.flow.trigflow import trig_velocity
from diptych.models.linear_dit import PRESETS, LinearDiT, LinearDiTConfig, trim_text
from diptych.models.linear_dit.convert import (
    config_from_diffusers,
    config_from_native,
    from_diffusers,
    from_native,
    native_null_caption,
    to_diffusers,
    to_native,
)
from diptych.models.linear_dit.layers import Grid, LinearAttention


def native_weights(name):
    # most weights of the second set are those of the first, and are kept once
    return load("sana_native/model") | load(name) if name == "sana_native_2/model" else load(name)


def native_model(name, **overrides):
    weights = native_weights(name)
    model = LinearDiT(config_from_native(weights, **overrides))
    model.load_state_dict(from_native(weights))
    return model.eval(), weights


@torch.no_grad()
def velocity(model, latents, time, caption, mask):
    text, real = trim_text(caption.flatten(1, -2), mask.reshape(mask.shape[0], -1))
    return model(latents[:, None], time / 1000.0, model.condition(text, real))[:, 0]


def case_of(case):
    inputs = load("sana_native/inputs")
    return {name.split(".", 1)[1]: tensor for name, tensor in inputs.items() if name.startswith(case + ".")}


# whole times reach 999: one unit in the last place of exp() on another processor moves a sinusoid by 3e-5
# (golden NOTES)
@pytest.mark.parametrize("case", ["wide", "tall", "square"])
@pytest.mark.parametrize(
    ("file", "name", "overrides", "limit"),
    [
        ("native", "velocity", {}, 4e-5),
        ("native", "velocity_time_over_1000", {"whole_time": False, "time_scale": 1.0}, 5e-6),
        ("diffusers", "velocity", {"cross_norm_eps": 1e-5, "attention_eps": 1e-15}, 4e-5),
        (
            "diffusers",
            "velocity_fractional_time",
            {"cross_norm_eps": 1e-5, "attention_eps": 1e-15, "whole_time": False},
            4e-5,
        ),
        (
            "diffusers",
            "velocity_time_over_1000",
            {"cross_norm_eps": 1e-5, "attention_eps": 1e-15, "whole_time": False, "time_scale": 1.0},
            5e-6,
        ),
    ],
)
def test_velocity_is_the_published_one(case, file, name, overrides, limit):
    model, _ = native_model("sana_native/model", cross_heads=4, **overrides)
    given, expected = case_of(case), load(f"sana_native/{file}")
    ours = velocity(model, given["latents"], given["timesteps"], given["caption"], given["mask"])
    torch.testing.assert_close(ours, expected[f"{case}.{name}"], rtol=0, atol=limit)


@torch.no_grad()
def test_block_parts_are_the_native_ones():
    model, _ = native_model("sana_native/model", cross_heads=4)
    expected = {
        name.split(".", 1)[1]: t for name, t in load("sana_native/native").items() if name.startswith("wide.")
    }
    block, grid, given = model.blocks[0], Grid(1, 6, 10, (0,)), case_of("wide")
    text = model.condition(given["caption"][:, 0], given["mask"][:, 0, 0])
    attended = block.attention(expected["block.0.self_attention_input"][:, None], grid)[:, 0]
    torch.testing.assert_close(attended, expected["block.0.self_attention"], rtol=0, atol=2e-6)
    forwarded = block.feed_forward(expected["block.0.mlp_input"][:, None], grid)[:, 0]
    torch.testing.assert_close(forwarded, expected["block.0.mlp"], rtol=0, atol=2e-6)
    width = text.blocks[0].key.transpose(1, 2).flatten(2)
    torch.testing.assert_close(width, expected["block.0.cross_attention_k_normed"], rtol=0, atol=5e-6)


@torch.no_grad()
@pytest.mark.parametrize(("eps", "name"), [(1e-8, "output"), (1e-15, "output_1e-15")])
def test_the_divisor_of_the_linear_attention_is_the_configured_one(eps, name):
    weights = load("sana_native/linear_attention")
    config = LinearDiTConfig(depth=1, width=64, cross_heads=1, qk_norm=False, attention_eps=eps)
    layer = LinearAttention(config)
    layer.load_state_dict(
        {
            "qkv.weight": weights["qkv.weight"],
            "out.weight": weights["proj.weight"],
            "out.bias": weights["proj.bias"],
        }
    )
    out = layer(weights["input"][:, None], Grid(1, 4, 6, (0,)))[:, 0]
    torch.testing.assert_close(out, weights[name], rtol=0, atol=5e-6 * float(weights[name].abs().max()))


@pytest.mark.parametrize("case", ["square", "wide", "tall", "null"])
def test_velocity_is_that_of_the_second_set(case):
    model, _ = native_model("sana_native_2/model", cross_heads=4)
    data = {name.split(".", 1)[1]: tensor for name, tensor in load(f"sana_native_2/case_{case}").items()}
    ours = velocity(model, data["latent"], data["timestep"], data["caption"], data["mask"])
    torch.testing.assert_close(ours, data["velocity"], rtol=0, atol=3e-5)


def test_gradients_are_the_native_ones():
    model, _ = native_model("sana_native_2/model", cross_heads=4)
    data = {name.split(".", 1)[1]: tensor for name, tensor in load("sana_native_2/case_square").items()}
    expected = load("sana_native_2/gradient")
    order = load_json("sana_native_2/index")["settings"]["gradient_order"]
    text = model.condition(data["caption"], data["mask"])
    loss = (
        (model(data["latent"][:, None], data["timestep"] / 1000, text)[:, 0] - expected["target"])
        .square()
        .mean()
    )
    loss.backward()
    assert loss.item() == pytest.approx(float(expected["loss"]), rel=1e-5)
    ours = to_native({name: p.grad for name, p in model.named_parameters()})
    norms = torch.stack([ours[name].norm() for name in order])
    torch.testing.assert_close(norms, expected["grad_norms"], rtol=1e-4, atol=0)
    full = {
        name.removeprefix("grad."): tensor for name, tensor in expected.items() if name.startswith("grad.")
    }
    for name, gradient in full.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize(("theirs", "diffusers_file"), [("model", "model_diffusers"), ("sprint_model", None)])
def test_names_go_both_ways_bit_for_bit(theirs, diffusers_file):
    native = native_weights(f"sana_native_2/{theirs}")
    ours = from_native(native)
    dropped = {"pos_embed", "logvar_linear.weight", "logvar_linear.bias"}
    again = to_native(ours, native_null_caption(native))
    assert set(again) == set(native) - dropped
    assert all(torch.equal(again[name], native[name]) for name in again)
    if diffusers_file:
        found = {name: [list(t.shape), digest(t)] for name, t in to_diffusers(ours).items()}
        assert found == load_json(f"sana_native_2/{diffusers_file}")
    assert_same(from_diffusers(to_diffusers(ours)), ours)


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_of_another_model_are_refused(change):
    weights = native_weights("sana_native_2/model")
    if change == "missing":
        del weights["blocks.1.attn.proj.weight"]
        message = "no blocks.1.attn.proj.weight"
    else:
        weights["blocks.0.attn.extra.weight"] = torch.zeros(1)
        message = "among them blocks.0.attn.extra.weight"
    with pytest.raises(ValueError, match=message):
        from_native(weights)


RANDOM_CONFIGS = [
    {
        "depth": 1,
        "width": 64,
        "cross": 2,
        "size": (4, 6),
        "qk": True,
        "guided": False,
        "scale": None,
        "patch": 1,
        "lengths": [3, 7, 5],
    },
    {
        "depth": 2,
        "width": 96,
        "cross": 4,
        "size": (6, 4),
        "qk": False,
        "guided": False,
        "scale": None,
        "patch": 1,
        "lengths": [9, 9, 9],
    },
    {
        "depth": 2,
        "width": 64,
        "cross": 1,
        "size": (8, 8),
        "qk": True,
        "guided": True,
        "scale": None,
        "patch": 1,
        "lengths": [1, 2, 8],
    },
    {
        "depth": 3,
        "width": 64,
        "cross": 4,
        "size": (8, 8),
        "qk": True,
        "guided": False,
        "scale": 1.0,
        "patch": 1,
        "lengths": [4, 1, 9],
    },
    {
        "depth": 1,
        "width": 128,
        "cross": 8,
        "size": (6, 10),
        "qk": False,
        "guided": False,
        "scale": 2.0,
        "patch": 1,
        "lengths": [5, 5, 6],
    },
    {
        "depth": 2,
        "width": 64,
        "cross": 2,
        "size": (4, 8),
        "qk": True,
        "guided": False,
        "scale": None,
        "patch": 2,
        "lengths": [2, 3, 4],
    },
    {
        "depth": 2,
        "width": 64,
        "cross": 2,
        "size": (12, 4),
        "qk": False,
        "guided": True,
        "scale": None,
        "patch": 2,
        "lengths": [9, 3, 1],
    },
    {
        "depth": 2,
        "width": 64,
        "cross": 2,
        "size": (8, 12),
        "qk": True,
        "guided": True,
        "scale": 1.0,
        "patch": 2,
        "lengths": [6, 2, 7],
    },
    {
        "depth": 1,
        "width": 32,
        "cross": 1,
        "size": (3, 5),
        "qk": True,
        "guided": False,
        "scale": None,
        "patch": 1,
        "lengths": [1, 1, 1],
    },
]


@torch.no_grad()
@pytest.mark.parametrize("case", RANDOM_CONFIGS, ids=lambda case: "-".join(str(v) for v in case.values()))
def test_random_models_equal_diffusers(case):
    import diffusers

    torch.manual_seed(sum(case["size"]) + case["depth"])
    peer = diffusers.SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=case["width"] // 32,
        attention_head_dim=32,
        num_layers=case["depth"],
        num_cross_attention_heads=case["cross"],
        cross_attention_head_dim=case["width"] // case["cross"],
        cross_attention_dim=case["width"],
        caption_channels=24,
        sample_size=8,
        patch_size=case["patch"],
        guidance_embeds=case["guided"],
        interpolation_scale=case["scale"],
        qk_norm="rms_norm_across_heads" if case["qk"] else None,
    ).eval()
    for parameter in peer.parameters():
        parameter.normal_(std=0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5)
    model = LinearDiT(config_from_diffusers(dict(peer.config))).eval()
    model.load_state_dict(from_diffusers(peer.state_dict()))

    sigma = torch.tensor([0.9, 0.5003, 0.02])
    x, caption = torch.randn(3, 8, *case["size"]), torch.randn(3, 9, 24)
    mask = torch.arange(9) < torch.tensor(case["lengths"])[:, None]
    guidance = torch.tensor([4.5, 1.0, 7.0]) if case["guided"] else None
    time = sigma if case["guided"] else sigma * 1000
    expected = peer(
        x,
        caption,
        time,
        guidance=None if guidance is None else guidance * 0.1,
        encoder_attention_mask=mask.float(),
    ).sample
    text, real = trim_text(caption, mask)
    ours = model(x[:, None], sigma, model.condition(text, real), guidance)[:, 0]
    assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("sana_0.6b", 591_747_872),
        ("sana_1.6b", 1_604_462_752),
        ("sana1.5_1.6b", 1_604_641_952),
        ("sana1.5_3.2b", 3_163_233_952),
        ("sana1.5_4.8b", 4_721_825_952),
        ("sprint_1.6b", 1_610_237_472),
    ],
)
def test_presets_have_the_published_parameter_counts(preset, parameters):
    with torch.device("meta"):
        model = LinearDiT(PRESETS[preset])
    assert sum(p.numel() for p in model.parameters()) == parameters


@torch.no_grad()
@pytest.mark.parametrize(
    ("solver", "steps", "schedule", "limit"),
    [("dpm", 5, {"first_sigma": 0.999}, 5e-4), ("euler", 4, {"schedule": "diffusers_euler"}, 5e-5)],
)
def test_whole_guided_runs_are_the_native_ones(solver, steps, schedule, limit):
    model, _ = native_model("sana_native_2/model", cross_heads=4)
    data = load("sana_native_2/sampling")
    caption, real = trim_text(
        torch.cat([data["null_caption"], data["caption"]]), torch.cat([data["mask"]] * 2)
    )
    text = model.condition(caption, real)

    def guided(x, sigma):
        both = model(torch.cat([x, x])[:, None], torch.cat([sigma, sigma]), text)[:, 0]
        null, conditional = both.chunk(2)
        return null + 4.5 * (conditional - null)

    states = []
    sampler = SamplerConfig(solver=solver, shift=3.0, **schedule)
    end = solve(sampler, guided, data["start"], steps, on_step=lambda _, x: states.append(x))
    torch.testing.assert_close(end, data[f"{solver}_end"], rtol=0, atol=limit)
    if solver == "dpm":
        torch.testing.assert_close(states[0], data["dpm_after_1"], rtol=0, atol=limit)
        torch.testing.assert_close(states[2], data["dpm_after_3"], rtol=0, atol=limit)


@torch.no_grad()
def test_sprint_is_the_native_one():
    model, _ = native_model("sana_native_2/sprint_model", cross_heads=4)
    case = {name.split(".", 1)[-1]: tensor for name, tensor in load("sana_native_2/sprint_case").items()}
    text = model.condition(case["caption"], case["mask"])
    inner = model(case["flow_latent"][:, None], case["flow_time"], text, case["cfg_scale"])[:, 0]
    torch.testing.assert_close(inner, case["flow_velocity"], rtol=0, atol=3e-5)
    for index in range(3):

        def velocity(x, sigma, one=slice(index, index + 1)):
            text = model.condition(case["caption"][one], case["mask"][one])
            return model(x[:, None], sigma, text, case["cfg_scale"][one])[:, 0]

        angle = case["angle"][index : index + 1].flatten().double()
        ours = trig_velocity(velocity, case["latent"][index : index + 1], angle)
        torch.testing.assert_close(ours, case["trig_output"][index : index + 1], rtol=0, atol=3e-5)


@torch.no_grad()
def test_sprint_draws_the_native_picture_in_two_steps():
    model, _ = native_model("sana_native_2/sprint_model", cross_heads=4)
    case = {name.split(".", 1)[-1]: tensor for name, tensor in load("sana_native_2/sprint_case").items()}
    data = {name.split(".", 1)[-1]: tensor for name, tensor in load("sana_native_2/sprint_sampling").items()}
    text, noise = model.condition(case["caption"], case["mask"]), iter(data["noise"])
    torch.testing.assert_close(angles(2), data["angles"], rtol=0, atol=1e-6)

    def velocity(x, sigma):
        return model(x[:, None], sigma, text, torch.full((3,), 4.5))[:, 0]

    states = []
    drawn = integrate(
        TrigFlow(),
        velocity,
        data["start"] / 0.5,
        angles(2).tolist(),
        lambda: next(noise),
        lambda _, x: states.append(x),
    )
    torch.testing.assert_close(states[0] * 0.5, data["state"][0], rtol=0, atol=3e-5)
    torch.testing.assert_close(drawn, data["final"], rtol=0, atol=3e-5)
