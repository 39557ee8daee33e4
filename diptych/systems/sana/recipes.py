"""SANA on one's own pictures: from scratch at small size, whole fine-tuning, LoRA, control by edges."""

from __future__ import annotations

from dataclasses import replace

from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.models.linear_dit import PRESETS, LinearDiTConfig
from diptych.optim.build import OptimConfig
from diptych.systems.sana.config import SanaStage, SanaTrainConfig


def small(depth: int = 8, heads: int = 5) -> SanaTrainConfig:
    """A small linear DiT from scratch at 128 px over latents 8 times smaller; needs --pictures and --space.
    Time: on two cores 0.7 s a step, 47 minutes, with a cache (measured).

    `heads` of its cross-attention are 64 channels wide each."""
    return SanaTrainConfig(
        name="sana-small",
        model=LinearDiTConfig(
            depth=depth, width=64 * heads, cross_heads=heads, caption_channels=256, patch=2
        ),
        data=PictureLoaderConfig(pictures_per_step=32, resolutions=(128,)),
        stages=(SanaStage(name="from scratch", steps=4000, optim=OptimConfig(lr=2e-3, decay=0.5)),),
        ema=0.998,
        save_every=200,
    )


def curriculum() -> SanaTrainConfig:
    """SANA-1.5's 1.6B at 512 and then 1024 px, bf16; needs --pictures and --start, for text and autoencoder.
    Time: for a cluster, not measured."""
    # rate, warm-up, clip and average are those of SANA's configs, which keep the rate constant
    steady = OptimConfig(name="adamw", lr=1e-4, warmup=2000, decay=0.0, clip=0.1)
    return SanaTrainConfig(
        name="sana-curriculum",
        model=PRESETS["sana1.5_1.6b"],
        data=PictureLoaderConfig(pictures_per_step=1024, accumulate=32, resolutions=(512,), workers=8),
        stages=(
            SanaStage(name="512 px", steps=100_000, optim=steady, resolutions=(512,)),
            SanaStage(name="1024 px", steps=20_000, optim=steady, resolutions=(1024,)),
        ),
        ema=0.9999,
        save_every=1000,
        sample_every=5000,
        checkpoint_blocks=True,
        compile_blocks=True,
    )


# the model of small() gives way to that of --start, and so does the size of its pictures
_NATIVE = PictureLoaderConfig(pictures_per_step=32, resolutions=())


def finetune() -> SanaTrainConfig:
    """All weights of a model on one's own pictures, at the model's own size; needs --start and --pictures.
    Time: by the model; 1,000 steps."""
    return replace(
        small(),
        name="sana-finetune",
        data=_NATIVE,
        stages=(
            SanaStage(
                name="fine-tuning", steps=1000, optim=OptimConfig(name="adamw", lr=1e-4, decay=0.5, clip=0.1)
            ),
        ),
    )


def lora() -> SanaTrainConfig:
    """Adapters alone (LoRA) on one's own pictures, at the model's own size; needs --start and --pictures.
    Time: by the model; 500 steps, 0.6 s each for sana-small's on two cores (measured)."""
    optim = OptimConfig(name="adamw", lr=1e-3, decay=0.5)
    return replace(
        small(),
        name="sana-lora",
        data=_NATIVE,
        lora_rank=16,
        stages=(SanaStage(name="adapters", steps=500, trainable="lora", optim=optim),),
    )


def control() -> SanaTrainConfig:
    """A model learns to draw along edges, computed from its training pictures; needs --start and --pictures.
    Time: by the model; 1,500 steps, 2 s each for sana-small's on two cores (measured)."""
    return replace(
        small(),
        name="sana-control",
        data=_NATIVE,
        control="edges",
        stages=(SanaStage(name="control", steps=1500, optim=OptimConfig(lr=1e-3, decay=0.5)),),
    )


RECIPES = {
    "sana-small": small,
    "sana-curriculum": curriculum,
    "sana-finetune": finetune,
    "sana-lora": lora,
    "sana-control": control,
}
