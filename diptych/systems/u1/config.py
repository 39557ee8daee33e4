"""What a joint run is: sources and their shares, model, flow, data and stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from diptych.data.conversations.loader import LoaderConfig
from diptych.flow import FlowConfig
from diptych.models.mot import MoTConfig
from diptych.systems.u1.settings import check_flow
from diptych.training.config import LORA, RunConfig, StageConfig
from diptych.worlds.emoji import WorldConfig
from diptych.worlds.emoji.source import TASKS


@dataclass(frozen=True, kw_only=True)
class Stage(StageConfig):
    """A stage of a joint run: its mixture, what learns ('understanding': text and clean pictures;
    'generation': noisy ones), and how the two losses are weighed."""

    parts: ClassVar[tuple[str, ...]] = ("all", "understanding", "generation", LORA)
    mixture: dict[str, float]
    """Task or source -> share of the samples."""
    text_weight: float = 0.1
    flow_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_weight", "flow_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or above, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A joint run of a mixture of transformers: understanding and generation in one mix."""

    changeable: ClassVar[frozenset[str]] = RunConfig.changeable | {"workers", "accumulate"}

    model: MoTConfig
    """A run that starts from a model takes this from it; from scratch, `vocab_size` is the most that the
    vocabulary may have."""
    world: WorldConfig = field(default_factory=WorldConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    data: LoaderConfig = field(default_factory=LoaderConfig)
    jsonl: tuple[str, ...] = ()
    """JSONL files with samples of one's own; a file's name without ending is its name in a mixture."""
    text: tuple[str, ...] = ()
    """Plain text files, one sample a paragraph; named likewise."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Mixture of every stage instead of its own: names and shares."""
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flow(self.flow)
        names = [Path(path).stem for path in (*self.jsonl, *self.text)]
        if clash := [name for name in names if names.count(name) > 1 or name in TASKS]:
            raise ValueError(
                f"{clash[0]!r} would name two sources of the mixture; the tasks of the emoji world are "
                f"{', '.join(TASKS)}"
            )
        drawn_from = {name for stage in self.stages for name, share in self.shares(stage).items() if share}
        if self.stages and (idle := [name for name in names if name not in drawn_from]):
            raise ValueError(
                f"no mixture draws from {idle[0]!r}; give its share: --mixture {idle[0]} 0.5 generate 0.5"
            )

    def shares(self, stage: Stage) -> dict[str, float]:
        """The mixture that a stage trains on."""
        return self.mixture or stage.mixture
