"""Files that others made: regular ones inside their folder, lines of a bounded length."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

MAX_LINE = 2**24
"""Bytes of a line that is read; a longer one is passed over and named."""
HOPELESS = 2**29
"""Bytes of a line after which a file is no text at all, and nothing more of it is read."""
MAX_TEXT = 100_000
"""Characters of a caption or of one sample's turns: about forty pages."""
_BOM = b"\xef\xbb\xbf"


def regular(path: Path, limit: int | None = None) -> int:
    """Size in bytes of a regular file. Raises ValueError for what is missing, is no regular file, or is
    larger than `limit`. Nothing is opened: a pipe would wait for its other end for ever."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path}: no such file") from error
    # UnicodeError and ValueError: names with lone surrogates, names with a zero in them
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{shortened(str(path))} cannot be opened ({reason})") from error
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a device or a socket"
        raise ValueError(f"{path} is {what}, and a file is needed")
    if limit is not None and found.st_size > limit:
        raise ValueError(f"{path} has {found.st_size:,} bytes, more than the {limit:,} that are read")
    return found.st_size


def shortened(text: str) -> str:
    """A stranger's text for a message: quoted, on one line, of at most about 80 characters."""
    return repr(text if len(text) <= 80 else f"{text[:60]} ... ({len(text):,} characters)")


def printable(text: str) -> str:
    """A text without lone surrogates, which names of other encodings bring and UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def inside(folder: Path, name: str, below: str = "") -> Path:
    """The regular file that `name` is in `folder` (resolved), or in its subfolder `below`; links are
    followed. Raises ValueError for one that is missing, is no file, or lies outside the folder."""
    try:
        path = (folder / below / name).resolve()
        found = path.is_file()
    # a name that is too long, a circle of links, a zero or a lone surrogate in a name
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{shortened(name)} is no name of a file") from error
    if not path.is_relative_to(folder):
        raise ValueError(f"{shortened(name)} lies outside {folder}")
    if not found:
        # of so many names at most: a folder may hold millions, and one line is wrong
        names = [p.name for p in islice(path.parent.iterdir(), 2000)] if path.parent.is_dir() else []
        near = difflib.get_close_matches(name[:100], names, n=1)
        raise ValueError(
            f"{shortened(name)} is not in {folder}" + (f" (nearest: {near[0]!r})" if near else "")
        )
    return path


class Line(NamedTuple):
    number: int
    """From 1."""
    offset: int
    size: int
    """In bytes, its end included."""
    text: bytes | None
    """None for a line longer than MAX_LINE."""


def lines(path: Path) -> Iterator[Line]:
    """Lines of a file that are not blank. They end at line feeds alone: a text may hold U+2028.

    Raises ValueError for what is no regular file, and at a line of over HOPELESS bytes.
    """
    regular(path)
    at = number = 0
    with path.open("rb") as file:
        while piece := file.readline(MAX_LINE):
            number += 1
            size, text, whole = len(piece), piece, True
            while not piece.endswith(b"\n") and (piece := file.readline(MAX_LINE)):
                size, whole = size + len(piece), False
                if size > HOPELESS:
                    raise ValueError(f"{path}:{number}: no line ends within {HOPELESS:,} bytes: no text file")
            text = without_bom(text, at)
            if not whole or text.strip():
                yield Line(number, at, size, text if whole else None)
            at += size


def without_bom(text: bytes, offset: int) -> bytes:
    """A line without the mark with which Windows editors begin a file."""
    return text.removeprefix(_BOM) if offset == 0 else text


def read_bytes(path: Path, offset: int, size: int) -> bytes:
    # opened for each piece: rows, threads and workers share no file position
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def files_below(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything in a folder and its subfolders that is no folder, by its name relative to it; what is hidden
    is left out, and links to folders are not followed."""
    # a stack, as folders may be nested deeper than functions
    waiting = [""]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(folder / here))
        except OSError:
            # gone meanwhile, not ours to read, or deeper than the system's longest path
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{here}{entry.name}/")
            elif not entry.name.startswith("."):
                yield f"{here}{entry.name}", entry
