"""The mixture of transformers against the public implementation of SenseNova-U1, float32, on the same
weights.

Limits are those that the golden data derives: 1e-5 of the largest value for a single pass, 5e-5 for complete
runs.
"""

from types import SimpleNamespace

import pytest
import torch
from golden_files import load, load_json

from diptych.flow import (
    FlowConfig,
    NoiseLaw,
    Objective,
    SamplerConfig,
    guided_velocity,
    interpolate,
    noise_scale,
    sigmas,
    solve,
    to_velocity,
)
from diptych.models.mot import CLEAN, NOISY, TEXT, Layout, MoT, Slots, may_see
from diptych.models.mot.convert import config_from_published, from_published, to_published
from diptych.models.mot.layers import patchify

SINGLE, RUN = 1e-5, 5e-5


def close(ours: torch.Tensor, theirs: torch.Tensor, limit: float = SINGLE) -> None:
    worst = float((ours.detach() - theirs).abs().max() / theirs.abs().max())
    assert worst <= limit, f"differs by {worst:.2e} of the largest value"


def pictures(patches: torch.Tensor, grids: torch.Tensor) -> list[torch.Tensor]:
    """Row-major patches (channel, row, column) back to pictures (1, 3, height, width)."""
    out, at = [], 0
    for rows, columns in grids.tolist():
        part = patches[at : at + rows * columns].view(rows, columns, 3, 16, 16)
        out.append(part.permute(2, 0, 3, 1, 4).reshape(1, 3, rows * 16, columns * 16))
        at += rows * columns
    return out


@pytest.fixture(scope="module", params=["u1_dense", "u1_moe"])
def case(request: pytest.FixtureRequest) -> SimpleNamespace:
    weights, published = load(f"{request.param}/model"), load_json(f"{request.param}/config")
    config = config_from_published(published, [(name, tuple(w.shape)) for name, w in weights.items()])
    model = MoT(config)
    model.load_state_dict(from_published(weights, config))
    index = load_json(f"{request.param}/index")
    return SimpleNamespace(
        model=model,
        weights=weights,
        published=published,
        index=index,
        load=lambda name: load(f"{request.param}/{name}"),
        marks=index["settings"]["special_tokens"],
    )


def flow_of(case: SimpleNamespace, t_eps: float) -> FlowConfig:
    p = case.published
    return FlowConfig(
        noise_scale=p["noise_scale"],
        noise_scale_base_tokens=p["noise_scale_base_image_seq_len"],
        noise_scale_max=p["noise_scale_max_value"],
        # theirs is the law of t = 1 - sigma
        law=NoiseLaw(mean=-p["P_mean"], std=p["P_std"], shift=1.0),
        objective=Objective(sigma_min=t_eps),
    )


def prefix(
    case: SimpleNamespace,
    ids: torch.Tensor,
    positions: torch.Tensor | None = None,
    images: list[torch.Tensor] | None = None,
):
    """Read one prefix; positions and mask are made by our rules unless the data gives positions."""
    length = ids.shape[1]
    if positions is None:
        positions = torch.zeros(3, length, dtype=torch.long)
        positions[0] = torch.arange(length)
    und = case.model.embedding(ids)[0].clone()
    clean = ids[0] == case.marks["image_context"]
    if images:
        und[clean] = torch.cat([case.model.embed_clean(x) for x in images])
    kind = torch.where(clean, CLEAN, TEXT)[None]
    zero = torch.zeros_like(ids)
    slots = Slots(kind, positions.T[None], zero, torch.where(clean, positions[0], -1)[None], zero.bool())
    return *case.model.prefix(und[None], positions.T[None], torch.tensor([length]), may_see(slots)), may_see(
        slots
    )[0, 0]


def test_weights_go_out_as_they_came_in(case):
    back = to_published(case.model.state_dict(), case.model.config)
    assert back.keys() == case.weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in case.weights.items())


@torch.no_grad()
def test_text(case):
    data = case.load("text")
    hidden, cache, mask = prefix(case, data["input_ids"], data["positions"])
    assert torch.equal(mask, data["mask"])
    close(hidden[0], data["final_hidden"])
    close(case.model.text_head(hidden), data["logits"])
    for layer, (k, v) in enumerate(cache.layers):
        close(k[0], data["cache_keys"][layer])
        close(v[0], data["cache_values"][layer])


