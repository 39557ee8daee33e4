"""Drawing: a bridge and a denoiser learn behind a language model, which is frozen, or learns with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from diptych.contracts import Sample, Source
from diptych.data.frames import FrameBatch
from diptych.data.loader import StepData, StepDataset
from diptych.training.tasks.generate import DrawLosses, GenerateTask

FLOW, TEXT = "flow", "text"
LEVELS = 5


@runtime_checkable
class Teachable(Protocol):
    """A language model whose answers can be learnt beside drawing."""

    def told(self, samples: Sequence[Sample]) -> int:
        """Tokens of the answers in conversations."""
        ...

    def answer_loss(self, samples: Sequence[Sample]) -> Tensor:
        """Cross-entropy (B,) of the answers of each conversation, summed over their tokens."""
        ...


class Learned(nn.Module):
    """All that a run may change. What is frozen stays outside: it is neither sharded, averaged nor saved."""

    def __init__(
        self,
        denoiser: nn.Module,
        bridge: nn.Module,
        backbone: nn.Module | None,
        reference: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.bridge, self.backbone = denoiser, bridge, backbone
        self.reference = reference


@dataclass(frozen=True, eq=False)
class TaughtBatch:
    """Pictures to be drawn, and conversations beside them."""

    frames: FrameBatch
    talks: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def weight(self) -> Tensor:
        return self.frames.weight

    def to(self, device: torch.device) -> TaughtBatch:
        return replace(self, frames=self.frames.to(device))


class Taught(StepDataset[TaughtBatch]):
    """Steps of pictures, with so many conversations a step beside them."""

    def __init__(
        self,
        pictures: StepDataset[FrameBatch],
        source: Source,
        per_step: int,
        groups: int,
        rank: int,
        ranks: int,
    ) -> None:
        """Raises ValueError where ranks and accumulations (`groups`) do not split the conversations
        evenly."""
        if per_step % (ranks * groups):
            raise ValueError(
                f"talks_per_step {per_step} does not split over {ranks} ranks x {groups} accumulations"
            )
        self.pictures, self.source, self.per_step = pictures, source, per_step
        self.groups, self.rank, self.ranks, self.workers = groups, rank, ranks, pictures.workers

    def __getitem__(self, step: int) -> StepData[TaughtBatch]:
        drawn = self.pictures[step]
        each = self.ranks * self.groups
        batches = []
        for group, frames in enumerate(drawn.batches):
            mine = range(self.rank * self.groups + group, self.per_step, each)
            talks = tuple(self.source.draw(step * self.per_step + place) for place in mine)
            batches.append(TaughtBatch(frames, talks))
        return StepData(tuple(batches), drawn.bad)


class TaughtLosses(NamedTuple):
    sums: dict[str, Tensor]
    drawn: DrawLosses
    talks: list[float]

    def by_kind(self, batch: TaughtBatch) -> dict[str, list[float]]:
        values = self.drawn.by_kind(batch.frames)
        return {**values, TEXT: self.talks} if self.talks else values


class TaughtTask(nn.Module):
    """Both losses of one step. No cross-entropy is computed where a batch brings no conversations."""

    def __init__(self, flow: GenerateTask, backbone: Teachable) -> None:
        super().__init__()
        self.flow, self._backbone = flow, (backbone,)

    def forward(self, batch: TaughtBatch) -> TaughtLosses:
        drawn: DrawLosses = self.flow(batch.frames)
        flow = drawn.sums[FLOW]
        if not batch.talks:
            return TaughtLosses({FLOW: flow, TEXT: torch.zeros_like(flow)}, drawn, [])
        losses = self._backbone[0].answer_loss(batch.talks)
        return TaughtLosses({FLOW: flow, TEXT: losses.sum()}, drawn, losses.detach().tolist())
