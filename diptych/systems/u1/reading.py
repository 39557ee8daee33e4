"""Tokens and pictures to what the understanding stream reads: the one place, for packed rows and prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import CLEAN, PAD
from diptych.data.conversations.packing import runs
from diptych.data.conversations.tokens import Document
from diptych.models.mot import Cache, MoT, Slots, may_see
from diptych.spaces import PixelSpace


def embed(model: MoT, space: PixelSpace, ids: Tensor, places: Tensor, clean: Sequence[Tensor]) -> Tensor:
    """Token ids (N,) -> embeddings (N, C); runs of clean pictures, uint8 (P, 3, height, width), stand at
    `places` (their tokens,), in order."""
    # marks of picture tokens too, for a moment: their embeddings give way to the pictures below
    und: Tensor = model.embedding(ids)
    if not clean:
        return und
    pictures = torch.cat([model.embed_clean(space.read(run).to(und.dtype)) for run in clean])
    return und.index_copy(0, places, pictures.type_as(und))


def read_prefixes(
    model: MoT, space: PixelSpace, documents: Sequence[Document], device: torch.device
) -> tuple[Tensor, Cache]:
    """Documents, one a row, padded on the right -> hidden states (B, L, C) and their cache."""
    lengths = [len(document) for document in documents]
    shape = (len(documents), max(lengths))
    ids, kind = np.zeros(shape, dtype=np.int64), np.full(shape, PAD, dtype=np.int64)
    positions, picture = np.zeros((*shape, 3), dtype=np.int64), np.full(shape, -1, dtype=np.int64)
    for row, document in enumerate(documents):
        at = (row, slice(0, len(document)))
        ids[at], kind[at] = document.ids, document.kind
        positions[at], picture[at] = document.positions, document.picture
    ids_, kind_, positions_, picture_ = (
        torch.from_numpy(array).to(device) for array in (ids, kind, positions, picture)
    )
    # a row is a document here; prefixes hold no drawn picture, so nothing stands twice and nothing is dead
    rows = torch.arange(len(documents), device=device)[:, None].expand(shape)
    dead = torch.zeros(shape, dtype=torch.bool, device=device)
    clean = [run.to(device) for run in runs([pixels for d in documents for pixels in d.clean])]
    # found on the CPU, where the documents still are: no wait for the device
    places = torch.from_numpy((kind.flatten() == CLEAN).nonzero()[0]).to(device)
    und = embed(model, space, ids_.flatten(), places, clean).unflatten(0, shape)
    # text alone is causal: no mask of every pair is made for it
    mask = may_see(Slots(kind_, positions_, rows, picture_, dead)) if clean else None
    return model.prefix(und, positions_, torch.tensor(lengths, device=device), mask)
