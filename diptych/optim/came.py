"""CAME (arXiv 2307.02047), and CAME-8bit of SANA-1.5 (arXiv 2501.18427 section 3.2), for plain and for sharded parameters.

AdamW keeps two numbers a weight, CAME one: squared gradients and the confidence in a step are kept as averages over rows and over
columns of a matrix. CAME-8bit keeps that one number in a byte.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from diptych.optim import eight_bit

MIN_EIGHT_BIT = 16_384
"""Matrices of at most this many elements keep their momentum in float32, as published."""
TOGETHER = {"cpu": 2**19}
"""Elements that are computed together: small parameters of equal shape, or some rows of a large one. A CPU's cache holds no more."""
TOGETHER_DEFAULT = 2**24

Reduction = Generator[list[Tensor], list[Tensor], None]
"""Advances a batch; yields tensors to be summed over the ranks of a sharded parameter and is sent the sums."""


@dataclass(frozen=True)
class _Kind:
    """What parameters must have in common to be computed together."""

    shape: tuple[int, ...]
    """Of the whole parameter."""
    local: tuple[int, ...]
    """Of this rank's part."""
    dtype: torch.dtype
    device: torch.device
    sharded: bool

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def together(self) -> int:
        return TOGETHER.get(self.device.type, TOGETHER_DEFAULT)

    @property
    def factored(self) -> bool:
        """Matrices and 1x1 convolutions; all else keeps a whole average of squares and has no confidence term."""
        return len(self.shape) == 2 or (len(self.shape) == 4 and self.shape[2:] == (1, 1))


