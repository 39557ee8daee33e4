"""BLIP3-o against data that the public reference implementation has computed."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from golden_files import load, load_json, write_folder

from diptych.contracts import Prompt, Stack
from diptych.encoders.backbone import Asked
from diptych.models.connector import Bridge, BridgeConfig
from diptych.models.eva_clip import EvaTower, tower_config
from diptych.models.feature_dit import FeatureDiT, FromPublished, config_of, to_published


def close(found: torch.Tensor, expected: torch.Tensor, limit: float) -> None:
    torch.testing.assert_close(found, expected, atol=limit, rtol=0)


def transformer(whole_time: bool) -> FeatureDiT:
    weights = load("blip3o_dit/model")
    model = FeatureDiT(config_of({name: tuple(t.shape) for name, t in weights.items()}, whole_time))
    model.load_state_dict(dict(FromPublished(weights, list(model.state_dict()))))
    back = to_published(model.state_dict())
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    return model


@torch.no_grad()
def test_the_transformer_computes_what_the_reference_does():
    data, model = load("blip3o_dit/forward"), transformer(whole_time=False)
    x, sigma, states = data["latents"][:, None], data["timesteps"] / 1000, data["caption_features"]
    masked = model.condition(states, data["caption_mask"].bool())
    close(model(x, sigma, masked)[:, 0], data["output"], 1e-5)
    close(model(x[..., :4, :6], sigma, masked)[:, 0], data["output_4x6"], 1e-5)
    close(model(x, sigma, model.condition(states))[:, 0], data["output_all_tokens"], 1e-5)
    zeros = model.condition(torch.zeros_like(states[:, :1]))
    close(model(x, sigma, zeros)[:, 0], data["output_zero_condition"], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("steps", "rows"), [(4, 2), (6, 1)])
def test_guided_sampling_ends_where_the_reference_ends(steps, rows):
    data, model = load("blip3o_dit/sampling"), transformer(whole_time=True)
    x, states = data["noise"][:rows, None], data["caption_features"][:rows]
    told, none = model.condition(states), model.condition(torch.zeros_like(states))
    for now, then in pairwise(data[f"sigmas.{steps}"]):
        u, c = (model(x, now.expand(rows), condition) for condition in (none, told))
        x = x + (then - now) * (u + 3 * (c - u))
    close(x[:, 0], data[f"final.{steps}"], 1e-4)


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    pytest.importorskip("diffusers")
    from diptych.systems.blip3o.published import load_published

    folder = tmp_path_factory.mktemp("published") / "model"
    return load_published(write_folder("blip3o_folder/model", folder))


@pytest.fixture(scope="module")
def asked(system) -> dict[str, Asked]:
    data = load("blip3o_folder/conditioning")
    seen = data["image.input_ids"][0]
    pictures = {
        "pixel_values": data["image.pixel_values"],
        "image_grid_thw": data["image.grid_thw"],
        "mm_token_type_ids": (seen[None, :-1] == system.backbone.model.config.image_token_id).int(),
    }
    return {
        "text": Asked(tuple(data["text.input_ids"][0].tolist())),
        "space": Asked((*system.backbone.tokens(" "), system.backbone.mark)),
        "image": Asked(tuple(seen.tolist()), pictures),
    }


@torch.no_grad()
def test_prompts_are_the_references_ids_and_conditions(system, asked):
    data = load("blip3o_folder/conditioning")
    told = load_json("blip3o_folder/index")["prompt"]
    assert (*system.backbone._ids(told), system.backbone.mark) == asked["text"].ids
    assert asked["space"].ids == tuple(data["space.input_ids"][0].tolist())
    for name, request in asked.items():
        close(system._bridged([request]).states, data[f"{name}.condition"], 2e-5)
    together = system._bridged(list(asked.values())).states
    close(together, torch.cat([data[f"{name}.condition"] for name in asked]), 2e-5)
    close(system.backbone.embedded(asked["image"]), data["image.inputs_embeds"][0, :-64], 2e-5)
    ids = F.pad(data["text.input_ids"], (9, 0))
    states, _ = system.bridge(
        system.backbone, ids, torch.arange(ids.shape[1])[None] >= 9, system.backbone.mark
    )
    close(states, data["text.condition"], 2e-5)


@torch.no_grad()
def test_answers_have_the_references_logits(system):
    data, seen = (load(f"blip3o_folder/{n}") for n in ("understanding", "conditioning"))
    model = system.backbone.model
    close(model(input_ids=data["text.input_ids"]).logits[:, -4:], data["text.logits"], 2e-5)
    ids = data["image.input_ids"]
    found = model(
        input_ids=ids,
        pixel_values=seen["image.pixel_values"],
        image_grid_thw=seen["image.grid_thw"],
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    )
    close(found.logits[:, -4:], data["image.logits"], 2e-5)


@torch.no_grad()
@pytest.mark.parametrize(("name", "steps"), [("text", 30), ("text", 4), ("space", 30), ("image", 30)])
def test_drawn_features_are_the_references(system, asked, name, steps):
    from diptych.flow import solver_of
    from diptych.inference.guidance import Guidance

    data = load("blip3o_folder/sampling")
    condition = system.read([Prompt("")], [Stack(system.native, system.native)])
    vars(condition)["told"] = system._bridged([asked[name]])
    guidance, solver = Guidance(system, condition, [3.0], [1.0], False), solver_of(system.sampler)
    x = data[f"{name}.noise"][:, None]
    for now, then in pairwise(solver.points(steps)):
        places = (torch.tensor([place], dtype=torch.float64) for place in (now, then))
        x = solver.step(guidance, x, *places)
    close(x[:, 0].flatten(2).transpose(1, 2), data[f"{name}.{steps}.features"], 5e-5)


@pytest.mark.parametrize("variant", ["none", "first", "both"])
def test_a_training_step_has_the_references_loss_and_gradients(system, variant):
    data = load("blip3o_folder/training")
    names = load_json("blip3o_folder/index")["trainable_names"]
    model, bridge = system.model.requires_grad_(True), system.bridge.requires_grad_(True)
    model.zero_grad()
    bridge.zero_grad()
    # the placeholders behind [IMG] are not read: queries are found by the mark
    states, _ = bridge(system.backbone, data["input_ids"], data["attention_mask"], system.backbone.mark)
    close(states.detach(), data["condition"], 2e-5)
    states = states * (1 - data[f"{variant}.drop"])[:, None, None]
    velocity = model(data["noisy"][:, None], data["sigma"], model.condition(states))[:, 0]
    loss = (velocity - data["target"]).square().mean()
    loss.backward()
    close(velocity.detach(), data[f"{variant}.v"], 2e-5)
    close(loss.detach(), data[f"{variant}.loss"], 1e-5)
    found = to_published({name: parameter.grad for name, parameter in model.named_parameters()})
    gradients = {f"model.dit.model.{name}": gradient for name, gradient in found.items()}
    gradients["model.latent_queries"] = bridge.queries.grad
    norms = torch.stack([gradients[name].norm() for name in names])
    torch.testing.assert_close(norms, data[f"{variant}.grad_norms"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        bridge.queries.grad, data[f"{variant}.grad.latent_queries"], rtol=1e-4, atol=1e-7
    )
    assert bool(bridge.queries.grad.any()) == (variant != "both")
    model.requires_grad_(False)


@torch.no_grad()
def test_the_tower_and_its_pooling_make_the_references_targets():
    data = load("blip3o_folder/tower")
    weights = load("blip3o_folder/tower_model")
    tower = EvaTower(tower_config({name: tuple(t.shape) for name, t in weights.items()}, heads=2))
    tower.load_state_dict(weights)
    base, tile = data["picture.base"], data["picture.tile"]
    patches = tower(base.repeat_interleave(14, 2).repeat_interleave(14, 3) + tile.repeat(1, 1, 32, 32))
    close(patches[0, :256], data["patches"], 1e-5)
    close(F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (32, 32)), 4), data["pooled"], 1e-5)


@torch.no_grad()
def test_the_decoder_draws_the_references_latents(system):
    data, decoder = load("blip3o_folder/decoder"), system.space.detokenizer
    steps, decoder.num_steps = decoder.num_steps, 6
    features, negative = data["context"].transpose(1, 2).unflatten(2, (8, 8)).chunk(2)
    decoder.unet.float()
    close(decoder.latents(features, negative, data["noise"]), data["final"], 1e-4)
    decoder.num_steps = steps


@torch.no_grad()
def test_a_connector_without_blocks_is_that_of_blip3o_next():
    """Room for the fourth bridge: its projection is this one, over states at picture tokens."""
    data = load("blip3o_folder/next")
    bridge = Bridge(BridgeConfig(kind="connector", inputs=32, queries=50, outputs=24, heads=1))
    named = {"widen.weight": "0.weight", "widen.bias": "0.bias", "out_norm": "3.weight"}
    named |= {"narrow.weight": "2.weight", "narrow.bias": "2.bias"}
    bridge.connector.load_state_dict({ours: data[theirs] for ours, theirs in named.items()})
    close(bridge.connector(data["drawing.condition"]), data["drawing.context"], 1e-5)
    close(bridge.connector(data["training.window"]), data["training.context"], 1e-5)
