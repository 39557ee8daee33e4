"""CAME (arXiv 2307.02047), and CAME-8bit of SANA-1.5 (arXiv 2501.18427 section 3.2), for plain and for
sharded parameters.

AdamW keeps two numbers a weight, CAME one: squared gradients and the confidence in a step are kept as
averages over rows and over columns of a matrix. CAME-8bit keeps that one number in a byte.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from diptych.optim import eight_bit
from diptych.optim.batches import Batch, Kind, Rooms, begin_state, local

Reduction = Generator[list[Tensor], list[Tensor], None]
"""Advances a batch; yields tensors to be summed over the ranks of a sharded parameter and is sent the
sums."""


class CAME(torch.optim.Optimizer):
    """p <- p (1 - lr * decay) - lr * step, with steps as in the paper; nothing is corrected for bias.

    Factored on the shape of the whole parameter, also where FSDP2 gives each rank some of its rows.
    Parameters of equal shape are computed together. `stochastic_rounding` rounds bfloat16 weights at random,
    so that small steps are not lost and no float32 copy is needed; it does nothing to float32 weights.

    Raises ValueError for settings out of range and for parameters sharded along other axes than the first.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
        *,
        bits: int = 32,
        stochastic_rounding: bool = False,
    ) -> None:
        if (
            lr <= 0
            or clip_threshold <= 0
            or weight_decay < 0
            or not all(0 <= b < 1 for b in betas)
            or len(betas) != 3
        ):
            raise ValueError(
                f"lr and clip_threshold must be above 0, three betas in 0..1, got {lr}, "
                f"{clip_threshold}, {betas}, decay {weight_decay}"
            )
        if bits not in (8, 32):
            raise ValueError(f"momentum is kept in 8 or 32 bits, got {bits}")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": tuple(eps),
            "clip_threshold": clip_threshold,
            "weight_decay": weight_decay,
            "bits": bits,
            "stochastic_rounding": stochastic_rounding,
        }
        super().__init__(params, defaults)
        # views and batches cost more to make than small steps to compute: kept while parameters and states
        # are where they were
        self._plans: dict[int, tuple[list[Any], list[Batch], list[Tensor]]] = {}
        self.rooms = Rooms()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            batches, matrices = self._planned(group)
            # compiled loops run in threads of their own while torch computes the rest here
            finish = _begin_matrices(matrices, [self.state[p] for p in matrices], group)
            for batch in batches:
                batch.begin()
                if not batch.kind.sharded:
                    _advance([batch], group, None)
            sharded = [batch for batch in batches if batch.kind.sharded]
            if sharded:
                # one sum over the ranks serves all
                _advance(sharded, group, sharded[0].members[0])
            finish()
        return result

    def _planned(self, group: dict[str, Any]) -> tuple[list[Batch], list[Tensor]]:
        """The group's parameters that have gradients, in batches and in matrices that compiled loops take; as
        in the last step where nothing has moved."""
        present = [p for p in group["params"] if p.grad is not None]
        # a batch holds the states that it was made with, so ids of old ones cannot be given to new ones
        key, where = (
            id(group["params"]),
            [(id(p), local(p).data_ptr(), id(self.state.get(p))) for p in present],
        )
        if key not in self._plans or self._plans[key][0] != where:
            kinds: dict[Kind, list[Tensor]] = defaultdict(list)
            for parameter in present:
                kind = Kind.of(parameter)
                kinds[kind].append(parameter)
                if not self.state[parameter]:
                    begin_state(kind, self.state[parameter], group)
            batches = [
                batch
                for kind, members in kinds.items()
                if not kind.compiled
                for batch in self._batches(kind, members, group)
            ]
            matrices = [
                parameter for kind, members in kinds.items() if kind.compiled for parameter in members
            ]
            self._plans[key] = (
                [(id(p), local(p).data_ptr(), id(self.state[p])) for p in present],
                batches,
                matrices,
            )
        return self._plans[key][1:]

    def _batches(self, kind: Kind, members: list[Tensor], group: dict[str, Any]) -> Iterator[Batch]:
        size = max(1, kind.together // max(1, kind.numel))
        for start in range(0, len(members), size):
            some = members[start : start + size]
            yield Batch(kind, some, [self.state[p] for p in some], group, self.rooms)

    def export_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """State of one parameter, of its whole shape (sharded where it is), momentum in float32 on the CPU
        where it was in 8 bits.

        Nothing is lost: encoding it again gives the same bytes.
        """
        state, kind = self.state[parameter], Kind.of(parameter)
        entries = {
            name: tensor
            for name, tensor in state.items()
            if not name.startswith("exp_avg_code") and name != "exp_avg_scale"
        }
        if "exp_avg_codes" in state:
            momentum = torch.empty(torch.Size(kind.local).numel(), device=kind.device)
            eight_bit.decode(
                state["exp_avg_codes"], state["exp_avg_scale"], momentum, torch.empty_like(momentum)
            )
            # float32 in checkpoints, so that a run may go on with other ranks or in the other precision:
            # blocks are cut by rank
            entries["exp_avg"] = momentum.view(kind.local)
            if not kind.sharded:
                entries["exp_avg"] = entries["exp_avg"].cpu()
        return _laid_out(entries, parameter)

    def empty_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Tensors as `export_state` gives them, not filled: what a saved state is read into."""
        kind = Kind.of(parameter)
        state: dict[str, Tensor] = {}
        begin_state(kind, state, {"bits": 32})
        return _laid_out(state, parameter)

    def import_state(self, parameter: Tensor, entries: dict[str, Tensor]) -> None:
        """Take a state that `export_state` gave, under any number of ranks and in either precision: whole
        tensors, or laid out as the parameter is. Float32 tensors become the state itself."""
        kind, group = (
            Kind.of(parameter),
            next(g for g in self.param_groups if any(p is parameter for p in g["params"])),
        )
        state: dict[str, Tensor] = {}
        for name, tensor in entries.items():
            if isinstance(tensor, DTensor):
                part = tensor.to_local()
            else:
                part = tensor if name.endswith("_col") else _rows(tensor, parameter)
            state[name] = part.to(kind.device, torch.float32).contiguous()
        if kind.in_eight_bits(group):
            momentum = state.pop("exp_avg").flatten()
            state["exp_avg_codes"] = torch.empty_like(momentum, dtype=torch.int8)
            state["exp_avg_scale"] = momentum.new_empty(-(-len(momentum) // eight_bit.BLOCK))
            eight_bit.encode(
                momentum, state["exp_avg_codes"], state["exp_avg_scale"], torch.empty_like(momentum)
            )
        self.state[parameter] = state

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with states as `export_state` gives them."""
        numbers = {
            parameter: n for n, parameter in enumerate(p for g in self.param_groups for p in g["params"])
        }
        groups = [{**g, "params": [numbers[p] for p in g["params"]]} for g in self.param_groups]
        return {"state": {numbers[p]: self.export_state(p) for p in self.state}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but for `bits`, which stay as they are here."""
        parameters = [p for g in self.param_groups for p in g["params"]]
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            if len(saved["params"]) != len(group["params"]):
                raise ValueError(
                    f"the saved group has {len(saved['params'])} parameters, this one {len(group['params'])}"
                )
            # how momentum is stored was said when this was made, and a saved state serves both
            group.update({name: value for name, value in saved.items() if name not in ("params", "bits")})
        self.state.clear()
        for number, entries in state_dict["state"].items():
            copies = {name: tensor.clone() for name, tensor in entries.items()}
            self.import_state(parameters[int(number)], copies)


def _begin_matrices(
    matrices: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]
) -> Callable[[], None]:
    """Begin the compiled step of float32 matrices on a CPU; what is returned ends it."""
    if not matrices:
        return lambda: None
    # numba takes half a second to import
    from diptych.optim import cpu

    return cpu.begin_step(matrices, states, group)


def _advance(batches: list[Batch], group: dict[str, Any], sharded: Tensor | None) -> None:
    """Run the batches together, summing over the ranks whenever they ask for it. Nothing large is alive while
    they wait."""
    running = [
        (batch, _factored(batch, group) if batch.kind.factored else _whole(batch, group)) for batch in batches
    ]
    # all run up to their first sum, then to the next: three sums a step for all parameters together
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


def _factored(batch: Batch, group: dict[str, Any]) -> Reduction:
    """Steps of B matrices (n, k) from averages over rows and columns, with confidence.

    Written for few passes over memory. An update divided by a rank-one estimate is (G * rows) * columns,
    where the second product joins the addition that follows; the doubt u - m after m <- b1 m + (1 - b1) u is
    b1 (u - m) before it. A step takes the momentum as it is stored, so that 8 bits need no copy of it.
    """
    (beta1, beta2, beta3), (eps1, eps2) = group["betas"], group["eps"]
    rows, columns = yield from _averages(batch, "exp_avg_sq", *batch.squares(), eps1, 1 - beta2)
    # RMS of the update without the update: its squares are those of the gradient times two rank-one factors
    lengths = batch.lengths(columns.square())
    shrink = yield from _clip(lengths.mul_(rows.square()).sum(1), batch, group)
    over_columns, over_rows = batch.advance(rows.mul_(shrink[:, None]), columns, beta1)
    rows, columns = yield from _averages(
        batch, "exp_avg_res", over_columns.mul_(beta1**2), over_rows.mul_(beta1**2), eps2, 1 - beta3
    )
    batch.apply(rows, columns, group)


def _averages(
    batch: Batch, name: str, over_columns: Tensor, over_rows: Tensor, eps: float, weight: float
) -> Generator[list[Tensor], list[Tensor], tuple[Tensor, Tensor]]:
    """Advance averages by sums of squares, (B, n) and (B, k); returns the factors (R_i / mean R)^-1/2 and
    C_j^-1/2 of the same shapes."""
    n, k = batch.kind.shape[:2]
    row, column = batch.load(f"{name}_row"), batch.load(f"{name}_col")
    # means of g^2 + eps, as published: eps is added before averaging, not to the divisor
    row.lerp_(over_columns.div_(k).add_(eps), weight)
    # rows are whole on this rank, columns need the other ranks' rows
    below, total = yield [over_rows, row.sum(1)]
    column.lerp_(below.div_(n).add_(eps), weight)
    # R_i C_j / mean R is the rank-one estimate (Adafactor, arXiv 1804.04235); its inverse root falls apart in
    # two factors
    return (row / (total / n)[:, None]).rsqrt_(), column.rsqrt()


def _whole(batch: Batch, group: dict[str, Any]) -> Reduction:
    """Steps of B vectors or kernels: a whole average of squares, no confidence."""
    (beta1, beta2, _), (eps1, _) = group["betas"], group["eps"]
    # two loops over the pieces: the clip needs the whole update's length before any of it is used
    lengths = torch.zeros(len(batch.members), device=batch.kind.device)
    for piece in batch.pieces:
        average = batch.take("exp_avg_sq", piece)
        average.lerp_(batch.squares_of(piece).add_(eps1), 1 - beta2)
        batch.put("exp_avg_sq", piece, average)
        lengths += (
            torch.rsqrt(average, out=batch.work(piece))
            .mul_(batch.take("gradient", piece))
            .square_()
            .sum((1, 2))
        )
    shrink = (yield from _clip(lengths, batch, group))[:, None, None]
    for piece in batch.pieces:
        update = torch.rsqrt(batch.take("exp_avg_sq", piece), out=batch.work(piece)).mul_(
            batch.take("gradient", piece)
        )
        momentum = batch.take_momentum(piece)
        momentum.lerp_(update.mul_(shrink), 1 - beta1)
        batch.put_momentum(piece, momentum)
        batch.move(piece, momentum, torch.ones_like(shrink), group)


def _clip(
    squares: Tensor, batch: Batch, group: dict[str, Any]
) -> Generator[list[Tensor], list[Tensor], Tensor]:
    """1 / max(1, RMS / threshold) of updates whose squares sum to (B,)."""
    (total,) = yield [squares]
    # nothing is corrected for bias, so the first updates are some 30 times too large: this clip is what tames
    # them
    return (total / batch.kind.numel).sqrt_().div_(group["clip_threshold"]).clamp_(min=1.0).reciprocal_()


def _laid_out(entries: dict[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    """What ranks hold of the rows of a sharded parameter's state, as parts of whole tensors; averages over
    columns are the same on all."""
    kind = Kind.of(parameter)
    if not kind.sharded:
        return entries
    assert isinstance(parameter, DTensor)
    out = {}
    for name, tensor in entries.items():
        shape = kind.shape[:1] if name.endswith("_row") else kind.shape
        stride = torch.empty(shape, device="meta").stride()
        out[name] = (
            tensor
            if name.endswith("_col")
            else DTensor.from_local(
                tensor, parameter.device_mesh, [Shard(0)], shape=torch.Size(shape), stride=stride
            )
        )
    return out


def _rows(whole: Tensor, parameter: Tensor) -> Tensor:
    """This rank's rows of a whole tensor."""
    if not isinstance(parameter, DTensor) or not Kind.of(parameter).sharded:
        return whole
    mesh = parameter.device_mesh
    # FSDP2 cuts as torch.chunk does: equal parts rounded up, the last ranks may have less or nothing
    size = -(-len(whole) // mesh.size())
    start = min(len(whole), size * mesh.get_local_rank())
    return whole[start : start + len(parameter.to_local())]


def _sum_over_ranks(asked: list[list[Tensor]], sharded: Tensor) -> list[list[Tensor]]:
    """One all-reduce for all that the batches ask for."""
    assert isinstance(sharded, DTensor)
    tensors = [tensor for part in asked for tensor in part]
    # one call: for many small tensors a reduction costs its latency, not its bytes
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat, group=sharded.device_mesh.get_group())
    summed = iter(
        part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)
    )
    return [[next(summed) for _ in part] for part in asked]
