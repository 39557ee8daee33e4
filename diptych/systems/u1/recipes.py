"""The shipped model and its larger sister: SenseNova-U1's design on the emoji world; and any model of the
design on one's own data.

Stages of the former follow SenseNova-U1 (arXiv 2605.12500, Table 2) at toy size: understanding warm-up,
generation with the understanding stream frozen, joint mix, instruction tuning with a falling rate.
"""

from __future__ import annotations

from dataclasses import replace

from diptych.data.conversations.loader import LoaderConfig
from diptych.family import Recipe
from diptych.files.folder import locate
from diptych.flow import FlowConfig, NoiseLaw, Objective, SamplerConfig
from diptych.models.mot import by_size
from diptych.optim.build import OptimConfig
from diptych.systems.u1.config import Stage, TrainConfig
from diptych.systems.u1.conversation import CLIP_GUIDES, GUIDES, Bounds, Conversation
from diptych.systems.u1.files import read_contents
from diptych.systems.u1.packed import ROOT, Weighing
from diptych.worlds.emoji import WorldConfig
from diptych.worlds.emoji.motion import FPS, FRAMES, SIZE


def stages(warm_up: int, generation: int, joint: int, tuning: int, lr: float) -> tuple[Stage, ...]:
    """The four stages with the given steps."""
    steady = OptimConfig(lr=lr, decay=0.0)
    return (
        Stage(
            name="understanding warm-up",
            steps=warm_up,
            trainable="understanding",
            mixture={"understand": 0.8, "text": 0.2},
            optim=steady,
            text_weight=1.0,
            flow_weight=0.0,
        ),
        Stage(
            name="generation",
            steps=generation,
            trainable="generation",
            mixture={"generate": 1.0},
            optim=steady,
            text_weight=0.0,
        ),
        Stage(
            name="joint mix",
            steps=joint,
            mixture={"generate": 0.7, "understand": 0.13, "edit": 0.14, "interleave": 0.03},
            optim=steady,
            text_weight=0.2,
        ),
        Stage(
            name="instruction tuning",
            steps=tuning,
            # falls from the first step to the last, as the published instruction tuning does
            optim=replace(steady, decay=1.0, warmup=20),
            mixture={
                "generate": 0.47,
                "understand": 0.13,
                "verify": 0.07,
                "edit": 0.17,
                "masked": 0.05,
                "reference": 0.05,
                "control": 0.04,
                "interleave": 0.02,
            },
            text_weight=0.2,
        ),
    )


CLIPS = {
    "clip": 0.14,
    "clip-first": 0.1,
    "clip-reference": 0.07,
    "clip-edit": 0.12,
    "clip-control": 0.08,
    "clip-understand": 0.09,
}
"""Shares of clips in a mixture of both; the rest are pictures, so that these are kept."""


def films(steps: int, lr: float, pictures: dict[str, float]) -> Stage:
    """The stage in which a model of pictures learns clips, beside a mixture of pictures."""
    left = 1 - sum(CLIPS.values())
    total = sum(pictures.values())
    return Stage(
        name="clips",
        steps=steps,
        optim=OptimConfig(lr=lr, decay=1.0, warmup=50),
        mixture={**{name: left * share / total for name, share in pictures.items()}, **CLIPS},
        text_weight=0.2,
    )


def emoji(size: int = 6, depth: int | None = None) -> TrainConfig:
    """The default model: 35 kinds of glyph at 96 px, 5.9M parameters. Time: three hours on two cores
    (measured).

    `size` is the model's dial: layers, and with them the width and all else; `depth`: other layers.
    """
    return TrainConfig(
        name="emoji",
        model=by_size(size, vocab_size=3072, patch=8, depth=depth),
        world=WorldConfig(words="wide"),
        conversation=Conversation(guides=tuple(GUIDES)),
        flow=FlowConfig(
            noise_scale=2.0,
            # 36 tokens of 16 px are the world's 96 px: at that size the scale is noise_scale itself
            noise_scale_base_tokens=36,
            noise_scale_max=4.0,
            law=NoiseLaw(mean=1.6, std=1.2, shift=1.0),
            objective=Objective(sigma_min=0.02, loss_sigma_min=0.2),
            sampler=SamplerConfig(num_steps=30, shift=4.0, guidance_scale=2.0),
        ),
        data=LoaderConfig(documents_per_step=64, row_tokens=192, workers=1),
        stages=stages(300, 150, 4450, 8100, lr=3e-3),
    )


def emoji_full(size: int = 12, depth: int | None = None) -> TrainConfig:
    """The whole emoji list at 96 px, glyphs anywhere: for one large GPU. Time: not measured; 80,000 steps of
    1,024 documents."""
    base = emoji()
    return replace(
        base,
        name="emoji-full",
        model=by_size(size, vocab_size=4096, patch=8, depth=depth),
        world=WorldConfig(objects="full", lattice=1),
        conversation=Conversation(guides=tuple(GUIDES)),
        data=replace(base.data, documents_per_step=1024, row_tokens=2048, workers=12),
        stages=stages(3000, 2000, 60_000, 15_000, lr=1e-3),
        ema=0.9995,
        save_every=1000,
        sample_every=2000,
    )


