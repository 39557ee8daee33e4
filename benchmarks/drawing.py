"""A guided picture of the mixture against the public implementation of SenseNova-U1, run beside it.

python benchmarks/drawing.py CHECKOUT [--side 512] [--steps 8] [--pairs 9] [--dtype float32] [--device cpu]
  [--published 8b]

CHECKOUT is a folder with the public repository, in an environment with what it asks for (transformers
4.57.1). Both hold the same random weights, of about 300M parameters, or with `--published` of a published
size; both draw from the same noise by the same steps, one prompt of 48 tokens and an empty one. Runs
alternate in one process, warm-up left out; ratios are the peer's median over ours, with the smallest and
largest ratio of a pair beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from timing import timed
from torch import Tensor

from diptych.flow import FlowConfig, noise_scale, solve, to_velocity
from diptych.models.mot import MoT, MoTConfig, u1_8b
from diptych.models.mot.convert import config_to_published, to_published
from diptych.surgery import pack

PROMPT, ASKED, EMPTY = "prompt", 48, 8
GUIDANCE, SIGMA_MIN, FLOW = 4.0, 0.02, FlowConfig()


def medium() -> MoTConfig:
    return MoTConfig(
        vocab_size=8192,
        width=1024,
        depth=8,
        heads=16,
        kv_heads=8,
        head_dim=128,
        ffn_width=3072,
    )


class Words:
    """The tokens of the two prompts, in place of the peer's tokenizer."""

    def __init__(self, vocabulary: int, device: str) -> None:
        draw = torch.Generator().manual_seed(0)
        self.asked, self.empty = (
            torch.randint(0, vocabulary, (1, count), generator=draw).to(device) for count in (ASKED, EMPTY)
        )

    def __call__(self, text: str, **_: Any) -> dict[str, Tensor]:
        return {"input_ids": self.asked if PROMPT in text else self.empty}


def models(options: argparse.Namespace) -> tuple[Any, MoT]:
    """The public model and ours, with the same weights."""
    config = u1_8b() if options.published else medium()
    dtype = getattr(torch, options.dtype)
    with torch.device("meta"):
        ours = MoT(config)
    ours = ours.to(dtype).to_empty(device=options.device).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    for name, value in ours.starting_values(draw):
        if name.startswith("pixel_head.second"):
            # a fresh model draws plain gray
            value = torch.randn(value.shape, generator=draw) * value[..., :1].numel() ** -0.5
        ours.get_parameter(name).copy_(value)
    sys.path.insert(0, str(options.checkout / "src"))
    from sensenova_u1.models.neo_unify import NEOChatConfig, NEOChatModel, set_attn_backend

    if options.device == "cpu":
        set_attn_backend("sdpa")
    with torch.device(options.device):
        peer = NEOChatModel(NEOChatConfig(**config_to_published(config, FLOW, dtype, 0, 0)))
    peer = peer.to(dtype).eval().requires_grad_(False)
    peer.load_state_dict(to_published(ours.state_dict(), config))
    pack(ours)
    return peer, ours


def draw_peer(peer: Any, words: Words, options: argparse.Namespace, seed: int) -> Tensor:
    return peer.t2i_generate(
        words,
        PROMPT,
        cfg_scale=GUIDANCE,
        timestep_shift=FLOW.sampler.shift,
        image_size=(options.side, options.side),
        num_steps=options.steps,
        t_eps=SIGMA_MIN,
        seed=seed,
    )


def draw_ours(model: MoT, words: Words, options: argparse.Namespace, seed: int) -> Tensor:
    caches = []
    for ids in (words.asked, words.empty):
        positions = torch.zeros(*ids.shape, 3, dtype=torch.long, device=ids.device)
        positions[..., 0] = torch.arange(ids.shape[1], device=ids.device)
        lengths = torch.tensor([ids.shape[1]], device=ids.device)
        caches.append(model.prefix(model.embedding(ids), positions, lengths, None)[1])
    tokens = options.side**2 // model.config.token**2
    scale = torch.tensor([noise_scale(FLOW, tokens)], device=options.device)
    dtype = model.embedding.weight.dtype
    noise = torch.randn(
        (1, 3, options.side, options.side),
        device=options.device,
        dtype=dtype,
        generator=torch.Generator(options.device).manual_seed(seed),
    )

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.to(x.device).float().expand(1)
        asked, empty = (
            to_velocity(model.denoise(x.to(dtype), level, scale, cache).float(), x, level, SIGMA_MIN)
            for cache in caches
        )
        return empty + GUIDANCE * (asked - empty)

    return solve(FLOW.sampler, velocity, noise.float() * scale, options.steps)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--published", choices=["8b"])
    options = parser.parse_args()
    peer, ours = models(options)
    words = Words(ours.config.vocab_size, options.device)
    expected, found = (
        draw(model, words, options, 0).float() for draw, model in ((draw_peer, peer), (draw_ours, ours))
    )
    told = {
        **vars(options),
        "checkout": "",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in peer.parameters()),
        "largest difference": float((expected - found).abs().max()),
        "of": float(expected.abs().max()),
    }
    print(json.dumps(told))
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for round_ in range(options.pairs):
        times["ours"].append(timed(options.device, draw_ours, ours, words, options, round_)[1])
        times["peer"].append(timed(options.device, draw_peer, peer, words, options, round_)[1])
    ratios = [b / a for a, b in zip(times["ours"], times["peer"], strict=True)]
    own, other = (statistics.median(times[name]) for name in ("ours", "peer"))
    print(f"ours {own:.2f} s, peer {other:.2f} s, {other / own:.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
