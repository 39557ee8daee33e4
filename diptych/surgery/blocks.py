"""A model with other blocks: kept, left out, repeated or fresh. All else, tensors included, stays as it
is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from diptych.models.linear_dit import LinearDiT
from diptych.models.mot import MoT

Model = TypeVar("Model", LinearDiT, MoT)
_BLOCKS = "blocks."


def with_blocks(
    model: Model, sources: Sequence[int | None], fresh: Callable[[], dict[str, Tensor]] | None = None
) -> Model:
    """A model of len(sources) blocks: block i holds the tensors of the old block sources[i], or `fresh()`
    where that is None.

    Tensors are shared with the old model where a block is used once, and copied where it is used again.
    Raises ValueError for a model with adapters or in another form than plain weights, as its blocks are not
    what their names say.
    """
    check_plain(model)
    with torch.device("meta"):
        made = type(model)(replace(model.config, depth=len(sources)))
    old = model.state_dict()
    weights = {name: tensor for name, tensor in old.items() if not name.startswith(_BLOCKS)}
    used: set[int] = set()
    for index, source in enumerate(sources):
        if source is None:
            assert fresh is not None
            block = fresh()
        else:
            prefix = f"{_BLOCKS}{source}."
            block = {
                name.removeprefix(prefix): tensor for name, tensor in old.items() if name.startswith(prefix)
            }
            if source in used:
                block = {name: tensor.clone() for name, tensor in block.items()}
            used.add(source)
        weights |= {f"{_BLOCKS}{index}.{name}": tensor for name, tensor in block.items()}
    made.load_state_dict(weights, assign=True)
    return cast(Model, made.train(model.training))


def renamed(name: str, sources: Sequence[int | None]) -> list[str]:
    """Names that a parameter of the old model has in the new one: none where its block has gone, several
    where it is repeated."""
    found = re.search(rf"(?:^|\.){_BLOCKS}(\d+)\.", name)
    if found is None:
        return [name]
    number = found.span(1)
    return [
        f"{name[: number[0]]}{index}{name[number[1] :]}"
        for index, source in enumerate(sources)
        if source == int(found[1])
    ]


def check_plain(model: nn.Module) -> None:
    """Raises ValueError for LoRA-wrapped, packed or quantised models."""
    for name, _ in model.named_parameters():
        if "lora_" in name or ".base_layer." in name:
            raise ValueError(
                f"the model has LoRA adapters ({name}); merge them first (`merge_lora`, or diptych "
                "convert --lora)"
            )
    expected = set(_names(model))
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
            raise ValueError(
                f"{name} is quantised ({str(tensor.dtype).removeprefix('torch.')}); blocks can be "
                "changed in plain weights only"
            )
    if missing := sorted(expected - set(model.state_dict())):
        raise ValueError(
            f"the model has no plain weight {missing[0]} (packed for drawing, or quantised); take the "
            "model as it was loaded"
        )


def _names(model: nn.Module) -> list[str]:
    with torch.device("meta"):
        return list(type(model)(model.config).state_dict())  # type: ignore[call-arg, arg-type]
