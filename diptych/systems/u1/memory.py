"""What was read of an answer that grows: each of its tokens is read once, in every pass of guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import CLEAN
from diptych.data.conversations.packing import runs
from diptych.data.conversations.tokens import Document
from diptych.models.mot import Cache, MoT
from diptych.spaces import PixelSpace
from diptych.systems.u1.reading import embed

Reader = Callable[[Document], tuple[Tensor, Cache]]
KEPT = 3
"""Documents: one for each pass of guidance, with everything, with pictures alone, and with nothing."""


@dataclass(frozen=True, eq=False)
class Known:
    document: Document
    cache: Cache
    """One row, which holds the document."""


class Memory:
    """Documents that were read, each with its cache. One that goes on behind another takes its place, and of
    the others the latest are kept: a cache for each pass of guidance, however long the answer becomes."""

    def __init__(self, model: MoT, space: PixelSpace, read: Reader) -> None:
        """`read` reads a document that begins like no other: states (1, L, C) and its cache."""
        self.model, self.space, self._read = model, space, read
        self._known: list[Known] = []

    def keep(self, document: Document, cache: Cache) -> None:
        """Remember what was read elsewhere: words that were written are in a cache already."""
        self._known = [old for old in self._known if _common(old.document, document) < len(old.document)]
        # a negative prompt stands behind the pictures: each that is drawn makes another document of its pass
        self._known = [*self._known, Known(document, cache)][-KEPT:]

    @torch.no_grad()
    def read(self, document: Document, states: int = 0) -> tuple[Tensor, Cache]:
        """A document -> normed states of its last tokens (1, L, C), those that are read now and at least
        `states`, and its cache. Not differentiable."""
        lengths = [_common(old.document, document, len(document) - states) for old in self._known]
        known = max(lengths, default=0)
        if not known:
            hidden, cache = self._read(document)
        else:
            old = self._known[lengths.index(known)]
            hidden, cache = self._behind(_cut(old, known), document, known)
        # one that is read again as it was takes its own place, the latest
        if not known or known < len(document) or known == len(old.document):
            self.keep(document, cache)
        return hidden, cache

    def _behind(self, cache: Cache, document: Document, known: int) -> tuple[Tensor, Cache]:
        """The tokens of a document behind the `known` ones that a cache holds."""
        device = cache.valid.device
        ids, positions = (
            torch.from_numpy(part[known:]).to(device) for part in (document.ids, document.positions)
        )
        if not len(ids):
            return self.model.embedding(ids)[None], cache
        places = torch.from_numpy((document.kind[known:] == CLEAN).nonzero()[0]).to(device)
        fresh = [run.to(device) for run in runs(document.clean[_frames(document, known) :])]
        und = embed(self.model, self.space, ids, places, fresh)
        times = torch.from_numpy(document.times[known:]).to(device)
        return self.model.append(und[None], positions[None], cache, times[None])


def _common(old: Document, new: Document, most: int | None = None) -> int:
    """How many tokens two documents begin with alike, at most `most`; a picture counts whole or not at
    all."""
    length = min(len(old), len(new), len(new) if most is None else most)
    same = (old.ids[:length] == new.ids[:length]) & (old.positions[:length] == new.positions[:length]).all(1)
    count = length if same.all() else int(same.argmin())
    for number in np.unique(new.picture[:count]).tolist():
        if number < 0:
            continue
        place = np.flatnonzero(new.picture == number)
        # a copy has the number of its first frame
        frames = slice(number, number + len(np.unique(new.positions[place, 0])))
        shown = old.clean[frames], new.clean[frames]
        whole = place[-1] < count and len(shown[0]) == len(shown[1])
        if not (whole and all(map(np.array_equal, *shown))):
            return int(place[0])
    return count


def _frames(document: Document, count: int) -> int:
    """How many pictures, or frames of clips, stand within so many tokens, none of which is cut."""
    shown = document.picture[:count] >= 0
    places = np.stack([document.picture[:count][shown], document.positions[:count, 0][shown]])
    return len(np.unique(places, axis=1).T)


def _cut(known: Known, length: int) -> Cache:
    """The cache of a document's first tokens: nothing that comes later has changed them."""
    cache = known.cache
    if length == len(known.document):
        return cache
    layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in cache.layers)
    next_time = torch.full_like(cache.next_time, int(known.document.positions[length - 1, 0]) + 1)
    return replace(cache, layers=layers, valid=cache.valid[:, :length], next_time=next_time, room=None)
