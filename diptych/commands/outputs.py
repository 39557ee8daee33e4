"""Where a command that makes a model may write it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from diptych.request import RequestError


def check_output(output: Path, left_over: Collection[str] = ()) -> None:
    """Nothing that lies there already is ever overwritten, but for `left_over`: files of an earlier call of
    the same command, which goes on with them. Raises RequestError with another way out."""
    if (output / "config.json").exists():
        raise RequestError(f"{output} is a model already; choose another folder with -o")
    if output.exists() and not output.is_dir():
        raise RequestError(f"{output} is a file; choose a folder with -o")
    names = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    # .NAME.PID.part was being written when the command was killed
    halves = tuple(f".{name}." for name in left_over)
    other = [n for n in names if n not in left_over and not (n.endswith(".part") and n.startswith(halves))]
    if other:
        raise RequestError(
            f"{output} holds other files ({other[0]}); choose an empty or a new folder with -o"
        )