@torch.no_grad()
def test_understanding_and_greedy_continuation(case):
    data = case.load("understanding")
    images = pictures(data["pixel_values"], data["grid_hw"])
    close(torch.cat([case.model.embed_clean(x) for x in images]), data["image_embeddings"])
    hidden, cache, mask = prefix(case, data["input_ids"], data["positions"], images)
    assert torch.equal(mask, data["mask"])
    close(hidden[0], data["final_hidden"])
    logits = case.model.text_head(hidden)
    close(logits, data["logits"])
    step = logits[:, -1]
    for expected, expected_logits in zip(data["greedy_ids"].tolist(), data["greedy_logits"], strict=True):
        close(step[0], expected_logits)
        choice = step.clone()
        choice[:, case.marks["end_of_turn"]] = -torch.inf
        assert int(choice.argmax()) == expected
        state, cache = case.model.extend(case.model.embedding(choice.argmax(-1)), cache)
        step = case.model.text_head(state)


@torch.no_grad()
def test_interfaces(case):
    data = case.load("interfaces")
    given = case.load("understanding")
    images = pictures(given["pixel_values"], given["grid_hw"])
    close(torch.cat([case.model.noisy_interface(x) for x in images]), data["generation_embeddings"])
    close(case.model.time_embedder(data["t"]), data["timestep_embedding"])
    close(case.model.noise_scale_embedder(data["t"]), data["noise_scale_embedding"])
    # ours stand token by token, the data's row by row
    image = data["patchify_image"]
    rows, columns = image.shape[-2] // 32, image.shape[-1] // 32
    expected = (
        data["patchify_pixels"][0]
        .view(rows, 2, columns, 2, 768)
        .transpose(1, 2)
        .reshape(rows * columns, 4, 768)
    )
    assert torch.equal(patchify(image, 16), expected)


def test_noise_scales_and_sampling_times(case):
    data = case.load("interfaces")
    names = {"resolution": "resolution", "dynamic_sqrt": "dynamic_sqrt", "fixed": "fixed"}
    for mode, key in names.items():
        p = case.published
        flow = FlowConfig(
            noise_scale=p["noise_scale"],
            noise_scale_mode=mode,
            noise_scale_base_tokens=64,
            noise_scale_max=p["noise_scale_max_value"],
        )
        for (width, height), expected in zip(
            data["noise_scale_sizes"].tolist(), data[f"noise_scale_mode_{key}"].tolist(), strict=True
        ):
            # the data's values of a mode are before the limit
            assert noise_scale(flow, width * height // 1024) == pytest.approx(
                min(expected, flow.noise_scale_max), rel=1e-6
            )
    for steps, shift in ((4, 3), (8, 1), (50, 3)):
        torch.testing.assert_close(
            1 - sigmas(steps, shift), data[f"times_{steps}_shift{shift}"], rtol=0, atol=1e-6
        )


@torch.no_grad()
def test_generation(case):
    data = case.load("generation")
    scale = data["noise_scale"].float()[None]
    noisy = data["noisy_image"]
    for side in ("cond", "uncond"):
        _, cache, _ = prefix(case, data[f"{side}_ids"], data[f"{side}_prefix_positions"])
        assert int(cache.next_time) == int(data[f"{side}_image_positions"][0, 0])
        for t in (0.1, 0.5, 0.9, 0.97):
            sigma = torch.tensor([1 - t])
            predicted = case.model.denoise(noisy, sigma, scale, cache)
            if f"{side}_t{t}_v" in data:
                close(
                    -to_velocity(predicted, noisy, sigma, case.index["settings"]["generation"]["t_eps"]),
                    data[f"{side}_t{t}_v"],
                )


def draw(case: SimpleNamespace, settings: dict, initial: torch.Tensor, caches: dict) -> torch.Tensor:
    scale = torch.tensor([settings["noise_scale"]])
    norm = {"cfg_zero_star": "zero_star"}.get(settings["cfg_norm"], settings["cfg_norm"])

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        parts = {
            kind: to_velocity(
                case.model.denoise(x[:, 0], sigma, scale, cache)[:, None], x, sigma, settings["t_eps"]
            )
            for kind, cache in caches.items()
        }
        return guided_velocity(
            parts,
            torch.tensor([settings["cfg_scale"]]),
            torch.ones(1),
            norm,
            case.model.config.token,
            first_step=sigma == 1.0,
        )

    sampler = SamplerConfig(num_steps=settings["num_steps"], shift=settings["timestep_shift"])
    return solve(sampler, velocity, initial[:, None], sampler.num_steps)[:, 0]


