"""Runs of the family by name: drawing behind a frozen language model and behind one that learns, the
detokenizer, and the two small models that make a space."""

from __future__ import annotations

from dataclasses import replace

from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.family import Recipe
from diptych.flow import NoiseLaw, SamplerConfig
from diptych.models.connector import BridgeConfig
from diptych.models.connector.config import CONNECTOR, KINDS
from diptych.models.contrastive import VisionConfig
from diptych.models.feature_dit import FeatureDiTConfig
from diptych.models.linear_dit import LinearDiTConfig
from diptych.optim.build import OptimConfig
from diptych.systems.blip3o.config import (
    AUTOENCODER,
    BRIDGE,
    CONTRASTIVE,
    DETOKENIZER,
    EVERYTHING,
    REGRESSION,
    BlipStage,
    BlipTrainConfig,
    Words,
)
from diptych.worlds.emoji import WorldConfig

SMALL_WORLD = WorldConfig(objects="few", size=48, glyph=14)
"""The emoji world at half its size, with half of its kinds: what a small model learns in minutes."""
LOSSES = ("flow", "mse")


def _world(side: int) -> WorldConfig:
    """The emoji world in pictures of `side` px: 48, or 96 with all that the default model knows."""
    worlds = {world.size: world for world in (SMALL_WORLD, WorldConfig())}
    if side not in worlds:
        raise ValueError(f"side must be {' or '.join(map(str, worlds))}, got {side}")
    return worlds[side]


