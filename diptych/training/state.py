"""State of optimisers under flat names, 'index|parameter|entry', as checkpoints and grown models hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from diptych.optim import CAME
from diptych.training.ranks import local, share

Optimisers = Sequence[torch.optim.Optimizer]
Names = Mapping[Tensor, str]


def exported(optimisers: Optimisers, names: Names) -> dict[str, Tensor]:
    """All state, in tensors of the parameters' layout: sharded where they are. Float32."""
    return {
        f"{index}|{names[parameter]}|{entry}": value
        for index, parameter, optimiser in _members(optimisers)
        if parameter in optimiser.state
        for entry, value in _entries(optimiser, parameter).items()
    }


def _entries(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    if isinstance(optimiser, CAME):
        return optimiser.export_state(parameter)
    return {name: _with_axis(value) for name, value in optimiser.state[parameter].items()}


def _with_axis(value: Tensor) -> Tensor:
    # AdamW counts its steps in a number, which no file of shards can hold
    return value.view(1) if value.ndim == 0 else value


def empty(optimisers: Optimisers, names: Names, known: Callable[[str], bool]) -> dict[str, Tensor]:
    """Tensors to read state into, for those of the flat names that are `known`: not filled."""
    return {
        flat: value
        for index, parameter, optimiser in _members(optimisers)
        for entry, value in _template(optimiser, parameter).items()
        if known(flat := f"{index}|{names[parameter]}|{entry}")
    }


def _template(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    if isinstance(optimiser, CAME):
        return optimiser.empty_state(parameter)
    moment = {"exp_avg", "exp_avg_sq"} if isinstance(optimiser, torch.optim.AdamW) else {"momentum_buffer"}
    count = {"step": torch.empty(1)} if isinstance(optimiser, torch.optim.AdamW) else {}
    return {**count, **{name: torch.empty_like(parameter, requires_grad=False) for name in sorted(moment)}}


def restore(optimisers: Optimisers, names: Names, tensors: Mapping[str, Tensor]) -> None:
    """Take state as `exported` gives it. The tensors become the optimisers' own."""
    found: dict[tuple[int, str], dict[str, Tensor]] = {}
    for flat, tensor in tensors.items():
        index, name, entry = flat.split("|")
        found.setdefault((int(index), name), {})[entry] = tensor
    for owner, parameter, optimiser in _members(optimisers):
        entries = found.get((owner, names[parameter]), {})
        if entries and isinstance(optimiser, CAME):
            optimiser.import_state(parameter, entries)
        elif entries:
            if "step" in entries:
                entries["step"] = entries["step"].view(())
            optimiser.state[parameter] = entries


@torch.no_grad()
def begin(optimisers: Optimisers, names: Names, whole: Mapping[str, Tensor]) -> bool:
    """Take whole tensors that another model's run left, each rank its share, one at a time; parameters
    without any begin anew. False, and nothing taken, where they are of other optimisers or parameters."""
    wanted = empty(optimisers, names, set(whole).__contains__)
    if set(whole) - set(wanted):
        return False
    if any(_with_axis(whole[name]).shape != target.shape for name, target in wanted.items()):
        return False
    for name, target in wanted.items():
        local(target).copy_(share(_with_axis(whole[name]), target))
    restore(optimisers, names, wanted)
    return True


def _members(optimisers: Optimisers) -> Iterator[tuple[int, Tensor, torch.optim.Optimizer]]:
    for index, optimiser in enumerate(optimisers):
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                yield index, parameter, optimiser
