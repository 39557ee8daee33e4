"""Tables on disk: rows of inputs, what stages computed of them, and all of a run side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.files.whole import whole

SHARD = 1024
"""Rows of a shard: what is computed, kept and computed again as one."""
ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("modified", pa.int64()),
        ("sha256", pa.binary(32)),
        ("captions", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("problem", pa.string()),
    ]
)
"""One input each. `modified`: of its file, ns. `problem`: '' for one that could be read."""
SHARDS = pa.schema(
    [("unit", pa.string()), ("start", pa.int64()), ("count", pa.int64()), ("content", pa.string())]
)
ERROR, DONE = "error", "done"
"""Columns that every stage's file has: why a row failed, and whether it was computed at all."""


@dataclass(frozen=True)
class Shard:
    """Some rows of one unit."""

    unit: str
    start: int
    count: int
    content: str
    """Hash of what its rows are: of their bytes and texts, wherever they lie."""


def write_table(table: pa.Table, path: Path) -> None:
    with whole(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def rows_path(out: Path, unit: str) -> Path:
    return out / "rows" / f"{unit}.parquet"


def read_rows(out: Path, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    # without threads: there are as many workers as processors already
    table = pq.read_table(rows_path(out, shard.unit), columns=columns, use_threads=False)
    return table.slice(shard.start, shard.count)


def shards_of(unit: str, rows: pa.Table) -> list[Shard]:
    """A unit's rows, cut."""
    return [
        Shard(unit, start, min(SHARD, rows.num_rows - start), _content(rows.slice(start, SHARD)))
        for start in range(0, rows.num_rows, SHARD)
    ]


def _content(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in ("sha256", "captions", "scores", "problem"):
        digest.update(repr(rows.column(name).to_pylist()).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:24]


def write_shards(out: Path, shards: Iterable[Shard]) -> None:
    found = list(shards)
    columns = {name: [getattr(shard, name) for shard in found] for name in SHARDS.names}
    write_table(pa.table(columns, schema=SHARDS), out / "shards.parquet")


def read_shards(out: Path) -> list[Shard]:
    """Raises ValueError where no run has read its source yet."""
    path = out / "shards.parquet"
    if not path.is_file():
        raise ValueError(f"{out} holds no run that has read its source")
    return [Shard(**row) for row in pq.read_table(path).to_pylist()]


def stage_schema(gives: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([*gives.items(), (ERROR, pa.string()), (DONE, pa.bool_())])


def is_vector(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_binary(kind)


def is_scalar(kind: pa.DataType) -> bool:
    """Whether a column's values are numbers, truths or texts."""
    return not (is_vector(kind) or pa.types.is_list(kind) or pa.types.is_binary(kind))


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers or truths as numpy; null is NaN, 0 or False."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return column.fill_null(False).to_numpy()
    if pa.types.is_integer(kind):
        return column.fill_null(0).to_numpy()
    # bool and whole numbers keep their kinds; all else is told in doubles
    return column.cast(pa.float64()).fill_null(float("nan")).to_numpy()


def vectors_in(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """float16 (rows, width) of a column of vectors, zeros where there is none; and which are there."""
    width = column.type.byte_width // 2
    parts = [_vectors(chunk, width) for chunk in column.chunks]
    there = column.is_valid().to_numpy()
    found = np.concatenate(parts) if parts else np.zeros((0, width), np.float16)
    found[~there] = 0
    return found, there


def _vectors(chunk: pa.FixedSizeBinaryArray, width: int) -> np.ndarray:
    data = chunk.buffers()[1]
    if data is None:
        return np.zeros((len(chunk), width), np.float16)
    flat = np.frombuffer(data, dtype=np.float16, count=(chunk.offset + len(chunk)) * width)
    return flat.reshape(-1, width)[chunk.offset :].copy()


def digests_in(column: pa.ChunkedArray) -> np.ndarray:
    """A column of bytes of one length as 'S'; zeros, which 'S' shows as b'', where there are none."""
    width = column.type.byte_width
    zero = b"\0" * width
    return np.array([value or zero for value in column.to_pylist()], dtype=f"S{width}")


def texts_in(column: pa.ChunkedArray) -> np.ndarray:
    """A column of texts as objects; equal texts are one object, as there are often few of them."""
    if not len(column):
        return np.zeros(0, dtype=object)
    packed = column.cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
    words = np.array(packed.dictionary.to_pylist(), dtype=object)
    return words[packed.indices.to_numpy()]


def batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(count, start + size))


def as_arrow(values: Any, kind: pa.DataType) -> pa.Array:
    """One column that a stage made. Raises ValueError for values of another kind than it promised."""
    try:
        if is_vector(kind):
            return pa.array([_packed(value, kind.byte_width) for value in values], type=kind)
        return pa.array(values, type=kind, from_pandas=False)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"values that are no {kind} ({error})") from error


def _packed(value: Any, width: int) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    packed = np.asarray(value, dtype=np.float16).tobytes()
    if len(packed) != width:
        raise ValueError(f"a vector of {len(packed) // 2} numbers, not of {width // 2}")
    return packed
