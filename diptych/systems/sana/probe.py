"""A micro-batch of a SANA run on tensors without storage, for memory estimates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diptych import surgery
from diptych.contracts import Probe
from diptych.data.captioned.buckets import buckets
from diptych.files.folder import locate
from diptych.models.linear_dit import LinearDiT
from diptych.request import Role
from diptych.spaces import load_space
from diptych.systems.sana.config import SanaTrainConfig
from diptych.systems.sana.parts import open_parts
from diptych.training.memory import default_dtype

CAPTION_TOKENS = 40
"""Text tokens that a batch is counted with; the longest caption of a real one may have more."""
FACTOR = 32
"""Of DC-AE, where no autoencoder is named yet."""
NATIVE = 128
"""px of the recipes' own small model, where no model to start from is named yet."""


def probe(config: SanaTrainConfig) -> Probe:
    """The denoiser with one micro-batch at the largest resolution: that of the model which the run starts
    from, if any. Text encoder and autoencoder come on top."""
    start = open_parts(locate(config.start)) if config.start else None
    config = config.sized(NATIVE if start is None else start.native)
    factor = load_space(Path(config.space)).factor if config.space else FACTOR
    if start is not None:
        config, factor = replace(config, model=start.model), start.space.factor
    pictures = config.data.pictures_per_step // config.data.accumulate
    resolution = max(r for stage in config.stages for r in stage.resolutions or config.data.resolutions)
    # any bucket will do: all of a resolution have about the same area
    bucket = buckets(resolution, factor * config.model.patch)[0]
    height, width = bucket.height // factor, bucket.width // factor
    roles = (Role.TARGET, Role.CONTROL) if config.control else (Role.TARGET,)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, default_dtype(getattr(torch, config.weights)):
        model = LinearDiT(config.framed(config.model))
        if config.lora_rank:
            surgery.add_lora(model, config.lora_rank)

    def forward() -> Tensor:
        with mode:
            x = torch.empty(pictures, len(roles), config.model.channels, height, width)
            text = torch.empty(pictures, CAPTION_TOKENS, config.model.caption_channels)
            levels = torch.empty(pictures, len(roles))
            return model(x, levels, model.condition(text), roles=roles).float().square().mean()

    tokens = pictures * len(roles) * height * width // config.model.patch**2
    return Probe(model=model, body=model, forward=forward, block_input=tokens * config.model.width)
