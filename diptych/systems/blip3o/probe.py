"""A micro-batch of a run on tensors without storage, for memory estimates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diptych.contracts import Probe
from diptych.files.folder import locate
from diptych.files.typed import convert, read_json
from diptych.models.linear_dit import LinearDiTConfig
from diptych.spaces.factor import factor_of
from diptych.spaces.facts import KIND, FeatureFacts
from diptych.systems.blip3o.config import DETOKENIZER, DRAWING, BlipTrainConfig
from diptych.systems.blip3o.parts import make_denoiser
from diptych.systems.blip3o.settings import SPACE, read_contents
from diptych.training.memory import default_dtype

STATES = 64
"""Positions of a condition that a batch is counted with, where queries do not say."""
SIDE, CHANNELS = 8, 64
"""Vectors a side, and channels of each, where no space is named yet."""


def probe(config: BlipTrainConfig) -> Probe:
    """The denoiser with one micro-batch; language model, bridge and image space come on top. Raises
    ValueError for a run of a model without one."""
    if config.learns not in (DRAWING, DETOKENIZER):
        raise ValueError(
            f"memory is estimated for runs of a denoiser, and this one trains a model of "
            f"another kind ({config.learns})"
        )
    start = read_contents(locate(config.start)) if config.start else None
    space = locate(config.start) / SPACE if config.start else Path(config.space) if config.space else None
    side, channels = (SIDE, CHANNELS) if space is None else _grid(space, config.side)
    model_config: Any = config.linear or config.model
    if config.learns == DETOKENIZER:
        model_config = config.linear or LinearDiTConfig(depth=4, width=192, cross_heads=3)
    if start is None:
        told = {"channels": channels, "caption_channels": max(model_config.caption_channels, 64)}
        model_config = replace(model_config, **told)
    else:
        model_config = start.model
    pictures = config.data.pictures_per_step // config.data.accumulate
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, default_dtype(getattr(torch, config.weights)):
        model = make_denoiser(model_config)

    def forward() -> Tensor:
        with mode:
            x = torch.empty(pictures, 1, model_config.channels, side, side)
            states = torch.empty(pictures, STATES, model_config.caption_channels)
            found = model(x, torch.empty(pictures, 1), model.condition(states))
            return found.float().square().mean()

    tokens = pictures * side * side // model_config.patch**2
    return Probe(model=model, body=model, forward=forward, block_input=tokens * model_config.width)


def _grid(space: Path, native: int) -> tuple[int, int]:
    """Vectors a side and channels of the targets in a space, from its JSON alone."""
    path = space / "config.json"
    values = convert(dict[str, Any], read_json(path), str(path))
    if values.get("kind") == KIND:
        facts = convert(FeatureFacts, values, str(path))
        return facts.side, facts.channels
    return native // factor_of(space), int(values.get("latent_channels", CHANNELS))