def emoji_small(size: int = 4, depth: int | None = None) -> TrainConfig:
    """A small model for comparisons: steady rate, validation loss all along. Time: not measured; 1,200
    steps of 32 documents."""
    base = emoji(size, depth)
    stage = Stage(
        name="joint mix",
        steps=1200,
        mixture={"generate": 0.7, "understand": 0.3},
        optim=OptimConfig(lr=3e-3, decay=0.0, warmup=50),
        text_weight=0.2,
    )
    return replace(
        base,
        name="emoji-small",
        world=WorldConfig(),
        conversation=None,
        data=replace(base.data, documents_per_step=32, workers=0),
        stages=(stage,),
        ema=0.98,
        sample_every=50,
    )


def emoji_recover(size: int = 6, depth: int | None = None) -> TrainConfig:
    """Some steps for a model that was pruned or grown; needs --start. Time: by its depth; for six blocks a
    fifteenth of what the default model took.

    `diptych train emoji-recover --start MODEL`"""
    base = emoji(size, depth)
    *_, tuning = base.stages
    stage = replace(tuning, name="recovery", steps=450)
    return replace(
        base,
        name="emoji-recover",
        # what the model that it starts from was taught
        conversation=None,
        stages=(stage,),
        # twice the documents a step: few steps, each as sure as it can be (docs/results/pruning.md)
        data=replace(base.data, documents_per_step=128),
    )


def emoji_clips(size: int = 6, depth: int | None = None) -> TrainConfig:
    """Clips of 8 frames of 64 px, for a model of pictures: needs --start, of a model that has the words for
    them. Time: not measured; 8,000 steps of 64 documents.

    `diptych train emoji-clips --start MODEL`"""
    base = emoji(size, depth)
    # a clip that is changed has twice 128 tokens, and its words
    data = replace(base.data, row_tokens=320)
    conversation = Conversation(
        guides=tuple(GUIDES),
        clip_frames=FRAMES,
        drawn_frames=FRAMES,
        clip_side=SIZE,
        fps=FPS,
        clip_guides=tuple(CLIP_GUIDES),
    )
    stage = films(8000, 2e-3, base.stages[-1].mixture)
    return replace(base, name="emoji-clips", stages=(stage,), conversation=conversation, data=data)


def emoji_verifier(size: int = 6, depth: int | None = None) -> TrainConfig:
    """A judge, from pictures that a model drew and the checker labelled; needs --start and --jsonl. Time: not
    measured; 800 steps of 64 documents.

    `diptych data drawn drawn`, then
    `diptych train emoji-verifier --start default --jsonl drawn/drawn.jsonl`"""
    base = emoji(size, depth)
    stage = Stage(
        name="verification",
        steps=800,
        mixture={"drawn": 0.6, "verify": 0.4},
        optim=OptimConfig(lr=1e-3, decay=1.0, warmup=20),
        trainable="understanding",
        text_weight=1.0,
        flow_weight=0.0,
    )
    return replace(base, name="emoji-verifier", conversation=None, stages=(stage,), sample_every=10**6)


def u1(
    start: str = "", size: int = 6, depth: int | None = None, lora: int = 0, part: str = "all"
) -> TrainConfig:
    """A model on one's own data, of any kind in one mix: `diptych train u1 --start MODEL --meta meta.json`.
    Time: by the model and its pictures, not measured; 1,000 steps.

    `start` is a published folder or one of ours, whose settings are the defaults of all flags; without it a
    model of `size` (and `depth`) begins from scratch. `lora`: adapters of this rank instead of all weights;
    `part`: 'understanding' or 'generation' learns, or 'all'. The data: --meta, --jsonl, --pictures, --text.
    """
    optim = OptimConfig(name="adamw", lr=1e-4 if lora else 2e-5, warmup=50, decay=0.5)
    stage = Stage(name="fine-tuning", steps=1000, mixture={}, trainable="lora" if lora else part, optim=optim)
    config = _fresh(size, depth)
    if start:
        contents, _ = read_contents(locate(start))
        token = contents.model.token
        # what a model of large pictures is taught first, and can be on one GPU
        drawn = (256**2, 512**2) if contents.native >= 512 else (token**2, contents.native**2)
        config = replace(
            config,
            model=contents.model,
            flow=contents.flow,
            conversation=contents.conversation,
            draw_pixels=drawn,
        )
    else:
        stage = replace(stage, name="from scratch", optim=replace(optim, lr=3e-4))
    return replace(config, start=start, lora_rank=lora, lora_part=part if lora else "all", stages=(stage,))


def _fresh(size: int, depth: int | None) -> TrainConfig:
    """A model of one's own size that converses as the published ones do, of pictures up to 256 px."""
    bounds = Bounds(least=64**2, most=256**2)
    return TrainConfig(
        name="u1",
        model=by_size(size, vocab_size=4096, patch=16, depth=depth),
        conversation=Conversation(
            form="neo1_0",
            max_tokens=1024,
            think_tokens=1024,
            max_media=10,
            read=bounds,
            source=bounds,
            story_pictures=10,
        ),
        draw_pixels=(bounds.least, bounds.most),
        data=LoaderConfig(
            documents_per_step=16, row_tokens=4096, row_pictures=64, workers=1, validation=0.02
        ),
        weighing=Weighing(text=ROOT, flow=ROOT),
    )


RECIPES: dict[str, Recipe] = {
    "u1": u1,
    "emoji": emoji,
    "emoji-clips": emoji_clips,
    "emoji-full": emoji_full,
    "emoji-recover": emoji_recover,
    "emoji-small": emoji_small,
    "emoji-verifier": emoji_verifier,
}
