"""What is learnt, and its losses: the planner's words, or the velocity of a generator that is told more than
its text."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import BlockFacts
from diptych.models.projector import Projector
from diptych.systems.unison.adapters import Adapters
from diptych.systems.unison.language import Language
from diptych.systems.unison.requests import PlanBatch, Written
from diptych.training.tasks.generate import DrawLosses, GenerateTask

TEXT, FLOW = "text", "flow"


class Learned(nn.Module):
    """All that a run may change. What is frozen stays outside: it is neither sharded, averaged nor saved."""

    facts: ClassVar = BlockFacts(silent=())

    def __init__(self, adapters: Adapters | None, projector: Projector | None) -> None:
        super().__init__()
        self.adapters, self.projector, self.blocks = adapters, projector, nn.ModuleList()


class PlanLosses(NamedTuple):
    sums: dict[str, Tensor]
    rows: list[float]
    """Mean loss of a token of each plan."""

    def by_kind(self, batch: Any) -> dict[str, list[float]]:
        return {TEXT: self.rows}


class UnisonTask(nn.Module):
    """The losses of either stage."""

    def __init__(self, learned: Learned, language: Language, flow: GenerateTask | None) -> None:
        super().__init__()
        self.learned, self.flow = learned, flow
        # no module of ours: its parameters are nobody's to train
        self.language = language

    def forward(self, batch: Any) -> PlanLosses | DrawLosses:
        return self._plans(batch) if isinstance(batch, PlanBatch) else self._drawn(batch)

    def _plans(self, batch: PlanBatch) -> PlanLosses:
        # one by one: rows differ in length and in pictures, and a plan is short
        losses = [self.loss(row) for row in batch.rows]
        total = torch.stack(losses).sum()
        means = [float(loss.detach()) / row.plan for loss, row in zip(losses, batch.rows, strict=True)]
        return PlanLosses({TEXT: total, FLOW: torch.zeros_like(total)}, means)

    def loss(self, row: Written) -> Tensor:
        """Sum over the tokens of a plan."""
        logits = self.language.logits(row.read)[-row.plan - 1 : -1].float()
        wanted = torch.tensor(row.read.ids[-row.plan :], device=logits.device)
        return F.cross_entropy(logits, wanted, reduction="sum")

    def _drawn(self, batch: Any) -> DrawLosses:
        assert self.flow is not None
        assert self.learned.projector is not None
        # what is dropped is the batch's own, so that a run that goes on drops the same
        seed = int(batch.noise.flatten()[:1].view(torch.int32)) & 0x7FFFFFFF
        self.learned.projector.train()
        try:
            with torch.random.fork_rng(devices=[batch.noise.device] if batch.noise.is_cuda else []):
                torch.manual_seed(seed)
                found: DrawLosses = self.flow(batch)
        finally:
            self.learned.projector.eval()
        flow = found.sums[FLOW]
        return found._replace(sums={TEXT: torch.zeros_like(flow), FLOW: flow})
