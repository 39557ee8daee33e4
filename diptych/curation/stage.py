"""What a stage is: typed columns in, typed columns out, an identity, and a judgement that only compares.

A stage stores scores. Whether a score is good enough is asked afterwards, of all rows at once (`judge`), so a
threshold changes without any picture being opened again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

Drain = Callable[[Iterator[Any], Callable[[Any, Any], Iterable[Any]]], None]
BATCH = 128
"""Rows that a stage computes at a time."""


class StopRun(ValueError):
    """What ends a whole run: a server that is down for good, a budget that is spent, a source that went."""


class RowError(ValueError):
    """What is wrong with one row: its outcome, in a few words."""


def threshold(default: Any) -> Any:
    """A field that only decides: it belongs to no identity, and changing it computes nothing again."""
    return field(default=default, metadata={"decides": True})


def manner(default: Any) -> Any:
    """A field that says how something is done and not what: an address, a time-out, a device."""
    return field(default=default, metadata={"decides": True})


def place(default: Any) -> Any:
    """A field that says where a model lies: what it holds is told by `Stage.model`."""
    return field(default=default, metadata={"place": True})


def vector(width: int) -> pa.DataType:
    """Type of a column of float16 vectors."""
    # bytes: a missing one then has its place in the buffer too, and the rest is read without a copy
    return pa.binary(2 * width)


class Shared:
    """What a worker opens once for all stages and all shards: models, clients, tables."""

    def __init__(self, out: Path | None = None, opener: str = "") -> None:
        """`out`: the run's folder, where a stage may keep what must outlive a kill. `opener`: MODULE:FUNCTION
        that opens a model of ours; by name, as most workers never need it."""
        self.out, self.opener = out, opener
        self._held: dict[Hashable, Any] = {}

    def system(self, name: str, device: str) -> Any:
        """A model of ours by its name; None for any other."""
        if not self.opener:
            return None
        module, _, function = self.opener.partition(":")
        return getattr(importlib.import_module(module), function)(name, device)

    def get(self, key: Hashable, open: Callable[[], Any]) -> Any:
        if key not in self._held:
            self._held[key] = open()
        return self._held[key]


class Batch:
    """Some rows of one shard, as a stage sees them."""

    def __init__(self, ids: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None:
        self.ids = ids
        self.looked: list[Any] = [None] * len(ids)
        """What the stage's `look` made of each row's picture."""
        self.failures: dict[int, tuple[str, bool]] = {}
        self._columns = columns

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> Any:
        """Values of a column, one a row; of a vector column float16 (rows, width)."""
        values = self._columns[name]
        if len(values) and isinstance(values[0], np.ndarray):
            # made in the same pass: rounded as it is stored, so that both ways give the same
            return np.stack(values).astype(np.float16)
        if len(values) and isinstance(values[0], bytes):
            return np.frombuffer(b"".join(values), dtype=np.float16).reshape(len(values), -1)
        return values

    def fail(self, number: int, reason: str, again: bool = False) -> None:
        """This row ends here. `again`: a later run tries it once more, as the reason may have gone."""
        self.failures[number] = (reason, again)


@dataclass
class Drop:
    """Rows that a stage lets go, for one reason."""

    reason: str
    rows: np.ndarray
    """bool, one a row of the run."""
    score: np.ndarray | None = None
    column: str = ""
    """What the score is, as a histogram of it is headed."""
    limit: float | None = None


@dataclass
class Verdict:
    drops: list[Drop] = field(default_factory=list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """What follows from scores and earlier decisions, one value a row: a bucket, a part."""


class View(Protocol):
    """All rows of a run, column by column."""

    alive: np.ndarray
    """bool: kept by all stages before the one that asks."""

    def __len__(self) -> int: ...

    def __getitem__(self, name: str) -> np.ndarray:
        """A column of numbers or truths; NaN where there is none."""
        ...

    def strings(self, name: str) -> np.ndarray:
        """A column of texts, as objects; '' where there is none."""
        ...

    def digests(self, name: str) -> np.ndarray:
        """A column of bytes of one length as 'S'; of zeros where there is none."""
        ...

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of lists of numbers: (N + 1) offsets, and all values."""
        ...

    def vectors(self, name: str) -> Iterable[tuple[int, np.ndarray, np.ndarray]]:
        """By shard: its first row, float16 (rows, width), and which of them are there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a recipe. Its fields are its settings; those made by `threshold` decide and do no more."""

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    """Of its code: raised when results change."""
    costly: ClassVar[bool] = False
    """Computed only for rows that all stages before it keep."""
    source: ClassVar[str] = ""
    """SHA-256 of the file that a stage of somebody's own comes from."""

    name: str = ""
    """In the recipe; the kind unless given."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    def needs(self) -> tuple[str, ...]:
        """Columns of rows or of earlier stages, by their full names."""
        return ()

    def gives(self) -> dict[str, pa.DataType]:
        """Columns that `compute` makes, without the stage's name before them."""
        return {}

    def model(self) -> str:
        """What its results depend on besides its settings: the hash of a model, of a folder of examples."""
        return ""

    def check(self) -> None:
        """Raises ValueError for settings or models that cannot be used; called before anything is done."""

    def load(self, shared: Shared) -> Any:
        """What `look` and `compute` need, opened once a worker."""
        return None

    look: ClassVar[Callable[[Any, Any, Any], Any] | None] = None
    """look(seen, loaded): something small of one decoded picture, given back in `Batch.looked`. A stage
    without it needs no picture."""

    def compute(self, batch: Batch, loaded: Any) -> Mapping[str, Sequence[Any]]:
        """One value a row for each column of `gives`. A row's values must not depend on its neighbours."""
        return {}

    def judge(self, view: View) -> Verdict:
        """Which of all rows go. Pure, and of columns alone: no model, no picture."""
        return Verdict()

    def settings(self) -> str:
        """Hash of what it is but for its model: code and settings, without thresholds and its name."""
        return self._told(("decides",))

    def identity(self) -> str:
        """Of what is computed: code, settings and model, wherever the model lies."""
        told = self._told(("decides", "place"))
        return hashlib.sha256(f"{told} {self.model()}".encode()).hexdigest()[:16]

    def _told(self, left_out: Sequence[str]) -> str:
        values = {
            f.name: plain(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if f.name != "name" and not any(f.metadata.get(key) for key in left_out)
        }
        told = [self.kind, self.version, self.source, values]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, view: View, folder: Path, drain: Drain, progress: Callable[..., Any]) -> None:
        """Make something of the rows that are kept: for stages at the end of a recipe. `drain(tasks, then)`
        carries out tasks in the workers."""

    def columns(self) -> dict[str, pa.DataType]:
        """Columns that it makes, by their full names."""
        return {f"{self.name}.{column}": kind for column, kind in self.gives().items()}


