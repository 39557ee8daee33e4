"""A model with other blocks: kept, left out, repeated or fresh. All else, tensors included, stays as it
is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from diptych.contracts import BlockModel
from diptych.models.meta import without_storage

Model = TypeVar("Model", bound=BlockModel)
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
    old = tensors(model)
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
            # two blocks of one tensor would be trained as one
            if source in used:
                block = {name: tensor.clone() for name, tensor in block.items()}
            used.add(source)
        weights |= {f"{_BLOCKS}{index}.{name}": tensor for name, tensor in block.items()}
    return remade(model, replace(model.config, depth=len(sources)), weights)


def remade(model: Model, config: Any, weights: Mapping[str, Tensor]) -> Model:
    """A model of the same class and another config that holds these very tensors, all of its own."""
    made = empty(model, config)
    made.load_state_dict(weights, assign=True)
    return cast(Model, made.train(cast(nn.Module, model).training))


def empty(model: BlockModel, config: Any) -> nn.Module:
    """A model of the same class and this config, on the meta device: names and shapes, no storage."""
    with without_storage():
        return cast(nn.Module, type(model)(config))  # type: ignore[call-arg]


def tensors(model: BlockModel) -> dict[str, Tensor]:
    """All tensors of a model by name, detached."""
    return cast(nn.Module, model).state_dict()


def is_one_of(name: str, chosen: Sequence[str]) -> bool:
    """Whether a module's name within its block is one of those that a model's facts give: the whole name, or
    its last parts ('down' is every expert's 'ffn.experts.3.down' as well)."""
    return any(name == one or name.endswith(f".{one}") for one in chosen)


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


def check_plain(model: BlockModel) -> None:
    """Raises ValueError for LoRA-wrapped, packed or quantised models."""
    found = tensors(model)
    for name in found:
        if "lora_" in name or ".base_layer." in name:
            raise ValueError(
                f"the model has LoRA adapters ({name}); merge them first (`merge_lora`, or diptych "
                "convert --lora)"
            )
    for name, tensor in found.items():
        # integers, and floats of eight bits whose scales lie elsewhere
        if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
            raise ValueError(
                f"{name} is quantised ({str(tensor.dtype).removeprefix('torch.')}); blocks can be "
                "changed in plain weights only"
            )
    # a packed layer keeps its weight as a plain attribute, which is neither parameter nor buffer
    module = cast(nn.Module, model)
    held = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    held |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    if missing := sorted(set(empty(model, model.config).state_dict()) - held):
        raise ValueError(
            f"the model has no plain weight {missing[0]} (packed for drawing, or quantised); take the "
            "model as it was loaded"
        )
