"""What a SANA run is: denoiser, text, image space, noise law, pictures and stages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.data.pictures import CONTROLS
from diptych.flow import NoiseLaw, SamplerConfig
from diptych.models.linear_dit import LinearDiTConfig
from diptych.training.config import RunConfig, StageConfig


@dataclass(frozen=True, kw_only=True)
class SanaStage(StageConfig):
    """A stage of a SANA run; a curriculum of resolutions is a list of stages."""

    resolutions: tuple[int, ...] | None = None
    """Instead of the run's own."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Size of a caption encoder that learns with the denoiser; only for runs from scratch."""

    vocab_size: int = 4096
    depth: int = 2
    heads: int = 4
    max_tokens: int = 48


@dataclass(frozen=True, kw_only=True)
class SanaTrainConfig(RunConfig):
    """A run over an index of pictures. A run that starts from a model takes its denoiser, text encoder and
    image space from it."""

    changeable: ClassVar[frozenset[str]] = RunConfig.changeable | {"workers", "accumulate"}

    model: LinearDiTConfig
    text: TextConfig = field(default_factory=TextConfig)
    pictures: str = ""
    """Folder whose index is trained on."""
    space: str = ""
    """Folder of the autoencoder, for runs from scratch: of diffusers (AutoencoderDC, AutoencoderTiny), or
    with the published files of a tiny one."""
    cache: str = ""
    """Folder of latents and text made by `diptych data cache`; empty: they are computed during training."""
    law: NoiseLaw = field(default_factory=NoiseLaw)
    sampler: SamplerConfig = field(
        default_factory=lambda: SamplerConfig(
            num_steps=20, solver="dpm", shift=3.0, first_sigma=0.999, guidance_scale=4.5
        )
    )
    data: PictureLoaderConfig = field(default_factory=PictureLoaderConfig)
    stages: tuple[SanaStage, ...] = ()
    control: str = ""
    """What is given as a further frame: 'edges' of the pictures; '': nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.control and self.control not in CONTROLS:
            raise ValueError(f"control must be '' or one of {', '.join(CONTROLS)}, got {self.control!r}")

    def sized(self, native: int | None) -> SanaTrainConfig:
        """With the resolutions of its data: its own, or the native size of the model that it starts from."""
        if self.data.resolutions:
            return self
        if native is None:
            raise ValueError("data.resolutions is empty, so the run needs a model to start from (--start)")
        return replace(self, data=replace(self.data, resolutions=(native,)))

    def framed(self, model: LinearDiTConfig) -> LinearDiTConfig:
        """A model's config with what the run's control needs of it: frame parts, which start at zero."""
        return replace(model, multi_frame=bool(self.control) or model.multi_frame)
