"""Steps of a mixture of conversations: documents, packed into rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.contracts import BadSample, Sample
from diptych.data.conversations.packing import Batch, collate, pack
from diptych.data.conversations.template import Template
from diptych.data.conversations.tokens import Document
from diptych.data.loader import MAX_WORKERS, StepData, StepDataset
from diptych.data.mixture import Mixture

MAX_DOCUMENTS = 2**20
LONGEST = 8
"""Rows' budgets that one document may be long. It has a row of its own, and masks grow with its square."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    documents_per_step: int = 64
    """Documents of one optimiser step, over all ranks and accumulations."""
    row_tokens: int = 512
    """Token budget of a packed row."""
    row_pictures: int = 0
    """Most pictures of a packed row, a clean copy of what is drawn counted as one; 0: no limit."""
    accumulate: int = 1
    workers: int = 1
    drop_text: float = 0.1
    """Share of drawing samples trained without their text (guidance)."""
    drop_all: float = 0.1
    """Further share trained without text and source pictures; only those with pictures to go by."""
    validation: float = 0.0
    """Share of the samples of one's own files, chosen by their bytes, that is never trained on."""

    def __post_init__(self) -> None:
        if not 1 <= self.accumulate <= self.documents_per_step <= MAX_DOCUMENTS or self.row_tokens < 8:
            raise ValueError(
                f"documents_per_step must be 1 to {MAX_DOCUMENTS:,}, accumulate at least 1 and at most that, "
                f"row_tokens at least 8, got {self.documents_per_step}, {self.accumulate}, {self.row_tokens}"
            )
        if self.row_pictures < 0 or not 0 <= self.validation < 1:
            raise ValueError(
                "row_pictures must not be negative and validation a share below 1, got "
                f"{self.row_pictures}, {self.validation}"
            )
        if not 0 <= self.workers <= MAX_WORKERS:
            raise ValueError(f"workers must be 0 to {MAX_WORKERS}, got {self.workers}")
        if not (self.drop_text >= 0 and self.drop_all >= 0 and self.drop_text + self.drop_all <= 1):
            raise ValueError(
                f"drop_text and drop_all must be shares that sum to at most 1, got {self.drop_text}, "
                f"{self.drop_all}"
            )


class DocumentDataset(StepDataset[Batch]):
    """Documents of a mixture, packed into rows."""

    def __init__(
        self,
        mixture: Mixture,
        template: Template,
        config: LoaderConfig,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.mixture, self.template, self.config = mixture, template, config
        self.rank, self.ranks = rank, ranks
        self.workers = config.workers

    def __getitem__(self, step: int) -> StepData[Batch]:
        bad: list[str] = []
        parts: list[list[tuple[Document, int]]] = [[] for _ in range(self.config.accumulate)]
        groups = self.ranks * self.config.accumulate
        for place in range(self.config.documents_per_step):
            # dealt out by place in the step: the documents of a step are the same for any number of ranks
            owner, group = divmod(place % groups, self.config.accumulate)
            if owner != self.rank:
                continue
            n = step * self.config.documents_per_step + place
            try:
                parts[group].append((self.document(n), self._key(n)))
            except BadSample as error:
                bad.append(str(error))
        batches = []
        for part in parts:
            documents, keys = [d for d, _ in part], [k for _, k in part]
            # packed by rank and accumulation: rows differ with their numbers, losses do not, as they are sums
            pictures = [len(d.clean) + sum(1 if x.ndim == 3 else len(x) for x in d.noisy) for d in documents]
            budget = (self.config.row_tokens, pictures, self.config.row_pictures)
            rows = pack([len(d) for d in documents], *budget) or [[]]
            batches.append(collate(rows, documents, keys, self.template.pad))
        return StepData(tuple(batches), tuple(bad))

    def _key(self, n: int) -> int:
        # Philox takes a key of 128 bits: the seed above, stream and number below, so that no two documents
        # share noise
        return (self.mixture.seed << 64) + (3 << 48) + n

    def document(self, n: int) -> Document:
        """The run's n-th sample as tokens, with guidance dropout drawn from (seed, n)."""
        source, number = self.mixture.locate(n)
        sample = source.draw(number)
        drop_text, drop_pictures = self.dropped(n, sample)
        try:
            document = self.template.write(sample, drop_text, drop_pictures)
        except ValueError as error:
            raise BadSample(str(error)) from error
        if len(document) > LONGEST * self.config.row_tokens:
            raise BadSample(
                f"{sample.origin or source.name}: {len(document):,} tokens; with rows of "
                f"{self.config.row_tokens} at most {LONGEST * self.config.row_tokens:,} are taken"
            )
        return document

    def dropped(self, n: int, sample: Sample) -> tuple[bool, bool]:
        """Whether the run's n-th sample is shown without its text, and without its pictures."""
        drawn = sum(picture.drawn for picture in sample.pictures)
        if not drawn:
            return False, False
        # one draw for both, so that the shares exclude each other: the three passes of guidance each meet in
        # training what they see in drawing
        draw = np.random.default_rng([self.mixture.seed, 4, n]).random()
        # an earlier picture of a story is one to go by
        has_source = len(sample.pictures) > 1
        no_pictures = has_source and draw < self.config.drop_all
        return draw < self.config.drop_text + (self.config.drop_all if has_source else 0.0), no_pictures
