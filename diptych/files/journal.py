"""Files that grow line by line and survive a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diptych.files.typed import convert, parse, read_json, to_json
from diptych.files.whole import write_whole
from diptych.request import RequestError

REQUEST = "request.json"
"""In a folder that a journal fills: what its rows are of."""


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows, a JSON line each, and wait until they are on disk."""
    with path.open("a") as file:
        # json.dumps escapes all but ASCII, so that no line end of another alphabet can cut a row when it is
        # read
        file.write("".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def resume(path: Path, kind: Any = dict[str, Any], multiple: int = 1) -> list[Any]:
    """Rows of `kind` that were written whole, in multiples of `multiple`; half a line that a kill left is cut
    off, so that more can be added.

    Raises ValueError naming file and line where it holds something else.
    """
    if not path.is_file():
        return []
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    lines = lines[: len(lines) // multiple * multiple]
    try:
        rows = [
            convert(kind, parse(line.decode(), f"{path}:{number}", python=True), f"{path}:{number}")
            for number, line in enumerate(lines, 1)
        ]
    except UnicodeError as error:
        raise ValueError(f"{path} is no JSONL ({error}); choose another folder") from error
    except ValueError as error:
        raise ValueError(f"{error}; choose another folder") from error
    write_whole(path, b"".join(lines).decode())
    return rows


def begin(folder: Path, request: dict[str, Any], what: str, of: str) -> None:
    """Note in a folder what its rows and pictures answer. Raises RequestError where it holds something else
    than `what`, which would be cut off, overwritten or mixed with it, or such `of` another request."""
    note = folder / REQUEST
    if note.is_file():
        if read_json(note) != request:
            raise RequestError(f"{folder} holds {what} of another {of}; choose another folder")
        return
    there = folder.iterdir() if folder.is_dir() else [folder] if os.path.lexists(folder) else []
    # .request.json.PID.part was being written when the command was killed
    if any(not (path.name.startswith(f".{REQUEST}.") and path.suffix == ".part") for path in there):
        raise RequestError(f"{folder} holds something else than {what}; choose an empty or a new folder")
    write_whole(note, to_json(request))
