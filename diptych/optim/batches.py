"""Parameters of equal shape that CAME computes together, and its passes over their memory in torch's
operations, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from diptych.optim import eight_bit

MIN_EIGHT_BIT = 16_384
"""Matrices of at most this many elements keep their momentum in float32, as published."""
TOGETHER = {"cpu": 2**19}
"""Elements that are computed together: small parameters of equal shape, or some rows of a large one. A CPU's
cache holds no more."""
# elsewhere starting a kernel costs more than a cache miss: pieces of 64 MB
TOGETHER_DEFAULT = 2**24


@dataclass(frozen=True)
class Kind:
    """What parameters must have in common to be computed together."""

    shape: tuple[int, ...]
    """Of the whole parameter."""
    local: tuple[int, ...]
    """Of this rank's part."""
    dtype: torch.dtype
    device: torch.device
    sharded: bool

    @classmethod
    def of(cls, parameter: Tensor) -> Kind:
        """Raises ValueError for a parameter that is sharded along another axis than the first."""
        part, sharded = local(parameter), False
        if isinstance(parameter, DTensor):
            # the rows' averages stay on their rank and the columns' are summed over ranks: that needs whole
            # rows, and one group to sum over
            (placement, *others) = parameter.placements
            if (
                others
                or not isinstance(placement, Shard | Replicate)
                or (isinstance(placement, Shard) and placement.dim != 0)
            ):
                raise ValueError(
                    "CAME takes parameters sharded along their first axis over one mesh dimension, got "
                    f"{parameter.placements}"
                )
            sharded = isinstance(placement, Shard)
        return cls(tuple(parameter.shape), tuple(part.shape), part.dtype, part.device, sharded)

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def together(self) -> int:
        return TOGETHER.get(self.device.type, TOGETHER_DEFAULT)

    @property
    def factored(self) -> bool:
        """Matrices and 1x1 convolutions; all else keeps a whole average of squares and has no confidence
        term."""
        return len(self.shape) == 2 or (len(self.shape) == 4 and self.shape[2:] == (1, 1))

    @property
    def compiled(self) -> bool:
        """Whether the loops of cpu.py step it; what is sharded waits for sums over the ranks between its
        passes."""
        return (
            self.factored and self.device.type == "cpu" and self.dtype == torch.float32 and not self.sharded
        )

    def in_eight_bits(self, group: dict[str, Any]) -> bool:
        """Whether the momentum is kept in 8 bits."""
        return bool(group["bits"] == 8 and self.factored and self.numel > MIN_EIGHT_BIT)


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Rooms:
    """Float32 tensors to work in, not initialised: the same memory each time, as fresh pages cost more than
    what is computed in them."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, torch.device], Tensor] = {}

    def room(self, what: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        count, key = torch.Size(shape).numel(), (what, device)
        if key not in self._rooms or self._rooms[key].numel() < count:
            self._rooms[key] = torch.empty(count, device=device)
        return self._rooms[key][:count].view(shape)


def begin_state(kind: Kind, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """Fill an empty state of a parameter with zeros: averages over rows and columns, or a whole average;
    momentum, or its codes."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=kind.device)

    if kind.factored:
        # of its own rows, but of all columns: every rank keeps the same column averages
        rows, columns = kind.local[0], kind.shape[1]
        for what in ("sq", "res"):
            state[f"exp_avg_{what}_row"], state[f"exp_avg_{what}_col"] = zeros(rows), zeros(columns)
    else:
        state["exp_avg_sq"] = zeros(*kind.local)
    if kind.in_eight_bits(group):
        count = torch.Size(kind.local).numel()
        # by this rank's elements: blocks begin anew on each rank, so no scale is shared
        state["exp_avg_codes"] = torch.zeros(count, dtype=torch.int8, device=kind.device)
        state["exp_avg_scale"] = zeros(-(-count // eight_bit.BLOCK))
    else:
        state["exp_avg"] = zeros(*kind.local)


@dataclass
class _Piece:
    """What is computed at once: several whole parameters, or some rows of one."""

    rows: slice
    shape: tuple[int, int, int]
    views: dict[str, list[Tensor]]
    """Parts of the members' tensors."""


class Batch:
    """Parameters of one kind with their states as stacked tensors: B matrices (n, k), of which this rank has
    some rows, or B vectors (elements, 1). In pieces where one is large."""

    def __init__(
        self,
        kind: Kind,
        members: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        rooms: Rooms,
    ) -> None:
        self.kind, self.members, self.states, self.rooms = kind, members, states, rooms
        self.eight_bit = kind.in_eight_bits(group)
        self.shape = (kind.local[0], kind.shape[1]) if kind.factored else (torch.Size(kind.local).numel(), 1)
        self.pieces = [
            _Piece(rows, (len(members), rows.stop - rows.start, self.shape[1]), {}) for rows in self._rows()
        ]
        self._view("weights", [local(p).view(self.shape) for p in members])
        for name in ("exp_avg", "exp_avg_sq"):
            if name in self.states[0]:
                self._view(name, [state[name].view(self.shape) for state in self.states])
        self._loaded: dict[str, Tensor] = {}

    def _rows(self) -> list[slice]:
        """Rows that are computed at once, in whole 8-bit blocks but for the last."""
        rows, columns = self.shape
        # the fewest rows whose elements are whole blocks: a block must be coded at once, with the scale of
        # all of it
        whole = eight_bit.BLOCK // math.gcd(eight_bit.BLOCK, columns)
        size = max(1, self.kind.together // (len(self.members) * columns * whole)) * whole
        return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]

    def _view(self, name: str, tensors: list[Tensor]) -> None:
        for piece in self.pieces:
            piece.views[name] = [tensor[piece.rows] for tensor in tensors]

    def begin(self) -> None:
        """Look at the gradients of a new step."""
        # every step: gradients are set to None between steps and lie elsewhere afterwards
        gradients = [p.grad for p in self.members if p.grad is not None]
        self._view("gradient", [local(gradient).reshape(self.shape) for gradient in gradients])

    def load(self, name: str) -> Tensor:
        """A small state of all members, (B, ...): the tensor itself where there is one, else a copy that
        `finish` writes back."""
        if len(self.states) == 1:
            return self.states[0][name][None]
        if name not in self._loaded:
            self._loaded[name] = torch.stack([state[name] for state in self.states])
        return self._loaded[name]

    def finish(self) -> None:
        """Write the small states back, and let the gradients go."""
        for name, values in self._loaded.items():
            torch._foreach_copy_([state[name] for state in self.states], list(values.unbind(0)))
        self._loaded.clear()
        for piece in self.pieces:
            # else the views would keep the memory of gradients that were set to None
            del piece.views["gradient"]

    def squares(self) -> tuple[Tensor, Tensor]:
        """Sums of squared gradients over columns, (B, n), and over rows, (B, k)."""
        sums = _Sums(self)
        for piece in self.pieces:
            sums.add(piece, self.squares_of(piece))
        return sums.over_columns, sums.over_rows

    def lengths(self, weights: Tensor) -> Tensor:
        """Sums over columns of squared gradients times `weights` (B, k): (B, n)."""
        sums = torch.empty(len(self.members), self.shape[0], 1, device=self.kind.device)
        for piece in self.pieces:
            torch.bmm(self.squares_of(piece), weights[..., None], out=sums[:, piece.rows])
        return sums.squeeze(2)

    def advance(self, rows: Tensor, columns: Tensor, beta1: float) -> tuple[Tensor, Tensor]:
        """Momentum m <- beta1 m + (1 - beta1) u with u = gradient * rows (B, n) * columns (B, k).

        Returns the sums of (m - u)^2, of the m before, over columns (B, n) and over rows (B, k).
        """
        sums, columns = _Sums(self), columns[:, None]
        for piece in self.pieces:
            momentum = self.take_momentum(piece)
            # gap = m - u, and m + (beta1 - 1) gap is the new momentum: u itself is never written to memory
            gap = torch.mul(self.take("gradient", piece), rows[:, piece.rows, None], out=self.work(piece))
            torch.addcmul(momentum, gap, columns, value=-1, out=gap)
            momentum.add_(gap, alpha=beta1 - 1)
            self.put_momentum(piece, momentum)
            sums.add(piece, gap.mul_(gap))
        return sums.over_columns, sums.over_rows

    def apply(self, rows: Tensor, columns: Tensor, group: dict[str, Any]) -> None:
        """Weights <- weights * (1 - lr * decay) - lr * momentum * rows (B, n) * columns (B, k)."""
        for piece in self.pieces:
            left = torch.mul(self.take_momentum(piece), rows[:, piece.rows, None], out=self.work(piece))
            self.move(piece, left, columns[:, None], group)

    def move(self, piece: _Piece, left: Tensor, right: Tensor, group: dict[str, Any]) -> None:
        """Decay a piece of the weights and subtract lr times the product of `left` and `right`, which
        broadcasts."""
        weights = self.take("weights", piece)
        if group["weight_decay"]:
            weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.addcmul_(left, right, value=-group["lr"])
        self.put("weights", piece, weights, group["stochastic_rounding"])

    def work(self, piece: _Piece) -> Tensor:
        # one room for all: what an earlier call left there is gone with the next, so no two are in use at
        # once
        return self.rooms.room("work", piece.shape, self.kind.device)

    def squares_of(self, piece: _Piece) -> Tensor:
        gradient = self.take("gradient", piece)
        return torch.mul(gradient, gradient, out=self.work(piece))

    def take(self, name: str, piece: _Piece) -> Tensor:
        """A piece of the members' tensors in float32: a view where it can be one, else a copy in a room of
        that name."""
        views = piece.views[name]
        if len(views) == 1 and views[0].dtype == torch.float32:
            return views[0][None]
        copy = self.rooms.room(name, piece.shape, self.kind.device)
        torch._foreach_copy_(list(copy.unbind(0)), views)
        return copy

    def put(self, name: str, piece: _Piece, values: Tensor, stochastic_rounding: bool = False) -> None:
        """Write back what `take` gave."""
        views = piece.views[name]
        if len(views) == 1 and views[0].dtype == torch.float32:
            return
        # a step of 1e-4 of a weight is below the last digit of bfloat16 and would be rounded away each time
        if stochastic_rounding and views[0].dtype == torch.bfloat16:
            values = round_randomly(values)
        torch._foreach_copy_(views, list(values.unbind(0)))

    def take_momentum(self, piece: _Piece) -> Tensor:
        if not self.eight_bit:
            return self.take("exp_avg", piece)
        momentum, spare = (
            self.rooms.room(what, piece.shape, self.kind.device) for what in ("exp_avg", "spare")
        )
        for state, out, free in zip(self.states, momentum, spare, strict=True):
            eight_bit.decode(*self._coded(state, piece), out.flatten(), free.flatten())
        return momentum

    def put_momentum(self, piece: _Piece, momentum: Tensor) -> None:
        if not self.eight_bit:
            return self.put("exp_avg", piece, momentum)
        for state, values, free in zip(
            self.states, momentum, self.rooms.room("spare", piece.shape, self.kind.device), strict=True
        ):
            eight_bit.encode(values.flatten(), *self._coded(state, piece), free.flatten())

    def _coded(self, state: dict[str, Tensor], piece: _Piece) -> tuple[Tensor, Tensor]:
        """Codes and scales of a piece of a momentum that is kept in 8 bits."""
        columns, block = self.shape[1], eight_bit.BLOCK
        first, last = piece.rows.start * columns, piece.rows.stop * columns
        return state["exp_avg_codes"][first:last], state["exp_avg_scale"][first // block : -(-last // block)]


class _Sums:
    """Sums of the elements of B matrices (n, k) over columns, (B, n), and over rows, (B, k), from pieces."""

    def __init__(self, batch: Batch) -> None:
        (rows, columns), count = batch.shape, len(batch.members)
        self.over_columns = torch.zeros(count, rows, device=batch.kind.device)
        self.over_rows = torch.zeros(count, columns, device=batch.kind.device)

    def add(self, piece: _Piece, values: Tensor) -> None:
        torch.sum(values, 2, out=self.over_columns[:, piece.rows])
        self.over_rows += values.sum(1)


def round_randomly(x: Tensor) -> Tensor:
    """float32 -> bfloat16, up or down with the probabilities that keep the mean (stochastic rounding)."""
    # added below the last digit that stays, it carries with the probability of what is cut off; the sign is a
    # bit of its own, so this holds for negative values too
    noise = torch.randint(0, 2**16, x.shape, dtype=torch.int32, device=x.device)
    # a bfloat16 is the upper half of a float32
    return (
        (x.contiguous().view(torch.int32) + noise)
        .bitwise_and_(-(2**16))
        .view(torch.float32)
        .to(torch.bfloat16)
    )
