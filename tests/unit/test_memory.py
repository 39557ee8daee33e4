"""The estimate of a run's memory against what torch's allocator really held."""

import dataclasses
import functools
import gc
import json

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from diptych.cli import main
from diptych.models.linear_dit import LinearDiT
from diptych.optim.build import OptimConfig, build_optimisers
from diptych.recipes import sana_small
from diptych.training.ema import EMA
from diptych.training.memory import estimate


def measured(config, side: int, trace) -> int:
    """Largest number of bytes that one step's tensors held together, weights and states included, from
    torch's profiler."""
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as profile:
        model = LinearDiT(config.model)
        model.initialise(torch.Generator())
        if config.weights == "bfloat16":
            model.to(torch.bfloat16)
        ema = EMA(model, config.ema)
        optimisers = build_optimisers(model.named_parameters(), config.stages[0].optim)
        if config.checkpoint_blocks:
            for block in model.blocks:
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        pictures = config.data.pictures_per_step
        for _ in range(2):
            x, text = (
                torch.randn(pictures, 1, config.model.channels, side, side),
                torch.randn(pictures, 40, config.model.caption_channels),
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
                loss = model(x, torch.rand(pictures), model.condition(text)).float().square().mean()
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
            ema.update(model)
            model.zero_grad(set_to_none=True)
    profile.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    before = memory[0]["args"]["Total Allocated"] - memory[0]["args"]["Bytes"]
    return max(e["args"]["Total Allocated"] for e in memory) - before


@pytest.mark.parametrize(
    ("optimiser", "weights", "bf16", "recompute"),
    [
        *(
            (optimiser, "float32", *how)
            for optimiser in ("muon", "adamw")
            for how in ((True, False), (False, False), (True, True))
        ),
        ("came8bit", "float32", True, False),
        ("came8bit", "bfloat16", True, True),
    ],
)
def test_the_estimate_is_within_fifteen_percent(tmp_path, bf16, recompute, optimiser, weights):
    base = sana_small()
    config = dataclasses.replace(
        base,
        bf16=bf16,
        weights=weights,
        ema=0.9 if weights == "float32" else 0.0,
        checkpoint_blocks=recompute,
        model=dataclasses.replace(base.model, depth=6, width=256, cross_heads=4, patch=1),
        data=dataclasses.replace(base.data, pictures_per_step=6, resolutions=(128,)),
        stages=(dataclasses.replace(base.stages[0], optim=OptimConfig(name=optimiser)),),
    )
    assert estimate(config, 8).total == pytest.approx(measured(config, 16, tmp_path / "trace.json"), rel=0.15)


def test_info_tells_the_memory_of_a_run(capsys):
    assert main(["info", "--train", "sana-small", "--data.pictures-per-step", "8"]) == 0
    said = capsys.readouterr().out
    assert "activations" in said
    assert "peak" in said
    assert main(["info", "--train", "emoji"]) == 2
