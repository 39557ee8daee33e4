"""What a run is: the planner's adapters over planning data, or the projector over pictures with captions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.data.loader import MAX_WORKERS
from diptych.flow import NoiseLaw
from diptych.training.config import LORA, RunConfig, StageConfig

PROJECTOR = "projector"


@dataclass(frozen=True, kw_only=True)
class UnisonStage(StageConfig):
    """'lora': the planner's adapters and the rows of its new tokens; 'projector': the projector alone."""

    parts: ClassVar[tuple[str, ...]] = (LORA, PROJECTOR)

    trainable: str = LORA


@dataclass(frozen=True, kw_only=True)
class UnisonTrainConfig(RunConfig):
    """A run that starts from a folder with a planner, and generators where the projector learns."""

    changeable: ClassVar[frozenset[str]] = RunConfig.changeable | {"workers", "accumulate"}

    requests_per_step: int = 32
    """Of planning data, over all ranks and accumulations."""
    accumulate: int = 1
    workers: int = 1
    thumbnails: bool = True
    """Whether a planner that sees is shown pictures of the looks that the planning data speak of."""
    pictures: str = ""
    """Folder whose index the projector is trained on."""
    data: PictureLoaderConfig = field(default_factory=PictureLoaderConfig)
    law: NoiseLaw = field(default_factory=lambda: NoiseLaw(shift=3.0))
    hidden: int = 2048
    """Inner channels of a new projector."""
    positions: int = 56
    """Of the planner's hidden states that a new projector reads."""
    tokens: int = 4
    """That a new projector makes."""
    stages: tuple[UnisonStage, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.accumulate <= self.requests_per_step:
            raise ValueError(
                f"accumulate must be 1 to requests_per_step, got {self.accumulate}, {self.requests_per_step}"
            )
        if len({stage.trainable for stage in self.stages}) > 1:
            raise ValueError(
                "a run trains the planner or the projector: each is frozen while the other learns"
            )
        if not 0 <= self.workers <= MAX_WORKERS:
            raise ValueError(f"workers must be 0 to {MAX_WORKERS}, got {self.workers}")

    @property
    def plans(self) -> bool:
        """Whether it is the planner that learns."""
        return bool(self.stages) and self.stages[0].trainable == LORA
