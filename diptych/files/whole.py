"""Whole files and folders or none: written aside, brought to disk, then renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; when the block ends well, what was written there is on disk under the
    name `path`, and else it is gone and `path` is as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder, as a rename is only atomic within one file system; with the process's number, so
    # that two writers do not share it
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
        # the file is on disk, its name is not until its folder is
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """The file with this text, or as it was before."""
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that holds what `path` holds, to write more into; when the block ends well it takes the name
    `path`, and else it is gone and `path` is as it was. Nothing else that lies beside `path` is touched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _put_back(path)
    # a name of its own each time: what another process writes, or somebody keeps, is not cleared away
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent))
    aside, before = work / _NEW, work / _BEFORE
    try:
        if path.is_dir():
            shutil.copytree(path, aside, ignore=shutil.ignore_patterns(".*.part"))
        else:
            aside.mkdir()
        yield aside
        for made in (aside, *aside.rglob("*")):
            sync(made)
        # a folder that holds something cannot be renamed over
        if path.is_dir():
            path.rename(before)
        aside.rename(path)
        sync(path.parent)
    finally:
        if before.is_dir() and not path.exists():
            before.rename(path)
        shutil.rmtree(work, ignore_errors=True)


_BEFORE, _NEW, _PART = "before", "new", ".part"


def becomes(path: Path) -> Path:
    """The folder that one which `whole_folder` gave will be; any other is what it is. For what a folder says
    of others, as seen from itself."""
    work = path.parent.name
    if path.name != _NEW or not (work.startswith(".") and work.endswith(_PART)):
        return path
    return path.parent.parent / work[1:].removesuffix(_PART).rpartition(".")[0]


def _put_back(path: Path) -> None:
    """A kill came between the two renames of `whole_folder`: what was there goes back to its name."""
    for kept in path.parent.glob(f".{glob.escape(path.name)}.*.part/{_BEFORE}"):
        kept.rename(path)
        return


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError for what is no regular file: a pipe would wait for
    its other end for ever."""
    if not path.is_file():
        raise OSError(errno.EINVAL, "no regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
