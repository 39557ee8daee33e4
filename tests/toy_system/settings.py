"""What the toy can do, told by its config.json."""

from __future__ import annotations

from pathlib import Path

from diptych.files.folder import read_config
from diptych.flow import SamplerConfig
from diptych.request import Task
from diptych.settings import Settings

NAME = "toy"
SAMPLER = SamplerConfig(num_steps=4, guidance_scale=2.0)


def settings_of(native: int, patch: int) -> Settings:
    return Settings(
        native=native,
        multiple=patch,
        max_side=4 * native,
        tasks=frozenset({Task.TEXT_TO_IMAGE}),
        sampler=SAMPLER,
        max_media=0,
    )


def read_settings(folder: Path) -> Settings:
    config = read_config(folder)
    return settings_of(config["native"], config["model"]["patch"])
