"""A small model of blocks with a task, data and a job: the training engine without any system."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diptych.contracts import BlockFacts
from diptych.data.loader import StepData, StepDataset
from diptych.optim.build import OptimConfig
from diptych.training import ranks
from diptych.training.config import RunConfig, StageConfig
from diptych.training.trainer import Trainer, TrainingStopped


@dataclass(frozen=True, kw_only=True)
class ToyStage(StageConfig):
    parts: ClassVar[tuple[str, ...]] = ("all", "blocks", "head")


@dataclass(frozen=True, kw_only=True)
class ToyModelConfig:
    depth: int = 3
    width: int = 72
    vocabulary: int = 61


@dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    changeable: ClassVar[frozenset[str]] = RunConfig.changeable | {"stop", "accumulate"}

    model: ToyModelConfig = ToyModelConfig()
    stages: tuple[ToyStage, ...] = ()
    rows: int = 8
    tokens: int = 6
    accumulate: int = 1
    stop: int = -1
    """The run is told to stop in this step."""
    spoilt: bool = False
    """In each step the first rank cannot use one sample, the second two, and so on."""
    ema: float = 0.9
    bf16: bool = False
    sample_every: int = 10**6
    save_every: int = 10**6


class ToyBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.gain = nn.Parameter(torch.empty(1, width))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x) * self.gain)))


class ToyModel(nn.Module):
    """Ids (B, T) -> logits (B, T, vocabulary) of the ids themselves."""

    facts: ClassVar[BlockFacts] = BlockFacts(silent=("down",), apart=("embedding", "head"))

    def __init__(self, config: ToyModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(ToyBlock(config.width) for _ in range(config.depth))
        self.shift = nn.Parameter(torch.empty(config.width))
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.shift
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.named_parameters():
            yield name, 0.3 * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5

    def new_block(self, generator: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class ToyBatch:
    ids: Tensor

    def to(self, device: torch.device) -> ToyBatch:
        return ToyBatch(self.ids.to(device))


@dataclass(frozen=True)
class ToyLosses:
    sums: dict[str, Tensor]

    def by_kind(self, batch: ToyBatch) -> dict[str, list[float]]:
        return {"words/toy": [float(self.sums["words"].detach()) / batch.ids.numel()]}


class ToyTask(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ToyBatch) -> ToyLosses:
        logits = self.model(batch.ids).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.ids.flatten(), reduction="sum")
        return ToyLosses({"words": loss})


class ToyData(StepDataset[ToyBatch]):
    workers = 0

    def __init__(self, config: ToyConfig, rank: int, ranks: int) -> None:
        self.config, self.rank, self.ranks = config, rank, ranks

    def __getitem__(self, step: int) -> StepData[ToyBatch]:
        if step == self.config.stop:
            signal.raise_signal(signal.SIGTERM)
        generator = torch.Generator().manual_seed(1000 * self.config.seed + step)
        shape = self.config.rows, self.config.tokens
        ids = torch.randint(self.config.model.vocabulary, shape, generator=generator)
        mine = ids[self.rank :: self.ranks].chunk(self.config.accumulate)
        bad = tuple(f"rank {self.rank}, {n}" for n in range(self.rank + 1)) if self.config.spoilt else ()
        return StepData(tuple(ToyBatch(part) for part in mine), bad)


@dataclass
class ToyJob:
    config: Any
    parent: dict[str, Any] | None = None
    start: Mapping[str, Tensor] = field(default_factory=dict)
    brought: Mapping[str, Tensor] = field(default_factory=dict)
    family: str = "toy"
    loss_names: tuple[str, ...] = ("words",)

    def __post_init__(self) -> None:
        with torch.device("meta"):
            self.model = ToyModel(self.config.model)
        self.task = ToyTask(self.model)
        self.seen: list[dict[str, Tensor]] = []

    @property
    def body(self) -> ToyModel:
        return self.model

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        if self.start:
            yield from self.start.items()
        else:
            yield from self.model.starting_values(torch.Generator().manual_seed(self.config.seed))

    def optimiser_state(self) -> Mapping[str, Tensor]:
        return self.brought

    def totals(self, batch: ToyBatch) -> dict[str, float]:
        return {"words": float(batch.ids.numel())}

    def loss_weights(self, stage: ToyStage) -> dict[str, float]:
        return {"words": 1.0}

    def learns(self, name: str, stage: ToyStage) -> bool:
        return stage.trainable == "all" or stage.trainable in name

    def dataset(self, stage: ToyStage, rank: int, ranks: int) -> ToyData:
        return ToyData(self.config, rank, ranks)

    def describe(self, stage: ToyStage) -> str:
        return stage.trainable

    def prepare(self, folder: Path) -> None:
        pass

    def system(self, card: dict[str, Any]) -> Any:
        return self.model, card

    def sample(self, path: Path | None) -> None:
        ids = self.model(torch.arange(5)[None]).argmax(-1)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(ids.tolist()))

    def validate(self, device: torch.device) -> dict[str, float]:
        batch = ToyData(self.config, 0, 1)[10**6].batches[0]
        return {"validation": float(self.task(batch).sums["words"]) / batch.ids.numel()}


def toy_config(steps: int = 6, optimiser: str = "adamw", **changes: Any) -> ToyConfig:
    optim = OptimConfig(name=optimiser, lr=1e-2 if optimiser == "adamw" else 1e-3, warmup=2)
    stages = (ToyStage(name="one", steps=steps, optim=optim),)
    return ToyConfig(**{"name": "toy", "stages": stages, **changes})


def main(*runs: str) -> None:
    """One rank, for torchrun, of runs one after the other: 'folder=changes of the config in JSON'."""
    torch.set_num_threads(1)
    stop, ranks.stop = ranks.stop, lambda of: None
    for run in runs:
        folder, _, changes = run.partition("=")
        toy_run(Path(folder), **json.loads(changes))
    stop(ranks.start())


def toy_run(folder: Path, **changes: Any) -> None:
    """A run, or what is left of it, up to its `stop` or to where it stops itself."""
    with contextlib.suppress(KeyboardInterrupt, TrainingStopped):
        Trainer(ToyJob(toy_config(**changes)), folder, quiet=True).train()


if __name__ == "__main__":
    main(*sys.argv[1:])
