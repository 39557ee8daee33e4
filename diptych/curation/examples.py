"""Folders of example pictures: those that a data set should be like, and those that must not be in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diptych.curation.decode import Seen
from diptych.curation.stage import BATCH, Batch, RowError, Shared, Stage
from diptych.data.captioned.layouts import PICTURES, names_below
from diptych.data.foreign import regular
from diptych.data.pictures import MAX_BYTES


def pictures_in(folder: Path) -> list[Path]:
    """Raises ValueError for a folder without pictures."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of example pictures")
    names, _ = names_below(folder)
    found = [folder / name for name in names if name.lower().endswith(PICTURES)]
    if not found:
        raise ValueError(f"{folder} holds no pictures")
    return found


def hash_of_folder(folder: Path) -> str:
    """Of what the pictures of a folder are, wherever it lies."""
    digest = hashlib.sha256()
    for path in pictures_in(folder):
        regular(path, MAX_BYTES)
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def seen_in(folder: Path) -> Iterator[Seen]:
    """Its pictures, decoded; what is no usable picture is passed over."""
    for path in pictures_in(folder):
        try:
            regular(path, MAX_BYTES)
            yield Seen(path.read_bytes(), str(path))
        except RowError:
            continue


def vectors_of(folder: Path, embed: Stage, column: str, shared: Shared) -> np.ndarray:
    """float16 (pictures, width) by the stage that embeds the rows too. Raises ValueError where no picture can
    be used."""
    loaded, parts, waiting = embed.load(shared), [], []
    short = column.rpartition(".")[2]
    assert embed.look is not None
    for seen in seen_in(folder):
        waiting.append(embed.look(seen, loaded))
        if len(waiting) == BATCH:
            parts.append(_embedded(embed, waiting, short, loaded))
            waiting = []
    if waiting:
        parts.append(_embedded(embed, waiting, short, loaded))
    if not parts:
        raise ValueError(f"{folder} holds no picture that can be used")
    return np.concatenate(parts)


def _embedded(embed: Stage, looked: list[object], column: str, loaded: object) -> np.ndarray:
    batch = Batch([""] * len(looked), {})
    batch.looked = looked
    made = embed.compute(batch, loaded)[column]
    return np.stack([np.asarray(value, dtype=np.float16) for value in made])
