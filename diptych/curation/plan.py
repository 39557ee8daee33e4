"""Where what is known of each shard: the names of decision files, which say what they were made from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from diptych.curation.stage import Stage, WholeStage
from diptych.curation.table import ROWS, Shard
from diptych.curation.work import AGAIN, Column

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")


@dataclass
class Plan:
    """The stages of a run over its shards."""

    out: Path
    stages: Sequence[Stage]
    shards: Sequence[Shard] = ()
    _identities: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for stages of one name, and for a stage that needs what none before it gives."""
        known, names = set(ROWS.names), set[str]()
        for stage in self.stages:
            if not NAME.fullmatch(stage.name):
                raise ValueError(f"a stage's name is of letters, digits, - and _, not {stage.name!r}")
            if stage.name in names:
                raise ValueError(f"two stages have the name {stage.name!r}: give one of them another")
            names.add(stage.name)
            for need in stage.needs():
                if need not in known:
                    raise ValueError(
                        f"the stage {stage.name} needs the column {need!r}, which no stage before it gives"
                    )
            known |= stage.columns().keys()

    def __len__(self) -> int:
        return sum(shard.count for shard in self.shards)

    @cached_property
    def starts(self) -> list[int]:
        """Number of the first row of each shard."""
        starts, at = [], 0
        for shard in self.shards:
            starts.append(at)
            at += shard.count
        return starts

    @cached_property
    def _start(self) -> dict[Shard, int]:
        return dict(zip(self.shards, self.starts, strict=True))

    @cached_property
    def content(self) -> str:
        """Hash of all rows."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.content} {shard.count}\n".encode())
        return digest.hexdigest()[:24]

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def identity(self, stage: Stage) -> str:
        if stage.name not in self._identities:
            # once a run: a model's hash means reading its weights
            self._identities[stage.name] = stage.identity()
        return self._identities[stage.name]

    def folder(self, stage: Stage) -> Path:
        return self.out / "stages" / f"{stage.name}-{self.identity(stage)}"

    def path(self, stage: Stage, shard: Shard | None) -> Path:
        """File of what a stage made of a shard; of all rows, for a stage that sees them at once."""
        return self.folder(stage) / f"{self._key(stage, shard)}.parquet"

    def _key(self, stage: Stage, shard: Shard | None) -> str:
        if isinstance(stage, WholeStage):
            shard = None
        content = self.content if shard is None else shard.content
        # what it reads belongs to what it is: the same stage over other embeddings is another result
        made = sorted(
            {self._key(self._giver(need), shard) for need in stage.needs() if need not in ROWS.names}
        )
        told = " ".join((content, self.identity(stage), *made))
        return hashlib.sha256(told.encode()).hexdigest()[:24]

    def _giver(self, column: str) -> Stage:
        return self.stage(column.rpartition(".")[0])

    def have(self, stage: Stage, shard: Shard, fresh: Collection[str]) -> dict[str, Column]:
        """Where the columns lie that a stage needs of a shard, but for those of `fresh` stages, which are
        computed beside it."""
        places = {}
        for need in stage.needs():
            if need in ROWS.names or self._giver(need).name in fresh:
                continue
            giver, short = self._giver(need), need.rpartition(".")[2]
            start = self._start[shard] if isinstance(giver, WholeStage) else 0
            places[need] = Column(self.path(giver, shard), short, start)
        return places

    def costly(self, stage: Stage) -> bool:
        """Whether a stage sees only rows that are left: it costs, or it reads what such a stage made."""
        if isinstance(stage, WholeStage):
            return False
        return stage.costly or any(
            self.costly(self._giver(need)) for need in stage.needs() if need not in ROWS.names
        )

    def passes(self) -> list[list[Stage]]:
        """Stages that can be computed together, in order: a stage over all rows stands alone, and one that is
        costly waits for the decisions before it."""
        made: list[list[Stage]] = []
        for stage in self.stages:
            if not stage.gives():
                continue
            alone = isinstance(stage, WholeStage) or self.costly(stage)
            if alone or not made or isinstance(made[-1][0], WholeStage) or self.costly(made[-1][0]):
                made.append([])
            made[-1].append(stage)
        return made

    def finished(self, stage: Stage, listing: Collection[str], path: Path) -> bool:
        return path.name in listing and path.name + AGAIN not in listing

    def listing(self, stage: Stage) -> set[str]:
        """Names of the files that a stage has left."""
        folder = self.folder(stage)
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    @cached_property
    def joined(self) -> str:
        """Hash of everything that scores depend on: equal for runs that differ in thresholds alone."""
        told = [self.content, *(f"{stage.name} {self._key(stage, None)}" for stage in self.stages)]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:24]
