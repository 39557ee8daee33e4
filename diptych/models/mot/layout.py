"""Where tokens stand and what they may see: positions, slots and the attention mask of packed rows.

The rules for a query and a key of one document, the first four as published (SenseNova-U1, arXiv 2605.12500
section 2.2):

1. a token sees what stands at its own time or earlier; all tokens of one picture share a time, so a picture
   is bidirectional and everything else causal;
2. noisy tokens are seen by their own picture alone;
3. noisy tokens do not see clean tokens of the same time, which are their own clean copy;
4. a dead key (the doubled boundary marks of a picture that stands in a row twice) is seen by nobody;

and, ours: 5. a clip is a picture whose frames stand at one time after the other: for the rules above, all of
them share the time of the first, so that they see one another.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from diptych.contracts import CLEAN, NOISY, PAD, TEXT


@dataclass(frozen=True)
class Slots:
    """The slots of B rows of length L; every field but `positions` is (B, L)."""

    kind: Tensor
    """TEXT, CLEAN, NOISY or PAD."""
    positions: Tensor
    """(B, L, 3): t, h, w."""
    document: Tensor
    picture: Tensor
    """Number of the copy of a picture or clip that a token belongs to, -1 for text."""
    dead: Tensor
    """bool: never a key."""

    @property
    def times(self) -> Tensor:
        """(B, L): the time by which the rules are: that of a token's position, and of a clip's tokens that of
        its first frame."""
        time, shown = self.positions[..., 0], self.picture + 1
        # text is number 0 here, and keeps its own times below
        last = torch.iinfo(time.dtype).max
        first = time.new_full((len(time), int(shown.max()) + 1), last).scatter_reduce(1, shown, time, "amin")
        return torch.where(shown > 0, first.gather(1, shown), time)

    def to(self, device: torch.device) -> Slots:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def may_see(slots: Slots) -> Tensor:
    """The dense mask, bool (B, 1, L, L) as [row, 1, query, key]."""
    rows, length = (torch.arange(size, device=slots.kind.device) for size in slots.kind.shape)
    return _seen(slots, slots.times, rows[:, None, None], length[:, None], length)[:, None]


def flex_mask(slots: Slots) -> Any:
    """The same mask as a FlexAttention block mask (B, 1, L, L)."""
    from torch.nn.attention.flex_attention import create_block_mask

    # once and contiguous: the kernel's compiler is to find plain tables to look up
    time = slots.times.contiguous()

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return _seen(slots, time, b, q, k)

    rows, length = slots.kind.shape
    return create_block_mask(mask_mod, rows, None, length, length, device=str(slots.kind.device))


def _seen(slots: Slots, time: Tensor, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Whether slot `query` of a row sees slot `key`, for indices of any shapes that broadcast; `time` (B, L)
    is that of the slots."""
    # by time, not by slot: the order of slots in a row means nothing
    at_query, at_key = time[row, query], time[row, key]
    noisy_query, noisy_key = slots.kind[row, query] == NOISY, slots.kind[row, key] == NOISY
    seen = (slots.document[row, query] == slots.document[row, key]) & (at_query >= at_key)
    seen = seen & (~noisy_key | (slots.picture[row, query] == slots.picture[row, key]))
    seen = seen & ~(noisy_query & ~noisy_key & (at_query == at_key))
    seen = seen & ~slots.dead[row, key] & (slots.kind[row, key] != PAD)
    # padding looks at itself, so that no softmax runs over nothing
    return seen | ((slots.kind[row, query] == PAD) & (query == key))


@dataclass(frozen=True)
class Layout:
    """How the tokens of the two streams stand in rows."""

    gather: Tensor
    """(B, L): for each slot its token in [understanding; noisy]; padding points anywhere."""
    und: Tensor
    """(U,): slot of each understanding token, in 0 .. B*L-1."""
    gen: Tensor
    """(G,): slot of each noisy token."""
    und_positions: Tensor
    """(U, 3)."""
    gen_positions: Tensor
    """(G, 3)."""
    mask: Any
    """bool (B, 1, L or 1, S) with True = may see, or the same as numbers that are added to scores; a
    FlexAttention block mask; or None for no mask at all."""
    ordered: bool = False
    """Whether all slots hold one stream's tokens, in order."""
    causal: bool = False
    """Whether, without a mask, a slot sees itself and those before it; else it sees all."""

    @classmethod
    def of(cls, slots: Slots, flex: bool = False) -> Layout:
        """The layout of packed rows; `flex` builds a FlexAttention mask instead of a dense one."""
        kind = slots.kind.flatten()
        und = ((kind == TEXT) | (kind == CLEAN)).nonzero().flatten()
        gen = (kind == NOISY).nonzero().flatten()
        gather = torch.zeros_like(kind)
        gather[und] = torch.arange(len(und), device=kind.device)
        gather[gen] = torch.arange(len(gen), device=kind.device) + len(und)
        positions = slots.positions.flatten(0, 1)
        mask = flex_mask(slots) if flex else may_see(slots)
        return cls(gather.view_as(slots.kind), und, gen, positions[und], positions[gen], mask)

    @classmethod
    def uniform(cls, positions: Tensor, mask: Tensor | None, noisy: bool, causal: bool = False) -> Layout:
        """All slots of B rows (positions (B, L, 3)) hold one stream's tokens, in order."""
        rows, length, _ = positions.shape
        # padding too counts as tokens of the stream: the mask hides it, and rows stay rectangles
        order = torch.arange(rows * length, device=positions.device)
        none, flat = order[:0], positions.flatten(0, 1)
        und, gen = (none, order) if noisy else (order, none)
        return cls(order.view(rows, length), und, gen, flat[und], flat[gen], mask, True, causal)
