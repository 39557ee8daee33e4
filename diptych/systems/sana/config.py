"""What a SANA run is: denoiser, text, image space, noise law, pictures and stages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.data.pictures import CONTROLS
from diptych.flow import NoiseLaw, SamplerConfig
from diptych.models.linear_dit import LinearDiTConfig
from diptych.training.config import RunConfig, StageConfig

TRAINABLE = ("all", "lora")


@dataclass(frozen=True, kw_only=True)
class SanaStage(StageConfig):
    """A stage of a SANA run; a curriculum of resolutions is a list of stages."""

    trainable: str = "all"
    """'all', or 'lora': the adapters alone."""
    resolutions: tuple[int, ...] | None = None
    """Instead of the run's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainable not in TRAINABLE:
            raise ValueError(f"trainable must be one of {', '.join(TRAINABLE)}, got {self.trainable!r}")


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

    model: LinearDiTConfig
    text: TextConfig = field(default_factory=TextConfig)
    pictures: str = ""
    """Folder whose index is trained on."""
    space: str = ""
    """Folder of the autoencoder, for runs from scratch."""
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
        if any(stage.trainable == "lora" for stage in self.stages) and not self.lora_rank:
            raise ValueError("a stage trains 'lora', but lora_rank is 0")

    def framed(self, model: LinearDiTConfig) -> LinearDiTConfig:
        """A model's config with what the run's control needs of it: frame parts, which start at zero."""
        return replace(model, multi_frame=bool(self.control) or model.multi_frame)
