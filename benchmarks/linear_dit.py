"""The linear DiT against diffusers' on the same weights: a guided picture, a training step, peak memory,
bfloat16 error.

- python benchmarks/linear_dit.py draw [--dtype float32|bfloat16] [--side 16|32] [--layers 2] [--compile]
  [--pairs 5]
- python benchmarks/linear_dit.py train [--pairs 5]
- python benchmarks/linear_dit.py memory | error [--dtype ...] [--side ...]

Runs alternate in one process; ratios are the peer's median over ours, with the smallest and largest ratio of
a pair beside it. The peer makes its own pipeline's calls: 300 text tokens with a mask, both halves of the
guidance in one batch, every step anew.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DPMSolverMultistepScheduler, SanaTransformer2DModel

from diptych.flow import SamplerConfig, solve
from diptych.models.linear_dit import LinearDiT, trim_text
from diptych.models.linear_dit.convert import config_from_diffusers, from_diffusers
from diptych.surgery import prepare

TEXT, REAL, STEPS, GUIDANCE = 300, 40, 20, 4.5


def models(
    layers: int, width: int, cross_heads: int, caption: int, dtype: torch.dtype
) -> tuple[SanaTransformer2DModel, LinearDiT]:
    torch.manual_seed(0)
    peer = SanaTransformer2DModel(
        num_layers=layers,
        num_attention_heads=width // 32,
        num_cross_attention_heads=cross_heads,
        cross_attention_head_dim=width // cross_heads,
        cross_attention_dim=width,
        caption_channels=caption,
        qk_norm="rms_norm_across_heads",
    )
    ours = LinearDiT(config_from_diffusers(dict(peer.config)))
    ours.load_state_dict(from_diffusers(peer.state_dict()))
    return peer.to(dtype), ours.to(dtype)


def draw_peer(
    peer: Callable, noise: torch.Tensor, text: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    scheduler.set_timesteps(STEPS)
    latents = noise
    for t in scheduler.timesteps:
        both = torch.cat([latents] * 2).to(dtype)
        out = peer(
            both,
            encoder_hidden_states=text.to(dtype),
            encoder_attention_mask=mask,
            timestep=t.expand(2),
            return_dict=False,
        )[0].float()
        null, conditional = out.chunk(2)
        latents = scheduler.step(null + GUIDANCE * (conditional - null), t, latents, return_dict=False)[0]
    return latents


def draw_ours(
    model: LinearDiT, noise: torch.Tensor, text: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    trimmed, real = trim_text(text.to(dtype), mask)
    condition = model.condition(trimmed, real)

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        # the peer's scheduler hands whole times to its model
        level = (sigma * 1000 + 1e-3).floor().div(1000).expand(2)
        null, conditional = (
            model(torch.cat([x, x])[:, None].to(dtype), level, condition)[:, 0].float().chunk(2)
        )
        return null + GUIDANCE * (conditional - null)

    return solve(SamplerConfig(solver="dpm", shift=3.0, first_sigma=0.999), velocity, noise, STEPS)


def alternate(runs: dict[str, Callable[[], object]], pairs: int) -> dict[str, list[float]]:
    """Seconds of each run, in turn, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(pairs + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def told(seconds: dict[str, list[float]], ours: str) -> dict[str, str]:
    """Ratio of every peer to `ours`: median, and the range over pairs."""
    rows = {}
    for name, values in seconds.items():
        pairs = [theirs / own for theirs, own in zip(values, seconds[ours], strict=True)]
        ratio = statistics.median(values) / statistics.median(seconds[ours])
        rows[name] = f"{statistics.median(values):.3f} s, {ratio:.2f}x ({min(pairs):.2f}-{max(pairs):.2f})"
    return rows


@torch.inference_mode()
def draw(options: argparse.Namespace) -> None:
    dtype = getattr(torch, options.dtype)
    peer, ours = models(options.layers, 2240, 20, 2304, dtype)
    peer, ours = peer.eval(), ours.eval()
    noise, text = torch.randn(1, 32, options.side, options.side), torch.randn(2, TEXT, 2304)
    mask = torch.zeros(2, TEXT, dtype=torch.long)
    mask[0, 0], mask[1, :REAL] = 1, 1
    expected, found = draw_peer(peer, noise, text, mask, dtype), draw_ours(ours, noise, text, mask, dtype)
    print(
        "largest difference of the latents",
        float((expected - found).abs().max()),
        "of",
        float(expected.abs().max()),
    )
    runs: dict[str, Callable[[], object]] = {
        "diffusers eager": lambda: draw_peer(peer, noise, text, mask, dtype),
        "ours eager": lambda: draw_ours(ours, noise, text, mask, dtype),
    }
    fast = prepare(ours, compile_blocks=options.compile)
    runs["ours"] = lambda: draw_ours(fast, noise, text, mask, dtype)
    if options.compile:
        compiled = torch.compile(peer)
        runs["diffusers compiled"] = lambda: draw_peer(compiled, noise, text, mask, dtype)
    for name, row in told(alternate(runs, options.pairs), "ours").items():
        print(f"{options.dtype} {options.side}x{options.side} {options.layers} layers  {name:<20}{row}")


def error(options: argparse.Namespace) -> None:
    """bfloat16 velocities against the float32 ones of the same weights."""
    peer, ours = models(options.layers, 2240, 20, 2304, torch.float32)
    x, text, level = (
        torch.randn(2, 32, options.side, options.side),
        torch.randn(2, REAL, 2304),
        torch.tensor([500.0, 900.0]),
    )
    mask = torch.ones(2, REAL)
    with torch.inference_mode():
        exact = peer(x, text, level, encoder_attention_mask=mask).sample
        peer, ours, half = peer.bfloat16(), ours.bfloat16(), torch.bfloat16
        theirs = peer(x.to(half), text.to(half), level, encoder_attention_mask=mask).sample.float()
        own = ours(x[:, None].to(half), level / 1000, ours.condition(text.to(half)))[:, 0].float()
    for name, found in (("diffusers", theirs), ("ours", own)):
        print(
            f"bfloat16 rms error against float32: {name:<10} "
            f"{float((found - exact).square().mean().sqrt()):.5f}"
        )


def train_runs(peer: SanaTransformer2DModel | None, ours: LinearDiT | None) -> dict[str, Callable[[], None]]:
    """Forward, backward, AdamW at 12 layers x 384, batch 2, 16x16, bfloat16 autocast, of each model given."""
    x, target, text = torch.randn(2, 32, 16, 16), torch.randn(2, 32, 16, 16), torch.randn(2, TEXT, 256)
    mask = (torch.arange(TEXT) < REAL).expand(2, -1)
    level = torch.tensor([0.3, 0.8])
    optimisers = {
        name: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True)
        for name, m in (("peer", peer), ("ours", ours))
        if m
    }

    def step(name: str, forward: Callable[[], torch.Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = (forward().float() - target).square().mean()
        loss.backward()
        optimisers[name].step()
        optimisers[name].zero_grad(set_to_none=True)

    def ours_forward() -> torch.Tensor:
        assert ours is not None
        trimmed, real = trim_text(text, mask)
        return ours(x[:, None], level, ours.condition(trimmed, real))[:, 0]

    def peer_forward() -> torch.Tensor:
        assert peer is not None
        return peer(x, text, level * 1000, encoder_attention_mask=mask.float()).sample

    return {"diffusers": lambda: step("peer", peer_forward), "ours": lambda: step("ours", ours_forward)}


def train(options: argparse.Namespace) -> None:
    """The training step of both, in turn."""
    runs = train_runs(*models(12, 384, 12, 256, torch.float32))
    for name, row in told(alternate(runs, options.pairs), "ours").items():
        print(f"training step  {name:<20}{row}")


def _peak(which: str, dtype_name: str, side: int, layers: int, train_step: bool) -> int:
    """KiB that one process with only one of the two models took at most, above what its imports took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dtype, size = getattr(torch, dtype_name), (12, 384, 12, 256) if train_step else (layers, 2240, 20, 2304)
    with torch.device("meta"):
        peer, ours = models(*size, dtype)
    ours = LinearDiT(ours.config).to(dtype) if which == "ours" else None
    peer = SanaTransformer2DModel.from_config(peer.config).to(dtype) if which == "diffusers" else None
    if train_step:
        run = train_runs(peer, ours)[which]
        for _ in range(3):
            run()
    else:
        noise, text = torch.randn(1, 32, side, side), torch.randn(2, TEXT, 2304)
        mask = torch.zeros(2, TEXT, dtype=torch.long)
        mask[0, 0], mask[1, :REAL] = 1, 1
        with torch.inference_mode():
            if peer is not None:
                draw_peer(peer.eval(), noise, text, mask, dtype)
            else:
                draw_ours(ours.eval(), noise, text, mask, dtype)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def memory(options: argparse.Namespace) -> None:
    """Peak resident memory, each model in a process of its own."""
    for train_step in (False, True):
        peaks = {}
        for which in ("diffusers", "ours"):
            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn")
            ) as pool:
                peaks[which] = (
                    pool.submit(
                        _peak,
                        which,
                        "float32" if train_step else options.dtype,
                        options.side,
                        options.layers,
                        train_step,
                    ).result()
                    / 1024
                )
        what = (
            "training step"
            if train_step
            else f"guided picture, {options.dtype} {options.side}x{options.side}"
        )
        print(f"peak memory, {what}: diffusers {peaks['diffusers']:,.0f} MiB, ours {peaks['ours']:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["draw", "train", "error", "memory"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    print(json.dumps({**vars(options), "torch": torch.__version__, "threads": torch.get_num_threads()}))
    {"draw": draw, "train": train, "error": error, "memory": memory}[options.what](options)


if __name__ == "__main__":
    main()
