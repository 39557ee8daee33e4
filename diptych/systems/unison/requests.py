"""Steps of planning data as a language model reads them: a request, and the plan that it is to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diptych.data.loader import StepData, StepDataset
from diptych.planning.data.compose import sample
from diptych.planning.signals import write
from diptych.systems.unison.language import Language, Read
from diptych.systems.unison.seen import drawn
from diptych.systems.unison.writing import spelt


@dataclass(frozen=True, eq=False)
class Written:
    """A request with its plan behind it."""

    read: Read
    plan: int
    """Tokens of the plan, at the end."""


@dataclass(frozen=True, eq=False)
class PlanBatch:
    rows: tuple[Written, ...]

    def to(self, device: torch.device) -> PlanBatch:
        """The model takes each row to where it is itself."""
        return self


def written(
    language: Language, seed: int, number: int, thumbnails: bool, families: str = "trained"
) -> Written:
    """A request of the planning data by its number, with its plan."""
    made = sample(seed, number, families)
    shown = drawn(made.request.media, [seed, 6, number]) if thumbnails and made.request.media else None
    plan = spelt(language, write(made.intent))
    return Written(language.asked(made.request, shown).followed(plan), len(plan))


class Requests(StepDataset[PlanBatch]):
    """data[step] for one rank; every request is made on the way, and none twice."""

    def __init__(
        self,
        language: Language,
        *,
        per_step: int,
        accumulate: int,
        workers: int,
        thumbnails: bool,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Raises ValueError where ranks and accumulations do not split a step evenly."""
        if per_step % (ranks * accumulate):
            raise ValueError(
                f"requests_per_step {per_step} does not split over {ranks} ranks x {accumulate} accumulations"
            )
        self.language, self.per_step, self.accumulate, self.workers = language, per_step, accumulate, workers
        self.thumbnails, self.seed, self.rank, self.ranks = thumbnails, seed, rank, ranks

    def __getitem__(self, step: int) -> StepData[PlanBatch]:
        parts: list[list[Written]] = [[] for _ in range(self.accumulate)]
        for place in range(self.per_step):
            owner, group = divmod(place % (self.ranks * self.accumulate), self.accumulate)
            if owner == self.rank:
                number = step * self.per_step + place
                parts[group].append(written(self.language, self.seed, number, self.thumbnails))
        return StepData(tuple(PlanBatch(tuple(part)) for part in parts), ())


def total(rows: Sequence[Written]) -> float:
    """Tokens of all plans."""
    return float(sum(row.plan for row in rows))
