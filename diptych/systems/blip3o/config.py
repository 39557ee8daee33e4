"""What a run is: drawing in a space of features or latents, the detokenizer behind it, or one of the models
that make such a space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.flow import NoiseLaw, SamplerConfig
from diptych.models.connector import BridgeConfig
from diptych.models.connector.config import STATES
from diptych.models.contrastive import VisionConfig
from diptych.models.feature_dit import FeatureDiTConfig
from diptych.models.linear_dit import LinearDiTConfig
from diptych.training.config import LORA, RunConfig, StageConfig
from diptych.worlds.emoji import WorldConfig

DRAWING, DETOKENIZER, CONTRASTIVE, AUTOENCODER = "drawing", "detokenizer", "contrastive", "autoencoder"
KINDS = (DRAWING, DETOKENIZER, CONTRASTIVE, AUTOENCODER)
BRIDGE, EVERYTHING = "bridge", "all"
REGRESSION = NoiseLaw(mean=20.0, std=0.0, shift=1.0)
"""Level 1 in every step: what a blind denoiser is trained at."""


@dataclass(frozen=True, kw_only=True)
class BlipStage(StageConfig):
    """'drawing': bridge and denoiser behind a frozen language model; 'bridge': it alone; 'lora': adapters of
    the denoiser alone; 'all': everything of the run, of drawing the language model too."""

    parts: ClassVar[tuple[str, ...]] = (EVERYTHING, DRAWING, BRIDGE, LORA)

    trainable: str = DRAWING
    flow_weight: float = 1.0
    text_weight: float = 0.0
    """Of the answers of conversations beside drawing; 0: none are read, and no cross-entropy is computed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("flow_weight", "text_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or above, got {getattr(self, name)}")
        if self.text_weight and self.trainable != EVERYTHING:
            raise ValueError(
                f"stage {self.name!r}: text_weight is {self.text_weight}, and the language model that would "
                f"learn from it is frozen: trainable must be {EVERYTHING!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Words:
    """Size of a contrastive model's text encoder."""

    vocab_size: int = 2048
    channels: int = 96
    depth: int = 2
    heads: int = 4
    max_tokens: int = 48


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Size of an autoencoder."""

    channels: int = 8
    factor: int = 8
    """px of a side that one latent stands for, a power of two."""
    width: int = 32
    """Channels of every layer."""
    blocks: int = 1
    """Residual blocks of each size but the largest, which has one."""
    noise: float = 0.1
    """Deviation of what is added to latents before they are decoded, so that errors of a drawing do
    little."""

    def __post_init__(self) -> None:
        if self.factor < 2 or self.factor & (self.factor - 1):
            raise ValueError(f"factor must be a power of two, at least 2, got {self.factor}")
        if self.noise < 0:
            raise ValueError(f"noise must be 0 or above, got {self.noise}")


@dataclass(frozen=True, kw_only=True)
class BlipTrainConfig(RunConfig):
    """A run of one of `KINDS`; what the others would need is not looked at."""

    changeable: ClassVar[frozenset[str]] = RunConfig.changeable | {"workers", "accumulate"}

    learns: str = DRAWING
    pictures: str = ""
    """Folder whose index is trained on; '': the emoji world."""
    cache: str = ""
    """Folder of targets, and of prompt states where the bridge has such, computed once and by the run itself
    where there is none; '': computed on the way."""
    world: WorldConfig = field(default_factory=WorldConfig)
    data: PictureLoaderConfig = field(default_factory=PictureLoaderConfig)
    backbone: str = "default"
    """Language model of a run from scratch: 'default', a folder of a family of ours, or one of
    transformers."""
    space: str = ""
    """Folder that a run from scratch draws in: of features with their detokenizer, or an autoencoder. For a
    detokenizer: the autoencoder that it draws in."""
    encoder: str = ""
    """For a detokenizer: folder of the encoder whose features it draws from."""
    side_vectors: int = 6
    """For a detokenizer: vectors a side that the features are pooled to."""
    bridge: BridgeConfig = field(default_factory=lambda: BridgeConfig(kind=STATES, inputs=1))
    """Its `inputs` are taken from the language model."""
    new_bridge: bool = False
    """Whether a run that starts from a model begins with a fresh bridge to it, and not with the model's
    own."""
    model: FeatureDiTConfig = field(
        default_factory=lambda: FeatureDiTConfig(depth=4, width=192, heads=4, channels=1, caption_channels=1)
    )
    """Its `channels` are taken from the space, its `caption_channels` from the bridge."""
    linear: LinearDiTConfig | None = None
    """A linear DiT in its place, filled in likewise; a detokenizer always is one."""
    asked: WorldConfig = field(default_factory=WorldConfig)
    """The emoji world that conversations beside drawing are about."""
    talks_per_step: int = 16
    edits: float = 0.0
    """Share of samples that are edits, of a picture that is given; the others are drawn from words alone."""
    edit_lines: str = ""
    """JSONL file of edits, a picture and an instruction in each and the picture that it makes; '': those of
    the emoji world."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: Words = field(default_factory=Words)
    common: int = 96
    """Channels of the space that pictures and captions share."""
    latents: Latents = field(default_factory=Latents)
    law: NoiseLaw = field(default_factory=NoiseLaw)
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(guidance_scale=3.0, shift=1.0))
    stages: tuple[BlipStage, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learns not in KINDS:
            raise ValueError(f"learns must be one of {', '.join(KINDS)}, got {self.learns!r}")
        if self.lora_rank and self.learns != DRAWING:
            raise ValueError(
                "adapters are of a denoiser that draws; this run trains a model of another kind "
                f"({self.learns}), so lora_rank must be 0"
            )
        if self.pictures and len(self.data.resolutions) != 1:
            raise ValueError(
                f"data.resolutions must be one size, as the pictures are whole squares, got "
                f"{self.data.resolutions}"
            )

        if self.learns == DRAWING and self.linear is None and self.model.blind and self.law != REGRESSION:
            raise ValueError(
                f"a blind denoiser is trained at level 1 alone: law must be {REGRESSION}, got {self.law}"
            )
        if not 0 <= self.edits <= 1:
            raise ValueError(f"edits must be a share, 0 to 1, got {self.edits}")
        if self.edits and (self.pictures or self.learns != DRAWING):
            raise ValueError(
                "edits are made of the emoji world and of --edit-lines, in a run that draws: leave out "
                f"--pictures {self.pictures!r}, or edits {self.edits}"
            )
        if self.edit_lines and not self.edits:
            raise ValueError("edit_lines are read where edits is above 0")
        if self.cache and not self.pictures:
            raise ValueError("a cache holds targets of pictures: give --pictures, or leave out --cache")

    @property
    def side(self) -> int:
        """Of its pictures, px."""
        return self.data.resolutions[0] if self.pictures else self.world.size
