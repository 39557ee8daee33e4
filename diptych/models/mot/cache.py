"""Keys and values of what was read: what a noisy picture and the next words look back at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

ROOM = 256
"""Slots by which the room of growing rows grows."""


class Before(NamedTuple):
    """One layer's keys and values (B or 1, K, S, D) of a prefix, which stay as they are."""

    keys: Tensor
    values: Tensor

    def joined(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """With those of new tokens (B, K, L, D) behind them."""
        # a prefix of one row may serve many: expanded, not copied, until here
        pairs = ((self.keys, keys), (self.values, values))
        first, second = (torch.cat([old.expand(len(new), -1, -1, -1), new], 2) for old, new in pairs)
        return first, second


class Tail(NamedTuple):
    """One layer's buffers (B, K, room, D), and how many of their slots are taken."""

    keys: Tensor
    values: Tensor
    used: int

    def joined(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All that is taken once new tokens (B, K, L, D) are written behind it."""
        end = self.used + keys.shape[2]
        self.keys[:, :, self.used : end] = keys
        self.values[:, :, self.used : end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


@dataclass(eq=False)
class Room:
    """Buffers that the caches of growing rows share, each holding the slots up to its own end. A slot is
    written once, so that no cache ever changes."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    used: int
    """Slots that are written."""

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor]], more: int) -> Room:
        """A copy of these keys and values with room for at least `more` slots."""
        used = layers[0][0].shape[2]
        slots = -(-(used + more) // ROOM) * ROOM

        def copied(part: Tensor) -> Tensor:
            b, k, _, d = part.shape
            buffer = part.new_empty(b, k, slots, d)
            buffer[:, :, :used] = part
            return buffer

        # a buffer of inference mode could not be written to outside of it
        with torch.inference_mode(False):
            return cls(tuple((copied(k), copied(v)) for k, v in layers), used)

    @property
    def slots(self) -> int:
        return self.layers[0][0].shape[2]


@dataclass(frozen=True)
class Cache:
    """Keys and values of B rows, per layer (B, K, S, D), after norm and rotation; computed once, read at
    every step. A cache never changes; a longer one may share its memory."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    valid: Tensor
    """bool (B, S): False where a shorter row was padded."""
    next_time: Tensor
    """(B,): the t that the next token of each row gets."""
    room: Room | None = field(default=None, compare=False, repr=False)
    """What `layers` lie in, where rows have grown."""

    @cached_property
    def key_mask(self) -> Tensor | None:
        """(B, 1, 1, S), or None where nothing was padded. Found out once: on a GPU the question waits for the
        device."""
        return None if bool(self.valid.all()) else self.valid[:, None, None]

    def roomy(self, more: int) -> Room:
        """Room behind this cache for `more` slots of each row: its own, if nothing was written there yet."""
        room, used = self.room, self.valid.shape[1]
        if room is not None and room.used == used and room.slots >= used + more:
            return room
        return Room.of(self.layers, more)

    def grown(self, room: Room, next_time: Tensor) -> Self:
        """The cache of all that is written in a room of this one; no row is padded there."""
        layers = tuple((k[:, :, : room.used], v[:, :, : room.used]) for k, v in room.layers)
        valid = F.pad(self.valid, (0, room.used - self.valid.shape[1]), value=True)
        made = type(self)(layers, valid, next_time, room)
        # known already, and so not asked of the device once a token
        made.__dict__["key_mask"] = None if self.key_mask is None else made.valid[:, None, None]
        return made

    def rows(self, index: Sequence[int]) -> Self:
        """Some of the rows, in this order; padding that only the others needed goes."""
        chosen = torch.tensor(index, device=self.valid.device)
        valid = self.valid[chosen]
        # behind the last slot that holds something for one of the chosen rows there is only padding
        length = int(valid.any(0).nonzero().max()) + 1
        layers = tuple((k[chosen, :, :length], v[chosen, :, :length]) for k, v in self.layers)
        return type(self)(layers, valid[:, :length], self.next_time[chosen])

    def joined(self, others: Sequence[Self]) -> Self:
        """The rows of this and of other caches; shorter ones are padded on the right."""
        caches = (self, *others)
        length = max(cache.valid.shape[1] for cache in caches)

        def together(parts: list[Tensor]) -> Tensor:
            return torch.cat([F.pad(part, (0, 0, 0, length - part.shape[2])) for part in parts])

        layers = tuple(
            (together([k for k, _ in layer]), together([v for _, v in layer]))
            for layer in zip(*(cache.layers for cache in caches), strict=True)
        )
        valid = torch.cat([F.pad(cache.valid, (0, length - cache.valid.shape[1])) for cache in caches])
        return type(self)(layers, valid, torch.cat([cache.next_time for cache in caches]))
