"""Where a command may write what it makes, looked at before its work begins."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from diptych.request import RequestError

CONFIG, RUN = "config.json", "checkpoints"
"""What a model folder holds, and what a run's folder holds."""


def check_output(output: Path, left_over: Collection[str] = ()) -> None:
    """For a command that makes a folder. Nothing that lies there already is ever overwritten, but for
    `left_over`: files of an earlier call of the same command, which goes on with them. Raises RequestError
    with another way out."""
    for name, what in ((CONFIG, "a model"), (RUN, "a run")):
        if (output / name).exists():
            raise RequestError(f"{output} is {what} already; choose another folder with -o")
    if os.path.lexists(output) and not output.is_dir():
        raise RequestError(f"{output} is a file; choose a folder with -o")
    names = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    # .NAME.PID.part was being written when the command was killed
    halves = tuple(f".{name}." for name in left_over)
    other = [n for n in names if n not in left_over and not (n.endswith(".part") and n.startswith(halves))]
    if other:
        raise RequestError(
            f"{output} holds other files ({other[0]}); choose an empty or a new folder with -o"
        )
    _check_writable(output if output.is_dir() else output.parent, output)


def check_new(output: Path) -> None:
    """For a command that makes a folder or a file. Raises RequestError where something of that name is
    there."""
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise RequestError(f"{output} is there already: choose another name")
    _check_writable(output.parent, output)


def check_file(output: Path, frames: int = 1) -> None:
    """For a command that writes a picture under this name, over one that may be there. Raises RequestError
    where that cannot be."""
    from diptych.data.pictures import format_of

    if output.is_dir():
        raise RequestError(f"{output} is a folder; name a picture in it with -o, such as {output}/out.png")
    if os.path.lexists(output) and not output.is_file():
        raise RequestError(f"{output} is no ordinary file; name another with -o")
    format_of(output, frames)
    _check_writable(output.parent, output)


def check_page(output: Path) -> None:
    """For a command that writes a text file under this name, over one that may be there. Raises RequestError
    where that cannot be."""
    if os.path.lexists(output) and not output.is_file():
        raise RequestError(f"{output} is no ordinary file; name another")
    _check_writable(output.parent, output)


def _check_writable(folder: Path, output: Path) -> None:
    """Tries it: rights, file systems that are read-only and names too long all end alike."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise RequestError(f"{output} cannot be written: {there} is a file, not a folder")
    try:
        # as long as the longest name that whole writes give it
        with tempfile.NamedTemporaryFile(prefix=f".{output.name}.", suffix=".part", dir=there):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RequestError(f"{output} cannot be written: {reason}; name another with -o") from error
