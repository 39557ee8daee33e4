"""Files that grow line by line and survive a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diptych.files.whole import write_whole


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows, a JSON line each, and wait until they are on disk."""
    with path.open("a") as file:
        # json.dumps escapes all but ASCII, so that no line end of another alphabet can cut a row when it is
        # read
        file.write("".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def resume(path: Path, multiple: int = 1) -> list[dict[str, Any]]:
    """Rows that were written whole, in multiples of `multiple`; half a line that a kill left is cut off, so
    that more can be added.

    Raises ValueError naming the file where it holds something else.
    """
    if not path.is_file():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    lines = lines[: len(lines) // multiple * multiple]
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path} is no JSONL ({error}); choose another folder") from error
    write_whole(path, "".join(lines))
    return rows
