"""Targets and prompt states of an index, computed once, with the names of all that they were made by and
of."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path

from diptych.contracts import ImageSpace, TextEncoder
from diptych.data.captioned.cache import MANIFEST, TargetCache
from diptych.data.captioned.index import Index
from diptych.data.captioned.precompute import precompute
from diptych.files.typed import read, to_json
from diptych.files.whole import write_whole

FILE = "targets.json"
"""In a cache's folder: what it was made by and of, told apart, so that an error can say which is another."""


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """Field names are the words of the errors."""

    encoder: str
    """Identity of what encodes pictures."""
    pooling: str
    """Shape of a target."""
    normalisation: str
    """Checksum of statistics, of a space that has some."""
    prompts: str
    """Identity of what reads prompts; 'none' where their states are not kept."""
    data: str
    """Checksum of the index: its pictures and their captions."""


def data_identity(index: Index) -> str:
    """Checksum of the pictures of an index and of their captions, wherever its folder lies."""
    digest = hashlib.sha256()
    for row in index.rows:
        digest.update(f"{row.id}\0{row.sha256}\0{len(row.captions)}\0".encode())
        for caption in row.captions:
            digest.update(caption.encode() + b"\0")
    return digest.hexdigest()[:16]


def made_by(space: ImageSpace, text: TextEncoder | None, index: Index, side: int) -> MadeBy:
    """What a cache of these would be made by, at pictures of `side` px."""
    facts = getattr(space, "facts", None)
    shape = "x".join(map(str, space.shape(side, side)[1:]))
    if facts is None:
        encoder, normalisation = space.identity(), ""
    else:
        encoder = facts.made_by
        statistics = repr((facts.mean, facts.deviation)).encode()
        normalisation = hashlib.sha256(statistics).hexdigest()[:16]
    prompts = None if text is None else text.identity()
    return MadeBy(
        encoder=encoder,
        pooling=shape,
        normalisation=normalisation,
        prompts=prompts or "none",
        data=data_identity(index),
    )


def check(folder: Path, wanted: MadeBy) -> None:
    """Raises ValueError for a cache of another encoder, pooling, normalisation, reader of prompts or data
    set, by name."""
    found = read(MadeBy, folder / FILE)
    for one in fields(MadeBy):
        here, there = getattr(wanted, one.name), getattr(found, one.name)
        if here != there:
            raise ValueError(
                f"{folder / FILE}: the cache was made with another {one.name} ({there}, here {here}): make "
                "a new one in another folder"
            )


def opened(
    folder: Path, space: ImageSpace, text: TextEncoder | None, index: Index, side: int, validation: float
) -> TargetCache:
    """The cache in a folder, made now where there is none, and gone on with where it was stopped. Raises
    ValueError as `check`, and for one that is not whole where several processes would make it."""
    wanted = made_by(space, text, index, side)
    if (folder / FILE).is_file():
        check(folder, wanted)
    if not (folder / MANIFEST).is_file():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                f"{folder} is no finished cache: make it first, by beginning the run in one process"
            )
        # a step of one picture: every picture is in it, whatever the run takes at a time
        precompute(index, space, text, folder, (side,), side, 1, validation)
        write_whole(folder / FILE, to_json(wanted))
    check(folder, wanted)
    return TargetCache(folder, space.identity(), None if text is None else text.identity())
