"""Plain coloured pictures, and runs that learn them in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.captioned.index import build
from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.models.linear_dit import LinearDiTConfig
from diptych.optim.build import OptimConfig
from diptych.systems.sana.config import SanaStage, SanaTrainConfig, TextConfig
from diptych.systems.sana.job import SanaJob
from diptych.training.trainer import Trainer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (250, 250, 250)}


def pictures(folder: Path) -> Path:
    """Forty plain coloured pictures with a darker corner, in two shapes, indexed."""
    rng = np.random.default_rng(0)
    for n in range(40):
        name, colour = list(COLOURS.items())[n % 4]
        pixels = np.full(((32, 32) if n % 5 else (32, 64)) + (3,), colour, dtype=np.uint8)
        pixels[: 8 + n % 8, :8] = rng.integers(0, 60)
        Image.fromarray(pixels).save(folder / f"{n:02d}.png")
        (folder / f"{n:02d}.txt").write_text(f"a {name} picture\n{name}")
    build(folder)
    return folder


def config(pictures: Path | str, space: Path | str = "", **changes: Any) -> SanaTrainConfig:
    base = SanaTrainConfig(
        name="toy",
        model=LinearDiTConfig(depth=2, width=32, cross_heads=2, caption_channels=16),
        text=TextConfig(vocab_size=300, depth=1, heads=2),
        pictures=str(pictures),
        space=str(space),
        bf16=False,
        save_every=2,
        sample_every=10**6,
        log_every=1,
        data=PictureLoaderConfig(pictures_per_step=4, resolutions=(32,), workers=0, validation=0.1),
        stages=(SanaStage(name="one", steps=6, optim=OptimConfig(lr=1e-3, warmup=1, decay=0.0)),),
    )
    return dataclasses.replace(base, **changes)


def run(cfg: SanaTrainConfig, folder: Path, start: str = "") -> Trainer:
    trainer = Trainer(SanaJob(dataclasses.replace(cfg, start=start), folder), folder, quiet=True)
    trainer.train()
    return trainer