def contrastive(side: int = 48) -> BlipTrainConfig:
    """A contrastive encoder of pictures and captions, from scratch: the emoji world, or --pictures. Time: 3
    minutes on a core at 48 px, 9 at 96; 360 and 480 steps of 128 pictures.

    `side` of a picture, px: 48 or 96."""
    large = side > SMALL_WORLD.size
    optim = OptimConfig(name="adamw", lr=2e-3, decay=0.5)
    stage = BlipStage(name="contrast", steps=480 if large else 360, trainable=EVERYTHING, optim=optim)
    return BlipTrainConfig(
        name="contrastive",
        learns=CONTRASTIVE,
        world=_world(side),
        data=PictureLoaderConfig(pictures_per_step=128, resolutions=(side,), workers=0, drop_text=0.0),
        # six patches a side, whatever the size
        vision=VisionConfig(size=side, patch=side // 6, width=128 if large else 96),
        text=Words(vocab_size=1024 if large else Words.vocab_size),
        stages=(stage,),
        ema=0.99,
        bf16=False,
        save_every=100,
    )


def autoencoder(side: int = 48) -> BlipTrainConfig:
    """A small autoencoder in the layout of AutoencoderTiny, from scratch: the emoji world, or --pictures.
    Time: 2 minutes on a core at 48 px, 9 at 96; 420 and 600 steps of 32 pictures.

    `side` of a picture, px: 48 or 96."""
    steps = 600 if side > SMALL_WORLD.size else 420
    optim = OptimConfig(name="adamw", lr=2e-3, decay=0.5)
    return BlipTrainConfig(
        name="autoencoder",
        learns=AUTOENCODER,
        world=_world(side),
        data=PictureLoaderConfig(pictures_per_step=32, resolutions=(side,), workers=0, drop_text=0.0),
        stages=(BlipStage(name="pixels", steps=steps, trainable=EVERYTHING, optim=optim),),
        ema=0.98,
        save_every=100,
    )


def detokenizer(side: int = 48) -> BlipTrainConfig:
    """A linear DiT draws pictures from features alone; needs --encoder and --space, an autoencoder. The
    folder that it is exported to is a space for the recipes of drawing. Time: 6 minutes on a core at 48 px,
    15 at 96; 700 and 1,800 steps of 32 pictures.

    `side` of a picture, px: 48 or 96."""
    large = side > SMALL_WORLD.size
    stage = BlipStage(
        name="detokenizing",
        steps=1800 if large else 700,
        trainable=EVERYTHING,
        optim=OptimConfig(lr=2e-3, decay=0.5),
    )
    return BlipTrainConfig(
        name="blip3o-detokenizer",
        learns=DETOKENIZER,
        world=_world(side),
        data=PictureLoaderConfig(pictures_per_step=32, resolutions=(side,), workers=0),
        # as many tokens as features, and a table of places: without one a thing was drawn in any place
        linear=LinearDiTConfig(
            depth=4,
            width=192,
            cross_heads=3,
            patch=2 if large else 1,
            position_scale=1.0,
            position_base=12 if large else 6,
        ),
        law=NoiseLaw(shift=1.0),
        sampler=SamplerConfig(num_steps=12, shift=1.0, guidance_scale=1.5),
        stages=(stage,),
        ema=0.99,
        save_every=100,
    )


def sequential(bridge: str = "states", loss: str = "flow") -> BlipTrainConfig:
    """Drawing behind a language model that stays as it is: needs --space, and takes the default model as
    --backbone. Time: 4 minutes on a core; 512 steps of 32 pictures.

    `bridge`: 'queries', 'connector' or 'states'; `loss`: 'flow', or 'mse', which draws one picture a
    prompt."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if bridge not in KINDS:
        raise ValueError(f"bridge must be one of {', '.join(KINDS)}, got {bridge!r}")
    blind = loss == "mse"
    depth = 2 if bridge == CONNECTOR else 0
    return BlipTrainConfig(
        name="blip3o",
        world=SMALL_WORLD,
        data=PictureLoaderConfig(pictures_per_step=32, resolutions=(48,), workers=0),
        bridge=BridgeConfig(kind=bridge, inputs=192, queries=16, depth=depth, query_std=0.1),
        model=FeatureDiTConfig(depth=4, width=192, heads=4, channels=1, caption_channels=1, blind=blind),
        law=REGRESSION if blind else NoiseLaw(shift=1.0),
        sampler=SamplerConfig(num_steps=1 if blind else 20, shift=1.0, guidance_scale=1.0 if blind else 1.5),
        stages=(BlipStage(name="drawing", steps=512, optim=OptimConfig(lr=2e-3, decay=0.5)),),
        ema=0.99,
        save_every=100,
    )


def joint(bridge: str = "states") -> BlipTrainConfig:
    """Both at once: the language model learns with what draws behind it, and answers questions about the
    emoji world beside; needs --space. Time: 10 minutes on a core; 512 steps of 32 pictures and 16
    conversations."""
    base = sequential(bridge)
    (stage,) = base.stages
    both = replace(
        stage,
        name="both",
        trainable=EVERYTHING,
        text_weight=0.2,
        # a language model that is trained already forgets at the rate of a fresh one
        optim=replace(stage.optim, lr=1e-3),
    )
    return replace(base, name="blip3o-joint", stages=(both,))


def unfreezing(bridge: str = "connector") -> BlipTrainConfig:
    """A new bridge to a denoiser that draws already: the denoiser frozen, then with it (OpenUni, arXiv
    2505.23661); needs --start. Time: by the model; 256 and 256 steps."""
    base = sequential(bridge)
    (stage,) = base.stages
    stages = (
        replace(stage, name="bridge", steps=256, trainable=BRIDGE, optim=OptimConfig(lr=2e-3, decay=0.0)),
        replace(stage, name="both", steps=256, optim=OptimConfig(lr=1e-3, decay=1.0)),
    )
    return replace(base, name="blip3o-unfreezing", new_bridge=True, stages=stages)


def tuning() -> BlipTrainConfig:
    """Instruction tuning: a model that draws goes on with a small set of chosen pictures; needs --start and
    --pictures. Time: by the model; 128 steps of 32 pictures."""
    base = sequential()
    stage = BlipStage(name="tuning", steps=128, optim=OptimConfig(lr=5e-4, warmup=10, decay=1.0))
    return replace(
        base,
        name="blip3o-tuning",
        data=replace(base.data, validation=0.0),
        stages=(stage,),
        ema=0.95,
    )


def editing() -> BlipTrainConfig:
    """A model that draws learns to change pictures: what the image space makes of the given one, features or
    latents, stands behind the words. Needs --start, or --space for one from scratch; edits of the emoji
    world, or of --edit-lines. Time: not measured; 512 steps of 32 pictures, half of them edits."""
    base = sequential()
    (stage,) = base.stages
    return replace(base, name="blip3o-editing", edits=0.5, stages=(replace(stage, name="editing"),))


def shipped() -> BlipTrainConfig:
    """The small one for all that the default model knows: 35 kinds of glyph at 96 px, behind that model,
    which stays as it is; needs --space, a detokenizer at 96 px. Time: 30 minutes on a core; 3,000 steps of 32
    pictures."""
    base = sequential()
    (stage,) = base.stages
    return replace(
        base,
        name="blip3o-emoji",
        world=_world(96),
        data=replace(base.data, resolutions=(96,)),
        # the last states of a prompt tell what comes next, inner ones what was said
        bridge=replace(base.bridge, layers=(2, 4, -1)),
        stages=(replace(stage, steps=3000),),
        ema=0.998,
    )


RECIPES: dict[str, Recipe] = {
    "contrastive": contrastive,
    "autoencoder": autoencoder,
    "blip3o-detokenizer": detokenizer,
    "blip3o": sequential,
    "blip3o-joint": joint,
    "blip3o-unfreezing": unfreezing,
    "blip3o-tuning": tuning,
    "blip3o-editing": editing,
    "blip3o-emoji": shipped,
}
