"""What no denoising step changes: text, given frames, guidance scales; keys and values of the text once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diptych.contracts import Prompt, check_rows
from diptych.models.linear_dit import LinearDiT, TextCondition, trim_text
from diptych.request import Role
from diptych.systems.sana.captions import Captions, Text, joined

KEYS = "keys"
"""Name of the property below, where it was computed."""


@dataclass(frozen=True, eq=False)
class SanaCondition:
    """B rows of one size, with the same roles of frames. See `contracts.Condition`."""

    denoiser: LinearDiT
    captions: Captions
    prompts: tuple[Prompt, ...]
    text: Text
    """On the denoiser's device."""
    size: tuple[int, int]
    """(width, height) of a frame to be drawn, px."""
    roles: tuple[Role, ...]
    """Of the F frames to be drawn and then of the G given ones."""
    times: Tensor
    """(B, F + G)."""
    given: Tensor | None
    """Targets (B, G, C, H, W) of the given frames, where there are some."""
    present: Tensor | None
    """bool (B, F + G), False for the given frames of rows that are to go without; None: all are there."""
    guidance: Tensor | None
    """(B,), for a model that embeds its guidance scale."""
    scale: Tensor
    """(B,): latents are scaled to unit variance, so noise is too."""

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def keys(self) -> TextCondition:
        """Keys and values of the text in every block, computed when the first step asks for them: what
        guidance joins or training drops comes before."""
        states, real = trim_text(self.text.states, self.text.mask)
        return self.denoiser.condition(states.to(self.denoiser.head.weight.dtype), real)

    def dropped(self, text: Tensor, media: Tensor) -> SanaCondition:
        check_rows(len(self), text=text, media=media)
        present = self.present
        if self.given is not None and bool(media.any()):
            kept = torch.ones(self.times.shape, dtype=torch.bool, device=self.times.device)
            # given frames come last; those to be drawn are always there
            kept[:, -self.given.shape[1] :] = ~media.to(kept.device)[:, None]
            present = kept if present is None else kept & present
        # the very same object where no text goes, so that `_changed` keeps the keys
        without = self.captions.without(self.text, self.prompts, text)
        return self._changed(text=without, present=present)

    def with_guidance(self, scales: Tensor) -> SanaCondition:
        if not self.denoiser.config.guidance_embedding:
            raise ValueError("this model embeds no guidance scale: guide it with an unconditional pass")
        check_rows(len(self), scales=scales)
        return self._changed(guidance=scales.to(self.scale))

    def prepare(self) -> None:
        _ = self.keys

    def rows(self, index: Sequence[int]) -> SanaCondition:
        check_rows(len(index))
        chosen = list(index)
        # looked up without computing them: rows are also chosen before the first step
        keys = vars(self).get(KEYS)
        return self._changed(
            keys=None if keys is None else keys.rows(chosen),
            prompts=tuple(self.prompts[row] for row in chosen),
            text=self.text.rows(chosen),
            times=self.times[chosen],
            given=None if self.given is None else self.given[chosen],
            present=None if self.present is None else self.present[chosen],
            guidance=None if self.guidance is None else self.guidance[chosen],
            scale=self.scale[chosen],
        )

    def joined(self, others: Sequence[SanaCondition]) -> SanaCondition:
        parts = [self, *others]
        for other in others:
            if other.size != self.size or other.roles != self.roles:
                raise ValueError(
                    "conditions of one pass must be of one size and the same roles of frames, got "
                    f"{self.size} with {', '.join(self.roles)} and {other.size} with {', '.join(other.roles)}"
                )
            if (other.guidance is None) != (self.guidance is None):
                raise ValueError("some of the conditions were told their guidance scale, and some were not")
        # masks only where some part has one: without any the denoiser skips that arithmetic
        present = None
        if any(part.present is not None for part in parts):
            present = torch.cat(
                [
                    torch.ones_like(part.times, dtype=torch.bool) if part.present is None else part.present
                    for part in parts
                ]
            )
        return self._changed(
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            # keys are computed anew from the joined text: those of the parts differ in length
            text=joined([part.text for part in parts]),
            times=torch.cat([part.times for part in parts]),
            given=None if self.given is None else torch.cat([p.given for p in parts if p.given is not None]),
            present=present,
            guidance=None
            if self.guidance is None
            else torch.cat([p.guidance for p in parts if p.guidance is not None]),
            scale=torch.cat([part.scale for part in parts]),
        )

    def _changed(self, keys: TextCondition | None = None, **changes: Any) -> SanaCondition:
        """With other fields; keys and values that were computed already stay, where the text does."""
        made = replace(self, **changes)
        if made.text is self.text:
            keys = vars(self).get(KEYS)
        if keys is not None:
            # a cached property lives in the object's own dictionary
            vars(made)[KEYS] = keys
        return made
