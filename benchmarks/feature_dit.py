"""The transformer over features against diffusers' LuminaNextDiT2DModel on the same weights: a guided drawing
of 64 vectors in 30 steps, at published width.

- python benchmarks/feature_dit.py [--layers 2] [--pairs 5]

Runs alternate in one process; the ratio is the peer's median over ours, with the smallest and largest ratio
of a pair beside it. The peer makes the published code's calls: both halves of the guidance in one batch, the
projection of the condition and its keys and values anew in every step.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import LuminaNextDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
from timing import timed
from torch import Tensor

from diptych.flow import SamplerConfig, solve
from diptych.models.feature_dit import PRESETS, FeatureDiT, to_published
from diptych.surgery import prepare

STEPS, GUIDANCE, TOKENS = 30, 3.0, 64
PROJECTION = "caption_projection."


def models(layers: int) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], FeatureDiT]:
    """The peer's velocity of x at times under states, and our model."""
    import dataclasses

    config = dataclasses.replace(PRESETS["blip3o_1.4b"], depth=layers)
    ours = FeatureDiT(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in ours.starting_values(generator):
            # gates and modulation at zero would leave most of the work without a say
            drawn = torch.randn(value.shape, generator=generator) * 0.02
            ours.get_parameter(name).copy_(value if value.any() else drawn)
    weights = to_published(ours.state_dict())
    projection = {n.removeprefix(PROJECTION): t for n, t in weights.items() if n.startswith(PROJECTION)}
    peer = LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=config.channels,
        hidden_size=config.width,
        num_layers=layers,
        num_attention_heads=config.heads,
        num_kv_heads=config.heads,
        # inner width as published, which newer versions would make another
        multiple_of=config.inner,
        learn_sigma=False,
        cross_attention_dim=config.width,
    ).eval()
    rest = {n: t for n, t in weights.items() if not n.startswith(PROJECTION)}
    missing, unexpected = peer.load_state_dict(rest, strict=False)
    assert not unexpected
    assert set(missing) <= {"pad_token"}
    rotary = get_2d_rotary_pos_embed_lumina(config.width // config.heads, 384, 384)

    def velocity(x: Tensor, times: Tensor, states: Tensor) -> Tensor:
        inner = F.gelu(
            F.linear(states, projection["linear_1.weight"], projection["linear_1.bias"]), approximate="tanh"
        )
        caption = F.linear(inner, projection["linear_2.weight"], projection["linear_2.bias"])
        mask = torch.ones(caption.shape[:2], dtype=torch.long)
        found: Tensor = peer(x, times, caption, mask, rotary, {}, return_dict=False)[0]
        return found

    return velocity, ours.eval()


@torch.inference_mode()
def draw_peer(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor], noise: Tensor, states: Tensor, steps: int = STEPS
) -> Tensor:
    x = noise
    levels = [1 - step / steps for step in range(steps)] + [0.0]
    both = torch.cat([torch.zeros_like(states), states])
    for now, then in pairwise(levels):
        times = torch.full((2,), float(int(1000 * now + 1e-6)))
        null, conditioned = velocity(torch.cat([x, x]), times, both).chunk(2)
        x = x + (then - now) * (null + GUIDANCE * (conditioned - null))
    return x


@torch.inference_mode()
def draw_ours(model: FeatureDiT, noise: Tensor, states: Tensor, steps: int = STEPS) -> Tensor:
    both = model.condition(torch.cat([torch.zeros_like(states), states]))

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        null, conditioned = model(torch.cat([x, x]), sigma.repeat(2), both).chunk(2)
        return null + GUIDANCE * (conditioned - null)

    return solve(SamplerConfig(shift=1.0), velocity, noise[:, None], steps)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    velocity, ours = models(options.layers)
    config, generator = ours.config, torch.Generator().manual_seed(1)
    noise = torch.randn(1, config.channels, 8, 8, generator=generator)
    states = torch.randn(1, TOKENS, config.caption_channels, generator=generator)
    fast = prepare(ours)
    calls = {"peer": (draw_peer, velocity), "ours": (draw_ours, fast)}
    # one step of each first: what is made once a process
    found = {name: draw(model, noise, states, 1) for name, (draw, model) in calls.items()}
    difference = float((found["peer"] - found["ours"]).abs().max())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.pairs):
        for name, (draw, model) in calls.items():
            found[name], passed = timed("cpu", draw, model, noise, states)
            seconds[name].append(passed)
    difference = max(difference, float((found["peer"] - found["ours"]).abs().max()))
    ratios = sorted(p / o for p, o in zip(seconds["peer"], seconds["ours"], strict=True))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    told = {
        "seconds": medians,
        "ratio": round(medians["peer"] / medians["ours"], 2),
        "of pairs": [round(ratios[0], 2), round(ratios[-1], 2)],
        "largest difference": difference,
        "largest value": float(found["peer"].abs().max()),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
