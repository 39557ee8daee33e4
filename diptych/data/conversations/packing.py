"""Documents to rows of a token budget, and rows to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import PAD, TEXT
from diptych.data.conversations.tokens import NO_LABEL, Document


@dataclass(frozen=True)
class Batch:
    """Packed rows. Pictures, frames of clips among them, stand in the order of their tokens (row by row), as
    runs of one size."""

    ids: Tensor
    kind: Tensor
    positions: Tensor
    document: Tensor
    picture: Tensor
    dead: Tensor
    labels: Tensor
    """(B, L) each; positions (B, L, 3)."""
    clean: tuple[Tensor, ...]
    """Runs of read pictures, uint8 (P, 3, height, width)."""
    noisy: tuple[Tensor, ...]
    """Runs of pictures to draw, uint8."""
    noise: tuple[Tensor, ...]
    """Standard normal noise for `noisy`, float32."""
    level: Tensor
    """(P,): standard normal draw behind the noise level of each picture to draw; frames of a clip share
    one."""
    frames: Tensor
    """(P,), float32: frames of the clip that each is one of; 1 for a picture."""
    noisy_task: tuple[str, ...]
    """Task of each picture to draw."""
    label_task: tuple[str, ...]
    """Task of each document, by its number in `document`."""

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                moved[f.name] = value.to(device, non_blocking=True)
            elif value and isinstance(value[0], Tensor):
                moved[f.name] = tuple(v.to(device, non_blocking=True) for v in value)
        return replace(self, **moved)


def pack(
    lengths: list[int], budget: int, pictures: Sequence[int] | None = None, most: int = 0
) -> list[list[int]]:
    """First-fit decreasing: indices of the documents of each row, of at most `budget` tokens and, above 0,
    `most` pictures; a document that alone has more has its own row.

    A pure function of the lengths: a step that is made again is packed alike.
    """
    counts = [0] * len(lengths) if pictures is None or not most else pictures
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for row, (tokens, left) in enumerate(room):
            if lengths[index] <= tokens and counts[index] <= left:
                rows[row].append(index)
                room[row] = (tokens - lengths[index], left - counts[index])
                break
        else:
            rows.append([index])
            room.append((budget - lengths[index], most - counts[index]))
    return rows


def runs(pictures: list[np.ndarray]) -> tuple[Tensor, ...]:
    """Pictures (height, width, 3) as stacks (P, 3, height, width) of consecutive equal sizes."""
    stacks: list[list[np.ndarray]] = []
    for pixels in pictures:
        # only neighbours: the order of pictures is that of their tokens
        if stacks and (stacks[-1][0].shape, stacks[-1][0].dtype) == (pixels.shape, pixels.dtype):
            stacks[-1].append(pixels)
        else:
            stacks.append([pixels])
    return tuple(torch.from_numpy(np.stack(stack).transpose(0, 3, 1, 2).copy()) for stack in stacks)


def collate(rows: list[list[int]], documents: list[Document], noise_keys: list[int], pad_id: int) -> Batch:
    """Rows of documents as one batch. `noise_keys` seed the noise of each document, so it does not depend on
    the packing."""
    # as long as the fullest row, not as the budget: padding is computed like anything else
    length = max((sum(len(documents[i]) for i in row) for row in rows), default=1) or 1
    shape = (len(rows), length)
    ids = np.full(shape, pad_id, dtype=np.int64)
    kind = np.full(shape, PAD, dtype=np.int64)
    positions = np.zeros((*shape, 3), dtype=np.int64)
    owner = np.full(shape, -1, dtype=np.int64)
    picture = np.full(shape, -1, dtype=np.int64)
    dead = np.zeros(shape, dtype=bool)
    labels = np.full(shape, NO_LABEL, dtype=np.int64)
    if not documents:
        # a rank whose samples were all unusable still takes part in the step: one mark that nothing is
        # asked of
        kind[0, 0], owner[0, 0] = TEXT, 0
    clean: list[np.ndarray] = []
    noisy: list[np.ndarray] = []
    noise: list[np.ndarray] = []
    level: list[float] = []
    frames: list[int] = []
    noisy_task: list[str] = []
    label_task: list[str] = []
    copies = 0
    for number, row in enumerate(rows):
        start = 0
        for index in row:
            doc = documents[index]
            at = (number, slice(start, start + len(doc)))
            ids[at], kind[at], positions[at], dead[at], labels[at] = (
                doc.ids,
                doc.kind,
                doc.positions,
                doc.dead,
                doc.labels,
            )
            # numbered through the whole batch, as pictures are: masks compare numbers alone
            owner[at] = len(label_task)
            picture[at] = np.where(doc.picture < 0, -1, doc.picture + copies)
            copies += len(doc.clean) + len(doc.noisy)
            start += len(doc)
            # drawn in float32 on the CPU, level and noise from one stream: the same on any device
            rng = np.random.Generator(np.random.Philox(noise_keys[index]))
            for pixels in doc.noisy:
                shown = pixels if pixels.ndim == 4 else pixels[None]
                level += [float(rng.standard_normal())] * len(shown)
                noise += list(rng.standard_normal(shown.shape, dtype=np.float32))
                frames += [len(shown)] * len(shown)
                noisy += list(shown)
            clean += doc.clean
            noisy_task += [doc.task] * (len(noisy) - len(noisy_task))
            label_task.append(doc.task)
    arrays = {
        "ids": ids,
        "kind": kind,
        "positions": positions,
        "document": owner,
        "picture": picture,
        "dead": dead,
        "labels": labels,
    }
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Batch(
        **tensors,
        clean=runs(clean),
        noisy=runs(noisy),
        noise=runs(noise),
        level=torch.tensor(level, dtype=torch.float32),
        frames=torch.tensor(frames, dtype=torch.float32),
        noisy_task=tuple(noisy_task),
        label_task=tuple(label_task),
    )
