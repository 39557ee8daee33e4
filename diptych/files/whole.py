"""Whole files and folders or none: written aside, brought to disk, then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
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
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """The file with this text, or as it was before."""
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, holding what `path` holds, to write more into; when the block ends well it
    takes the name `path`, and else it is gone and `path` is as it was."""
    aside, before = (path.with_name(f".{path.name}.{end}") for end in ("part", "before"))
    # a kill came between the two renames below: what was there goes back to its name
    if before.is_dir() and not path.exists():
        before.rename(path)
    # what a kill left
    for stale in (aside, before):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        if path.is_dir():
            shutil.copytree(path, aside, ignore=shutil.ignore_patterns(".*.part"))
        else:
            aside.mkdir(parents=True)
        yield aside
        # a folder that holds something cannot be renamed over
        if path.is_dir():
            path.rename(before)
        aside.rename(path)
    except BaseException:
        if before.is_dir() and not path.exists():
            before.rename(path)
        raise
    finally:
        for stale in (aside, before):
            shutil.rmtree(stale, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
