"""What a joint run is: sources and their shares, model, flow, data and stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from diptych.data.conversations.loader import LoaderConfig
from diptych.flow import FlowConfig
from diptych.models.mot import MoTConfig
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.packed import Weighing
from diptych.systems.u1.settings import check_flow
from diptych.training.config import LORA, RunConfig, StageConfig
from diptych.worlds.emoji import WorldConfig
from diptych.worlds.emoji.motion_source import CLIP_TASKS
from diptych.worlds.emoji.source import TASKS

WORLD_TASKS = (*TASKS, *CLIP_TASKS)
"""What a mixture may draw from the emoji world."""
PLAN = "plan"
"""Requests with their plans, as a source."""
MADE = (*WORLD_TASKS, PLAN)
"""Sources that are made on the way, from no files."""
PARTS = ("all", "understanding", "generation")


@dataclass(frozen=True, kw_only=True)
class Stage(StageConfig):
    """A stage of a joint run: its mixture, what learns ('understanding': text and clean pictures;
    'generation': noisy ones), and how the two losses are weighed."""

    parts: ClassVar[tuple[str, ...]] = (*PARTS, LORA)
    mixture: dict[str, float]
    """Task or source -> share of the samples; without any, every source of one's own by its size."""
    text_weight: float = 0.1
    flow_weight: float = 1.0
    perceptual_weight: float = 0.1
    """Only where the run names a network for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_weight", "flow_weight", "perceptual_weight"):
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
    conversation: Conversation | None = None
    """How the model converses; None: as the model it starts from, or the shipped one."""
    draw_pixels: tuple[int, int] | None = None
    """Pixels, at least and at most, of what is drawn, which else keeps its own size; None: the longer side of
    every picture is at most the world's size."""
    meta: tuple[str, ...] = ()
    """Lists of data sets, in JSON as SenseNova-U1 has them; each data set is named in a mixture by its own
    name."""
    jsonl: tuple[str, ...] = ()
    """JSONL files with samples of one's own; a file's name without ending is its name in a mixture."""
    text: tuple[str, ...] = ()
    """Plain text files, one sample a paragraph; named likewise."""
    pictures: tuple[str, ...] = ()
    """Folders of captioned pictures that `diptych data index` was run on; named likewise."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Mixture of every stage instead of its own: names and shares."""
    tokenizer: str = ""
    """From scratch: a tokenizer.json, or a folder with one or with vocab.json and merges.txt; '': learnt from
    the texts of the data."""
    weighing: Weighing = field(default_factory=Weighing)
    perceptual: str = ""
    """A safetensors file of a VGG in torchvision's names, with LPIPS's own weights or without: pictures are
    to look right to it as well."""
    lora_part: str = "all"
    """What has adapters: 'understanding', 'generation', or 'all', both."""
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flow(self.flow)
        names = self.own
        if clash := [name for name in names if names.count(name) > 1 or name in MADE]:
            raise ValueError(
                f"{clash[0]!r} would name two sources of the mixture; what is made on the way is "
                f"{', '.join(MADE)}"
            )
        mixtures = [self.shares(stage) for stage in self.stages]
        drawn_from = {name for shares in mixtures for name, share in shares.items() if share}
        if all(mixtures) and self.stages and (idle := [name for name in names if name not in drawn_from]):
            raise ValueError(
                f"no mixture draws from {idle[0]!r}; give its share: --mixture {idle[0]} 0.5 generate 0.5"
            )
        if self.start and self.tokenizer:
            raise ValueError(
                f"tokenizer is for a run from scratch, and this one starts from {self.start}, which has its "
                "own: leave one of them out"
            )
        if self.lora_part not in PARTS:
            raise ValueError(f"lora_part must be one of {', '.join(PARTS)}, got {self.lora_part!r}")
        if self.draw_pixels is not None and not 0 < self.draw_pixels[0] <= self.draw_pixels[1]:
            raise ValueError(f"draw_pixels must be two areas, the smaller first, got {self.draw_pixels}")

    @property
    def own(self) -> list[str]:
        """Names of one's own files and folders in a mixture; a list's data sets have theirs in it."""
        return [Path(path).stem for path in (*self.jsonl, *self.text, *self.pictures)]

    @property
    def native(self) -> int:
        """Side, px, of the pictures that the model is trained to draw."""
        if self.draw_pixels is None:
            return self.world.size
        token = self.model.token
        return max(token, int(self.draw_pixels[1] ** 0.5) // token * token)

    def shares(self, stage: Stage) -> dict[str, float]:
        """The mixture that a stage trains on."""
        return self.mixture or stage.mixture