class CAME(torch.optim.Optimizer):
    """p <- p (1 - lr * decay) - lr * step, with steps as in the paper; nothing is corrected for bias.

    Factored on the shape of the whole parameter, also where FSDP2 gives each rank some of its rows. Parameters of equal shape are
    computed together. `stochastic_rounding` rounds bfloat16 weights at random, so that small steps are not lost and no float32 copy
    is needed; it does nothing to float32 weights.

    Raises ValueError for settings out of range and for parameters sharded along other axes than the first.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16), clip_threshold: float = 1.0, weight_decay: float = 0.0, *, bits: int = 32,
        stochastic_rounding: bool = False,
    ) -> None:  # fmt: skip
        if lr <= 0 or clip_threshold <= 0 or weight_decay < 0 or not all(0 <= b < 1 for b in betas) or len(betas) != 3:
            raise ValueError(f"lr and clip_threshold must be above 0, three betas in 0..1, got {lr}, {clip_threshold}, {betas}, decay {weight_decay}")
        if bits not in (8, 32):
            raise ValueError(f"momentum is kept in 8 or 32 bits, got {bits}")
        defaults = {
            "lr": lr, "betas": tuple(betas), "eps": tuple(eps), "clip_threshold": clip_threshold, "weight_decay": weight_decay, "bits": bits,
            "stochastic_rounding": stochastic_rounding,
        }  # fmt: skip
        super().__init__(params, defaults)
        self._plans: dict[int, tuple[list[Any], list[_Batch]]] = {}
        self._rooms: dict[tuple[str, torch.device], Tensor] = {}

    def room(self, what: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """A float32 tensor to work in, not initialised: the same memory each time, as fresh pages cost more than what is computed in them."""
        count, key = torch.Size(shape).numel(), (what, device)
        if key not in self._rooms or self._rooms[key].numel() < count:
            self._rooms[key] = torch.empty(count, device=device)
        return self._rooms[key][:count].view(shape)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            batches = self._batches(group)
            for batch in batches:
                if not batch.kind.sharded:
                    _advance([batch], group, None)
            sharded = [batch for batch in batches if batch.kind.sharded]
            if sharded:
                # one sum over the ranks serves all
                _advance(sharded, group, sharded[0].members[0])
        return result

    def _batches(self, group: dict[str, Any]) -> list[_Batch]:
        """The group's parameters that have gradients, in batches; those of the last step where nothing has moved."""
        present = [p for p in group["params"] if p.grad is not None]
        key, where = id(group["params"]), [(id(p), _local(p).data_ptr(), id(self.state.get(p))) for p in present]
        if key not in self._plans or self._plans[key][0] != where:
            batches = list(_in_batches(self, present, group))
            self._plans[key] = ([(id(p), _local(p).data_ptr(), id(self.state[p])) for p in present], batches)
        for batch in self._plans[key][1]:
            batch.begin()
        return self._plans[key][1]

    # -- state in and out: whole tensors, whatever the ranks and the bits ----------------------------------------------------------

    def export_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """State of one parameter, of its whole shape (sharded where it is), momentum in float32 on the CPU where it was in 8 bits.

        Nothing is lost: encoding it again gives the same bytes.
        """
        state, kind = self.state[parameter], _kind(parameter)
        entries = {name: tensor for name, tensor in state.items() if not name.startswith("exp_avg_code") and name != "exp_avg_scale"}
        if "exp_avg_codes" in state:
            momentum = torch.empty(torch.Size(kind.local).numel(), device=kind.device)
            eight_bit.decode(state["exp_avg_codes"], state["exp_avg_scale"], momentum, torch.empty_like(momentum))
            entries["exp_avg"] = momentum.view(kind.local)
            if not kind.sharded:
                entries["exp_avg"] = entries["exp_avg"].cpu()
        if isinstance(parameter, DTensor) and kind.sharded:
            for name, tensor in entries.items():
                if not name.endswith("_col"):
                    shape = kind.shape[:1] if name.endswith("_row") else kind.shape
                    stride = torch.empty(shape, device="meta").stride()
                    entries[name] = DTensor.from_local(tensor, parameter.device_mesh, [Shard(0)], shape=torch.Size(shape), stride=stride)
        return entries

    def import_state(self, parameter: Tensor, entries: dict[str, Tensor]) -> None:
        """Take a state that `export_state` gave, gathered to whole tensors, under any number of ranks and in either precision."""
        kind, group = _kind(parameter), next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        state: dict[str, Tensor] = {}
        for name, tensor in entries.items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            part = whole if name.endswith("_col") else _rows(whole, parameter)
            state[name] = part.to(kind.device, torch.float32).contiguous().clone()
        if _eight_bit(kind, group):
            momentum = state.pop("exp_avg").flatten()
            state["exp_avg_codes"] = torch.empty_like(momentum, dtype=torch.int8)
            state["exp_avg_scale"] = momentum.new_empty(-(-len(momentum) // eight_bit.BLOCK))
            eight_bit.encode(momentum, state["exp_avg_codes"], state["exp_avg_scale"], torch.empty_like(momentum))
        self.state[parameter] = state

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with states as `export_state` gives them."""
        numbers = {parameter: n for n, parameter in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [{**g, "params": [numbers[p] for p in g["params"]]} for g in self.param_groups]
        return {"state": {numbers[p]: self.export_state(p) for p in self.state}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        parameters = [p for g in self.param_groups for p in g["params"]]
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            if len(saved["params"]) != len(group["params"]):
                raise ValueError(f"the saved group has {len(saved['params'])} parameters, this one {len(group['params'])}")
            group.update({name: value for name, value in saved.items() if name != "params"})
        self.state.clear()
        for number, entries in state_dict["state"].items():
            self.import_state(parameters[int(number)], entries)


def _in_batches(optimiser: CAME, parameters: Iterable[Tensor], group: dict[str, Any]) -> Iterator[_Batch]:
    groups: dict[_Kind, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        groups[_kind(parameter)].append(parameter)
    for kind, members in groups.items():
        size = max(1, kind.together // max(1, kind.numel))
        for start in range(0, len(members), size):
            yield _Batch(optimiser, kind, members[start : start + size], group)


@dataclass
class _Piece:
    """What is computed at once: several whole parameters, or some rows of one."""

    rows: slice
    shape: tuple[int, int, int]
    views: dict[str, list[Tensor]]
    """Parts of the members' tensors."""


class _Batch:
    """Parameters of one kind as stacked tensors (B, n, k), or (B, elements, 1); in pieces where one is large."""

    def __init__(self, optimiser: CAME, kind: _Kind, members: list[Tensor], group: dict[str, Any]) -> None:
        self.kind, self.members, self.room = kind, members, optimiser.room
        self.eight_bit = _eight_bit(kind, group)
        self.entries = [optimiser.state[p] or self._new(optimiser.state[p]) for p in members]
        self.shape = (kind.local[0], kind.shape[1]) if kind.factored else (torch.Size(kind.local).numel(), 1)
        self.pieces = [_Piece(rows, (len(members), rows.stop - rows.start, self.shape[1]), {}) for rows in self._rows()]
        self._view("weights", [_local(p) for p in members])
        for name in ("exp_avg", "exp_avg_sq"):
            if name in self.entries[0]:
                self._view(name, [entry[name] for entry in self.entries])
        self.loaded: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Look at the gradients of a new step."""
        self.loaded.clear()
        self._view("gradient", [_local(p.grad) for p in self.members])  # type: ignore[arg-type]

    @property
    def undisturbed(self) -> bool:
        """Whether what is in a working room is still there after waiting for a sum."""
        return not self.kind.sharded and len(self.pieces) == 1

    def _rows(self) -> list[slice]:
        """Rows that are computed at once, in whole 8-bit blocks but for the last."""
        rows, columns = self.shape
        whole = eight_bit.BLOCK // math.gcd(eight_bit.BLOCK, columns)
        size = max(1, self.kind.together // (len(self.members) * columns * whole)) * whole
        return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]

    def _view(self, name: str, tensors: list[Tensor]) -> None:
        shaped = [tensor.reshape(self.shape) for tensor in tensors]
        for piece in self.pieces:
            piece.views[name] = [tensor[piece.rows] for tensor in shaped]

    def _new(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        kind, zeros = self.kind, lambda *shape: torch.zeros(shape, dtype=torch.float32, device=self.kind.device)
        if kind.factored:
            rows, columns = kind.local[0], kind.shape[1]
            for what in ("sq", "res"):
                state[f"exp_avg_{what}_row"], state[f"exp_avg_{what}_col"] = zeros(rows), zeros(columns)
        else:
            state["exp_avg_sq"] = zeros(*kind.local)
        if self.eight_bit:
            count = torch.Size(kind.local).numel()
            state["exp_avg_codes"] = torch.zeros(count, dtype=torch.int8, device=kind.device)
            state["exp_avg_scale"] = zeros(-(-count // eight_bit.BLOCK))
        else:
            state["exp_avg"] = zeros(*kind.local)
        return state

    def load(self, name: str) -> Tensor:
        """A small state of all members, (B, ...): the tensor itself where there is one, else a copy that `finish` writes back."""
        if len(self.entries) == 1:
            return self.entries[0][name][None]
        if name not in self.loaded:
            self.loaded[name] = torch.stack([entry[name] for entry in self.entries])
        return self.loaded[name]

    def finish(self) -> None:
        """Write the small states back, and let the gradients go."""
        for name, values in self.loaded.items():
            torch._foreach_copy_([entry[name] for entry in self.entries], list(values.unbind(0)))
        self.loaded.clear()
        for piece in self.pieces:
            del piece.views["gradient"]

    def work(self, piece: _Piece) -> Tensor:
        return self.room("work", piece.shape, self.kind.device)

    def gradient(self, piece: _Piece) -> Tensor:
        return self.take("gradient", piece)

    def squares(self, piece: _Piece) -> Tensor:
        gradient = self.gradient(piece)
        return torch.mul(gradient, gradient, out=self.work(piece))

    def take(self, name: str, piece: _Piece) -> Tensor:
        """A piece of the members' tensors in float32: a view where it can be one, else a copy in a room of that name."""
        views = piece.views[name]
        if len(views) == 1 and views[0].dtype == torch.float32:
            return views[0][None]
        copy = self.room(name, piece.shape, self.kind.device)
        torch._foreach_copy_(list(copy.unbind(0)), views)
        return copy

    def put(self, name: str, piece: _Piece, values: Tensor, stochastic_rounding: bool = False) -> None:
        """Write back what `take` gave."""
        views = piece.views[name]
        if len(views) == 1 and views[0].dtype == torch.float32:
            return
        if stochastic_rounding and views[0].dtype == torch.bfloat16:
            values = round_randomly(values)
        torch._foreach_copy_(views, list(values.unbind(0)))

    def take_momentum(self, piece: _Piece) -> Tensor:
        if not self.eight_bit:
            return self.take("exp_avg", piece)
        momentum, spare = (self.room(what, piece.shape, self.kind.device) for what in ("exp_avg", "spare"))
        for entry, out, free in zip(self.entries, momentum, spare, strict=True):
            eight_bit.decode(*self._coded(entry, piece), out.flatten(), free.flatten())
        return momentum

    def put_momentum(self, piece: _Piece, momentum: Tensor) -> None:
        if not self.eight_bit:
            return self.put("exp_avg", piece, momentum)
        for entry, values, free in zip(self.entries, momentum, self.room("spare", piece.shape, self.kind.device), strict=True):
            eight_bit.encode(values.flatten(), *self._coded(entry, piece), free.flatten())

    def _coded(self, entry: dict[str, Tensor], piece: _Piece) -> tuple[Tensor, Tensor]:
        columns, block = self.shape[1], eight_bit.BLOCK
        first, last = piece.rows.start * columns, piece.rows.stop * columns
        return entry["exp_avg_codes"][first:last], entry["exp_avg_scale"][first // block : -(-last // block)]

    def apply(self, group: dict[str, Any], piece: _Piece, left: Tensor, right: Tensor) -> None:
        """Subtract lr times the product of `left` and `right`, which broadcasts, from a piece of the weights."""
        weights = self.take("weights", piece)
        if group["weight_decay"]:
            weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.addcmul_(left, right, value=-group["lr"])
        self.put("weights", piece, weights, group["stochastic_rounding"])


def _advance(batches: list[_Batch], group: dict[str, Any], sharded: Tensor | None) -> None:
    """Run the batches together, summing over the ranks whenever they ask for it. Nothing large is alive while they wait."""
    running = [(batch, _factored(batch, group) if batch.kind.factored else _whole(batch, group)) for batch in batches]
    asked = [next(generator) for _, generator in running]
    while running:
        sums = asked if sharded is None else _sum_over_ranks(asked, sharded)
        further, asked = [], []
        for (batch, generator), answer in zip(running, sums, strict=True):
            try:
                asked.append(generator.send(answer))
                further.append((batch, generator))
            except StopIteration:
                batch.finish()
        running = further


def _factored(batch: _Batch, group: dict[str, Any]) -> Reduction:
    """Steps of B matrices (n, k) from averages over rows and columns, with confidence.

    Written for few passes over memory. An update divided by a rank-one estimate is (G * rows) * columns, where the second product
    joins the addition that follows; the doubt u - m after m <- b1 m + (1 - b1) u is b1 (u - m) before it. A step takes the momentum
    as it is stored, so that 8 bits need no copy of it.
    """
    (beta1, beta2, beta3), (eps1, eps2) = group["betas"], group["eps"]
    sums = _Sums(batch)
    for piece in batch.pieces:
        sums.add(piece, batch.squares(piece))
    rows, columns = yield from _averages(batch, "exp_avg_sq", sums, eps1, 1 - beta2)

    lengths, weights = torch.empty_like(rows)[..., None], columns.square()[..., None]
    for piece in batch.pieces:
        squares = batch.work(piece) if batch.undisturbed else batch.squares(piece)
        torch.bmm(squares, weights, out=lengths[:, piece.rows])
    shrink = yield from _clip(lengths.squeeze(2).mul_(rows.square()).sum(1), batch, group)
    rows, columns = rows.mul_(shrink[:, None])[..., None], columns[:, None]

    sums = _Sums(batch)
    for piece in batch.pieces:
        momentum = batch.take_momentum(piece)
        gap = torch.mul(batch.gradient(piece), rows[:, piece.rows], out=batch.work(piece))
        torch.addcmul(momentum, gap, columns, value=-1, out=gap)
        momentum.add_(gap, alpha=beta1 - 1)
        batch.put_momentum(piece, momentum)
        sums.add(piece, gap.mul_(gap))
    sums.scale(beta1**2)
    rows, columns = yield from _averages(batch, "exp_avg_res", sums, eps2, 1 - beta3)

    rows, columns = rows[..., None], columns[:, None]
    for piece in batch.pieces:
        left = torch.mul(batch.take_momentum(piece), rows[:, piece.rows], out=batch.work(piece))
        batch.apply(group, piece, left, columns)


class _Sums:
    """Sums of the elements of B matrices (n, k) over columns, (B, n), and over rows, (B, k), from pieces."""

    def __init__(self, batch: _Batch) -> None:
        (rows, columns), count = batch.shape, len(batch.members)
        self.over_columns = torch.zeros(count, rows, device=batch.kind.device)
        self.over_rows = torch.zeros(count, columns, device=batch.kind.device)

    def add(self, piece: _Piece, values: Tensor) -> None:
        torch.sum(values, 2, out=self.over_columns[:, piece.rows])
        self.over_rows += values.sum(1)

    def scale(self, factor: float) -> None:
        self.over_columns *= factor
        self.over_rows *= factor


def _averages(
    batch: _Batch, name: str, sums: _Sums, eps: float, weight: float
) -> Generator[list[Tensor], list[Tensor], tuple[Tensor, Tensor]]:  # fmt: skip
    """Advance averages by sums of squares, (B, n) and (B, k); returns the factors (R_i / mean R)^-1/2 and C_j^-1/2 of the same shapes."""
    n, k = batch.kind.shape[:2]
    row, column = batch.load(f"{name}_row"), batch.load(f"{name}_col")
    row.lerp_(sums.over_columns.div_(k).add_(eps), weight)
    below, total = yield [sums.over_rows, row.sum(1)]
    column.lerp_(below.div_(n).add_(eps), weight)
    return (row / (total / n)[:, None]).rsqrt_(), column.rsqrt()


def _whole(batch: _Batch, group: dict[str, Any]) -> Reduction:
    """Steps of B vectors or kernels: a whole average of squares, no confidence."""
    (beta1, beta2, _), (eps1, _) = group["betas"], group["eps"]
    lengths = torch.zeros(len(batch.members), device=batch.kind.device)
    for piece in batch.pieces:
        average = batch.take("exp_avg_sq", piece)
        average.lerp_(batch.squares(piece).add_(eps1), 1 - beta2)
        batch.put("exp_avg_sq", piece, average)
        lengths += torch.rsqrt(average, out=batch.work(piece)).mul_(batch.gradient(piece)).square_().sum((1, 2))
    shrink = (yield from _clip(lengths, batch, group))[:, None, None]
    for piece in batch.pieces:
        update = torch.rsqrt(batch.take("exp_avg_sq", piece), out=batch.work(piece)).mul_(batch.gradient(piece))
        momentum = batch.take_momentum(piece)
        momentum.lerp_(update.mul_(shrink), 1 - beta1)
        batch.put_momentum(piece, momentum)
        batch.apply(group, piece, momentum, torch.ones_like(shrink))


def _clip(squares: Tensor, batch: _Batch, group: dict[str, Any]) -> Generator[list[Tensor], list[Tensor], Tensor]:
    """1 / max(1, RMS / threshold) of updates whose squares sum to (B,)."""
    (total,) = yield [squares]
    return (total / batch.kind.numel).sqrt_().div_(group["clip_threshold"]).clamp_(min=1.0).reciprocal_()


def round_randomly(x: Tensor) -> Tensor:
    """float32 -> bfloat16, up or down with the probabilities that keep the mean (stochastic rounding)."""
    noise = torch.randint(0, 2**16, x.shape, dtype=torch.int32, device=x.device)
    # a bfloat16 is the upper half of a float32
    return (x.contiguous().view(torch.int32) + noise).bitwise_and_(-(2**16)).view(torch.float32).to(torch.bfloat16)


def _eight_bit(kind: _Kind, group: dict[str, Any]) -> bool:
    return bool(group["bits"] == 8 and kind.factored and kind.numel > MIN_EIGHT_BIT)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _kind(parameter: Tensor) -> _Kind:
    local, sharded = _local(parameter), False
    if isinstance(parameter, DTensor):
        (placement, *others) = parameter.placements
        if others or not isinstance(placement, Shard | Replicate) or (isinstance(placement, Shard) and placement.dim != 0):
            raise ValueError(f"CAME takes parameters sharded along their first axis over one mesh dimension, got {parameter.placements}")
        sharded = isinstance(placement, Shard)
    return _Kind(tuple(parameter.shape), tuple(local.shape), local.dtype, local.device, sharded)


def _rows(whole: Tensor, parameter: Tensor) -> Tensor:
    """This rank's rows of a whole tensor."""
    if not isinstance(parameter, DTensor) or not _kind(parameter).sharded:
        return whole
    mesh = parameter.device_mesh
    size = -(-len(whole) // mesh.size())
    start = min(len(whole), size * mesh.get_local_rank())
    return whole[start : start + len(parameter.to_local())]


def _sum_over_ranks(asked: list[list[Tensor]], sharded: Tensor) -> list[list[Tensor]]:
    """One all-reduce for all that the batches ask for."""
    assert isinstance(sharded, DTensor)
    tensors = [tensor for part in asked for tensor in part]
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat, group=sharded.device_mesh.get_group())
    summed = iter(part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True))
    return [[next(summed) for _ in part] for part in asked]
