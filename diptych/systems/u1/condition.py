"""What a picture is drawn under: the conversation before it, read once into a prefix cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from diptych.contracts import Picture, Sample, Turn, Written, check_rows
from diptych.data.conversations.template import Template
from diptych.data.conversations.tokens import Document
from diptych.models.mot import Cache

Reader = Callable[[Sequence[Document]], Cache]


@dataclass(frozen=True, eq=False)
class Request:
    """One row: the conversation before a picture, what stands in place of its text, and what is hidden."""

    turns: tuple[Turn, ...]
    """A last turn of the assistant is what it has said and drawn so far."""
    negative: str
    thought: Written | None = None
    """What the model has thought before it draws."""
    think: bool = False
    """Whether the assistant's last turn begins with thoughts."""
    clip: bool = False
    """Whether a clip is drawn, which has its words before what is given."""
    drop_text: bool = False
    drop_pictures: bool = False

    def document(self, template: Template) -> Document:
        """Everything before the picture, as tokens. The template's own null text and null pictures stand for
        what is hidden, as in training; a negative prompt stands in the text's place."""
        if self.drop_text and self.negative:
            pictures = [part for turn in self.turns for part in turn.parts if isinstance(part, Picture)]
            shown = () if self.drop_pictures else tuple(pictures)
            asked = Turn("user", (self.negative, *shown) if self.clip else (*shown, self.negative))
            return template.drawing_prefix(Sample((asked,), "generate"))
        sample = Sample(self.turns, "generate")
        return template.drawing_prefix(sample, self.drop_text, self.drop_pictures, self.thought, self.think)


@dataclass(frozen=True, eq=False)
class PrefixCondition:
    """The conversations before B pictures or clips of one size; their cache is computed when it is first
    used, so that rows which are dropped, chosen or joined before that are read once only."""

    requests: tuple[Request, ...]
    width: int
    height: int
    times: tuple[int, ...]
    """Of the frames that are drawn, counted from the first."""
    held: Mapping[int, Tensor]
    """Frames that are given and stay: place among those that are drawn -> targets (B, 3, height, width)."""
    scale: Tensor
    """(B,): standard deviation of the noise at this size."""
    template: Template
    reader: Reader

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def cache(self) -> Cache:
        return self.reader([request.document(self.template) for request in self.requests])

    def prepare(self) -> None:
        _ = self.cache

    def dropped(self, text: Tensor, media: Tensor) -> Self:
        check_rows(len(self), text=text, media=media)
        flags = zip(self.requests, text.tolist(), media.tolist(), strict=True)
        requests = tuple(
            replace(r, drop_text=r.drop_text or no_text, drop_pictures=r.drop_pictures or no_media)
            for r, no_text, no_media in flags
        )
        # a cached property keeps its value in the object's own dictionary: looked up, not computed
        if "cache" not in self.__dict__:
            return replace(self, requests=requests)
        # what was read already is not read again, and stays what it was
        changed = [index for index, (a, b) in enumerate(zip(text, media, strict=True)) if bool(a | b)]
        if not changed:
            return self
        kept = [index for index in range(len(self)) if index not in changed]
        fresh = replace(self._of(changed), requests=tuple(requests[index] for index in changed))
        if not kept:
            return fresh
        places = [*kept, *changed]
        # joined as kept, then changed: this brings rows back to where they were
        order = [places.index(index) for index in range(len(self))]
        return self.rows(kept).joined([fresh]).rows(order)

    def with_guidance(self, scales: Tensor) -> Self:
        raise ValueError("this model embeds no guidance scale; it is guided by passes without the text")

    def rows(self, index: Sequence[int]) -> Self:
        check_rows(len(index))
        made = self._of(index)
        if "cache" in self.__dict__:
            made.__dict__["cache"] = self.cache.rows(index)
        return made

    def _of(self, index: Sequence[int]) -> Self:
        """Some of the rows, unread."""
        chosen = list(index)
        return replace(
            self,
            requests=tuple(self.requests[i] for i in chosen),
            scale=self.scale[chosen],
            held={place: targets[chosen] for place, targets in self.held.items()},
        )

    def joined(self, others: Sequence[Self]) -> Self:
        every = (self, *others)
        if any((c.times, c.held.keys()) != (self.times, self.held.keys()) for c in others):
            raise ValueError("clips of different frames cannot be drawn in one pass")
        if sizes := {(c.width, c.height) for c in others} - {(self.width, self.height)}:
            raise ValueError(
                f"pictures of {self.width}x{self.height} and {min(sizes)[0]}x{min(sizes)[1]} px cannot be "
                "drawn in one pass"
            )
        made = replace(
            self,
            requests=tuple(request for c in every for request in c.requests),
            scale=torch.cat([c.scale for c in every]),
            held={place: torch.cat([c.held[place] for c in every]) for place in self.held},
        )
        if any("cache" in c.__dict__ for c in every):
            # caches are joined as they are: where one was read, the others are read now
            made.__dict__["cache"] = self.cache.joined([c.cache for c in others])
        return made
