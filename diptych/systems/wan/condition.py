"""What no denoising step changes: rows of text, rows behind them, and what is given, coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.contracts import check_rows

TEXT_ROWS, JOINED_ROWS = 512, 2048
"""Rows that the text context is filled up to with zeros: alone, and where a projector's tokens stand behind
it (published so; the blank rows are attended to, and so the length is part of what is computed)."""


@dataclass(frozen=True, eq=False)
class WanCondition:
    """B rows of one size, with the same numbers of frames and references. See `contracts.Condition`."""

    text: tuple[Tensor, ...]
    """Rows (T, channels) of each text, with what stands behind them."""
    negative: tuple[Tensor, ...]
    """Rows that stand for a text that is dropped."""
    length: int
    """Rows that both are filled up to."""
    control: Tensor
    """(B, channels, F, H, W): what is kept and what is changed, coded, and the mask; the frames of references
    come first."""
    blank: Tensor
    """The same where nothing is given."""
    beside: int
    """Frames of references, which are denoised beside those that are drawn."""
    scale: Tensor
    """(B,): latents have unit variance, so noise needs no scale of its own."""

    def __len__(self) -> int:
        return len(self.text)

    @property
    def context(self) -> Tensor:
        """(B, length, channels)."""
        return torch.stack([F.pad(rows, (0, 0, 0, self.length - len(rows))) for rows in self.text])

    def dropped(self, text: Tensor, media: Tensor) -> WanCondition:
        """A row without its media keeps the frames of its references, which then show nothing."""
        check_rows(len(self), text=text, media=media)
        pairs = zip(self.text, self.negative, text.tolist(), strict=True)
        without = media.to(self.control.device).view(-1, 1, 1, 1, 1)
        return replace(
            self,
            text=tuple(negative if gone else rows for rows, negative, gone in pairs),
            control=torch.where(without, self.blank, self.control),
        )

    def with_guidance(self, scales: Tensor) -> NoReturn:
        raise ValueError("this model embeds no guidance scale: guide it with an unconditional pass")

    def prepare(self) -> None:
        """Everything was computed when it was read: the tokens behind the text must have their gradients."""

    def rows(self, index: Sequence[int]) -> WanCondition:
        check_rows(len(index))
        chosen = list(index)
        return replace(
            self,
            text=tuple(self.text[row] for row in chosen),
            negative=tuple(self.negative[row] for row in chosen),
            control=self.control[chosen],
            blank=self.blank[chosen],
            scale=self.scale[chosen],
        )

    def joined(self, others: Sequence[WanCondition]) -> WanCondition:
        parts = [self, *others]
        for other in others:
            if (other.control.shape[1:], other.length, other.beside) != (
                self.control.shape[1:],
                self.length,
                self.beside,
            ):
                raise ValueError("conditions of different sizes, lengths or references cannot be joined")
        return replace(
            self,
            text=tuple(rows for part in parts for rows in part.text),
            negative=tuple(rows for part in parts for rows in part.negative),
            control=torch.cat([part.control for part in parts]),
            blank=torch.cat([part.blank for part in parts]),
            scale=torch.cat([part.scale for part in parts]),
        )