@dataclass(frozen=True, kw_only=True)
class WholeStage(Stage, ABC):
    """A stage that compares rows with one another, and so sees all of them at once.

    It computes for every row that has what it needs, also for those that are dropped: what is kept depends on
    thresholds, and what was computed must not.
    """

    @abstractmethod
    def compute_whole(
        self, view: View, shared: Shared, aside: Path, advance: Callable[[int, int], Any]
    ) -> Mapping[str, Any]:
        """Columns of `gives`, each with one value a row of the run. `aside` is an empty folder for what
        memory should not hold."""


def plain(value: Any) -> Any:
    """A setting as plain values, the same on every machine."""
    if isinstance(value, Stage):
        return [value.kind, value.identity()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def below(reason: str, values: np.ndarray, limit: float | None, column: str = "") -> list[Drop]:
    """Rows under a limit; those without a number apart, as nothing may pass for want of a score."""
    return _beyond(reason, values, limit, column, lambda v, most: v < most)


def above(reason: str, values: np.ndarray, limit: float | None, column: str = "") -> list[Drop]:
    """Rows over a limit, and those without a number."""
    return _beyond(reason, values, limit, column, lambda v, most: v > most)


def _beyond(
    reason: str,
    values: np.ndarray,
    limit: float | None,
    column: str,
    beyond: Callable[[np.ndarray, float], np.ndarray],
) -> list[Drop]:
    if limit is None:
        return []
    drops = [Drop(reason, beyond(values, limit), values, column, limit)]
    if values.dtype.kind == "f":
        drops.append(Drop(f"{reason}: no number", np.isnan(values), None, column, limit))
    return drops


def limit_of(view: View, values: np.ndarray, least: float | None, share: float | None) -> float | None:
    """A threshold: `least`, or the value that the best `share` of the rows that are still there reach. None
    where neither is given. Raises ValueError for both at once and for a share that is none."""
    if share is None:
        return least
    if least is not None:
        raise ValueError("give either the least score or the share that is kept, not both")
    if not 0 < share <= 1:
        raise ValueError(f"the share that is kept must be above 0 and at most 1, got {share}")
    known = values[view.alive & np.isfinite(values)]
    if not len(known):
        return None
    # of the values themselves: a value between two of them would be no score that anything has
    return float(np.quantile(known, 1 - share, method="lower"))
