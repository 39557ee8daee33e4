"""The two stages of training, as published: the planner through adapters, then the projector between two
frozen models."""

from __future__ import annotations

from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.optim.build import OptimConfig
from diptych.systems.unison.config import PROJECTOR, UnisonStage, UnisonTrainConfig


def planner() -> UnisonTrainConfig:
    """A language model learns to plan: adapters (LoRA) on its layers and rows for its new tokens, vision
    frozen, over planning data made on the way; needs --start. Time: by the model; 500,000 requests."""
    return UnisonTrainConfig(
        name="unison-planner",
        lora_rank=8,
        stages=(
            UnisonStage(
                name="planning",
                steps=15_625,
                optim=OptimConfig(name="adamw", lr=1e-4, warmup=1000, decay=1.0),
            ),
        ),
        ema=0.0,
        save_every=500,
        sample_every=5000,
    )


def projector() -> UnisonTrainConfig:
    """A projector learns to say to a generator what the planner understood, both frozen, over pictures with
    captions; needs --start and --pictures. Time: by the generator; 10,000 steps."""
    return UnisonTrainConfig(
        name="unison-projector",
        data=PictureLoaderConfig(pictures_per_step=32, resolutions=(480,)),
        stages=(
            UnisonStage(
                name="projector",
                steps=10_000,
                trainable=PROJECTOR,
                optim=OptimConfig(name="adamw", lr=1e-4, warmup=500, decay=0.5),
            ),
        ),
        ema=0.999,
        save_every=500,
        sample_every=5000,
    )


RECIPES = {"unison-planner": planner, "unison-projector": projector}
