"""What no denoising step changes: states of the prompts, read once; keys and values of them once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.contracts import Prompt, check_rows


class Told(NamedTuple):
    """What the denoiser is told of B rows."""

    states: Tensor
    """(B, S, channels)."""
    mask: Tensor
    """bool (B, S): what is seen."""

    def rows(self, index: Sequence[int]) -> Told:
        return Told(self.states[list(index)], self.mask[list(index)])

    def padded(self, length: int) -> Told:
        more = length - self.mask.shape[1]
        return Told(F.pad(self.states, (0, 0, 0, more)), F.pad(self.mask, (0, more)))


def joined(parts: Sequence[Told]) -> Told:
    length = max(part.mask.shape[1] for part in parts)
    parts = [part.padded(length) for part in parts]
    return Told(torch.cat([part.states for part in parts]), torch.cat([part.mask for part in parts]))


@dataclass(frozen=True, eq=False)
class Row:
    """One row: what it is told of, and what of that is left out."""

    prompt: Prompt
    features: Tensor | None = None
    """(S, channels), for a denoiser that is told features in place of words."""
    seen: Tensor | None = None
    """Target (C, H, W) of a picture that is to be changed."""
    dropped: bool = False
    blind: bool = False
    """Whether the picture is left out."""


@dataclass(frozen=True, eq=False)
class BridgedCondition:
    """B rows of one size; see `contracts.Condition`. States are read when they are first used, so that rows
    which are dropped or joined before that are read once, or not at all."""

    denoiser: Any
    told_rows: tuple[Row, ...]
    reader: Callable[[Sequence[Row]], Told]
    size: tuple[int, int]
    """(width, height) of a picture, px."""
    scale: Tensor
    """(B,): features and latents have about unit variance, or are drawn raw, as published."""

    def __len__(self) -> int:
        return len(self.told_rows)

    @cached_property
    def told(self) -> Told:
        return self.reader(self.told_rows)

    @cached_property
    def keys(self) -> Any:
        """What the denoiser makes of the states, for every step."""
        states, mask = self.told
        real = None if bool(mask.all()) else mask
        return self.denoiser.condition(states.to(self.denoiser.head.weight.dtype), real)

    def prepare(self) -> None:
        _ = self.keys

    def dropped(self, text: Tensor, media: Tensor) -> BridgedCondition:
        check_rows(len(self), text=text, media=media)
        # features are what is given, and take the place of words: both masks drop them
        gone = (text | media) if self.told_rows[0].features is not None else text
        flags = list(zip(gone.tolist(), media.tolist(), strict=True))
        rows = tuple(
            replace(row, dropped=row.dropped or flag, blind=row.blind or (unseen and row.seen is not None))
            for row, (flag, unseen) in zip(self.told_rows, flags, strict=True)
        )
        same = zip(rows, self.told_rows, strict=True)
        if all((one.dropped, one.blind) == (other.dropped, other.blind) for one, other in same):
            return self
        made = replace(self, told_rows=rows)
        if any(row.seen is not None for row in rows):
            return made
        if "told" in vars(self) and not any(row.prompt.negative for row in rows if row.dropped):
            # what was read stays, and zeros are put in place of what is left out
            states, mask = self.told
            keep = ~gone.to(mask.device)[:, None]
            vars(made)["told"] = Told(states * keep[..., None].to(states), mask | ~keep)
        return made

    def with_guidance(self, scales: Tensor) -> NoReturn:
        raise ValueError("this model embeds no guidance scale: guide it with an unconditional pass")

    def rows(self, index: Sequence[int]) -> BridgedCondition:
        check_rows(len(index))
        chosen = list(index)
        made = replace(self, told_rows=tuple(self.told_rows[row] for row in chosen), scale=self.scale[chosen])
        # looked up without computing them: rows are also chosen before the first step
        for name in ("told", "keys"):
            if name in vars(self):
                vars(made)[name] = vars(self)[name].rows(chosen)
        return made

    def joined(self, others: Sequence[BridgedCondition]) -> BridgedCondition:
        parts = (self, *others)
        if sizes := {part.size for part in others} - {self.size}:
            raise ValueError(
                f"conditions of one pass must be of one size, got {self.size} and {min(sizes)} px"
            )
        made = replace(
            self,
            told_rows=tuple(row for part in parts for row in part.told_rows),
            scale=torch.cat([part.scale for part in parts]),
        )
        if any("told" in vars(part) for part in parts):
            # joined as they are: where one was read, the others are read now
            vars(made)["told"] = joined([part.told for part in parts])
        return made


def null(told: Told | None, rows: Sequence[Row], channels: int, like: Tensor) -> Told:
    """Rows that were read (those that are not dropped, in their order), with zeros between them where one is
    dropped, all of them seen."""
    # all zeros are alike, and one stands for any number of them
    length = 1 if told is None else told.mask.shape[1]
    states = like.new_zeros(len(rows), length, channels)
    mask = torch.ones(len(rows), length, dtype=torch.bool, device=like.device)
    if told is not None:
        kept = torch.tensor([n for n, row in enumerate(rows) if not row.dropped], device=like.device)
        # copied and not written in place: gradients go through
        states = states.to(told.states).index_copy(0, kept, told.states)
        mask = mask.index_copy(0, kept, told.mask.to(mask.device))
    return Told(states, mask)