@torch.no_grad()
def test_complete_drawing_runs(case):
    data = case.load("sampling")
    caches = {
        "conditional": prefix(case, data["cond_ids"])[1],
        "unconditional": prefix(case, data["uncond_ids"])[1],
    }
    for name, settings in case.index["settings"]["sampling"].items():
        generator = torch.Generator().manual_seed(settings["seed"])
        noise = torch.randn(1, 3, settings["height"], settings["width"], generator=generator)
        initial = noise * settings["noise_scale"]
        close(draw(case, settings, initial, caches), data[f"{name}_final"], RUN)


def packed_pass(case: SimpleNamespace, data: dict[str, torch.Tensor]):
    """The packed training row through our layout: predictions, loss parts, logits."""
    kind = torch.where(
        data["generation_token"],
        NOISY,
        torch.where(data["input_ids"] == case.marks["image_context"], CLEAN, TEXT),
    )
    slots = Slots(
        kind[None],
        data["positions"].T[None],
        data["document"][None],
        torch.where(kind == TEXT, -1, data["image_number"])[None],
        data["blocked_key"][None],
    )
    layout = Layout.of(slots)
    flow = flow_of(case, case.index["settings"]["packed"]["t_eps"])
    images = pictures(data["pixel_values"], data["grid_hw"])
    clean = [x for x, noisy in zip(images, data["image_is_noisy"], strict=True) if not noisy]
    drawn = [x for x, noisy in zip(images, data["image_is_noisy"], strict=True) if noisy]
    noise = pictures(data["noise"], data["grid_hw"][data["image_is_noisy"]])
    sigma = flow.law.sigma(-data["logit_normal_draw"])
    und = case.model.embedding(data["input_ids"])[layout.und].clone()
    und[kind[layout.und] == CLEAN] = torch.cat([case.model.embed_clean(x) for x in clean])
    gen, levels = [], []
    for x, eps, level in zip(drawn, noise, sigma.split(1), strict=True):
        mean, std = (
            torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
            torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
        )
        target = (x * std + mean).clamp(0, 1) * 2 - 1
        scale = torch.full_like(level, noise_scale(flow, x.shape[-1] * x.shape[-2] // 1024))
        noisy = interpolate(target, eps, level, scale)
        gen.append(case.model.embed_noisy(noisy, level, scale))
        levels.append((target, eps, noisy, level, scale))
    und_hidden, gen_hidden = case.model(und, torch.cat(gen), layout)
    return layout, und_hidden, gen_hidden, levels, flow


def test_packed_training_row(case):
    data = case.load("packed")
    layout, und_hidden, gen_hidden, levels, flow = packed_pass(case, data)
    assert torch.equal(layout.mask[0, 0], data["mask"])
    close(case.model.text_head(und_hidden), data["logits"][layout.und])
    close(gen_hidden, data["final_hidden"][layout.gen])
    total, weight, at = torch.zeros(()), 0.0, 0
    for target, eps, noisy, level, scale in levels:
        rows, columns = (side // 32 for side in noisy.shape[-2:])
        count = rows * columns
        predicted = case.model.pixel_head(gen_hidden[at : at + count], rows, columns)
        theirs = (
            data["x_prediction"][at : at + count]
            .view(rows, columns, 32, 32, 3)
            .permute(4, 0, 2, 1, 3)
            .reshape(1, 3, rows * 32, columns * 32)
        )
        close(predicted, theirs)
        velocity = to_velocity(predicted, noisy, level, flow.objective.sigma_min)
        error = flow.objective.errors(velocity, target, eps, noisy, level, scale)
        total = total + count**0.5 * error.sum()
        weight += count**0.5
        at += count
    loss = total / max(1.0, weight)
    close(loss, data["loss"])
    case.model.zero_grad()
    loss.backward()
    norms = case.index["packed_gradient_norms"]["values"]
    gradients = to_published(
        {n: p.grad for n, p in case.model.named_parameters() if p.grad is not None}, case.model.config
    )
    for name, gradient in gradients.items():
        assert float(gradient.norm()) == pytest.approx(norms.get(name, 0.0), rel=1e-4, abs=1e-6), name
