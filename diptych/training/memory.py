"""How much memory a run takes, told before anything is loaded: sizes counted on tensors without storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from diptych.contracts import Probe
from diptych.optim.batches import MIN_EIGHT_BIT, TOGETHER, TOGETHER_DEFAULT
from diptych.optim.build import OptimConfig, is_muon
from diptych.training.config import RunConfig

GATHERED = 4
"""Blocks that are whole at once where ranks share a model: the one that is computed, the next one on its way,
the buffer that it comes in, and gradients that have not been shared out."""

ROOMS = 5
"""Tensors that CAME works in: weights, gradients, momentum, and two for what lies between."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank; frozen parts (a text encoder, an autoencoder) are not counted."""

    weights: int
    gradients: int
    optimiser: int
    ema: int
    activations: int
    """What the backward pass of one micro-batch keeps, and the casted weights where autocast makes them."""
    working: int
    """Gradients of activations that are alive at once: a quarter of what one block keeps, as measured."""
    gathered: int
    """Whole blocks, where ranks share the model."""

    @property
    def total(self) -> int:
        """The peak: at the start of the backward pass, or at its end, when activations have gone and
        gradients have come."""
        steady = self.weights + self.optimiser + self.ema + self.gathered
        return steady + max(self.activations, self.gradients + 4 * self.working) + self.working


def estimate(config: RunConfig, probe: Probe, ranks: int = 1) -> Memory:
    """Memory of a run of `config`, of which `probe` is a micro-batch, on each of so many ranks.

    The probe's forward pass runs, and what autograd keeps for the backward pass is added up; recomputed
    blocks keep their input alone. Several ranks share weights and states; activations are each rank's own.
    """
    named = dict(probe.model.named_parameters())
    learning = {name: p for name, p in named.items() if p.requires_grad}
    size = 2 if config.weights == "bfloat16" else 4
    count = sum(p.numel() for p in named.values())
    optim = config.stages[0].optim
    state = sum(p.numel() * _state_words(name, p, optim) for name, p in learning.items())
    kept = _kept(config, probe)
    block = max(sum(p.numel() for p in module.parameters()) for module in _large(probe))
    return Memory(
        weights=size * count // ranks,
        gradients=size * sum(p.numel() for p in learning.values()) // ranks,
        optimiser=round(4 * state) // ranks + _rooms(config, sum(p.numel() for p in learning.values())),
        ema=4 * sum(p.numel() for p in learning.values()) // ranks if config.ema else 0,
        activations=kept.total(config.checkpoint_blocks) + sum(kept.casts.values()),
        working=kept.a_block // 4,
        gathered=GATHERED * size * block if ranks > 1 else 0,
    )


def _large(probe: Probe) -> list[nn.Module]:
    """What is gathered by itself."""
    body = cast(nn.Module, probe.body)
    return [*probe.body.blocks, *(body.get_submodule(name) for name in probe.body.facts.apart)]


def _state_words(name: str, parameter: nn.Parameter, optim: OptimConfig) -> float:
    """Float32 numbers of optimiser state per weight: one for Muon's momentum, two for AdamW; CAME's averages
    of a matrix are few."""
    if optim.name.startswith("came") and parameter.ndim == 2:
        few = (2 * sum(parameter.shape)) / parameter.numel()
        return few + (0.25 if optim.name == "came8bit" and parameter.numel() > MIN_EIGHT_BIT else 1)
    return 1 if is_muon(name, parameter, optim) else 2


def _rooms(config: RunConfig, count: int) -> int:
    """Float32 copies of weights, gradients and momentum that CAME works in where weights are in bfloat16."""
    if config.weights == "float32":
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return ROOMS * 4 * min(count, TOGETHER.get(device, TOGETHER_DEFAULT))


@dataclass
class _Kept:
    """What a forward pass keeps for the backward pass, bytes."""

    sizes: dict[Any, int] = field(default_factory=dict)
    """Of each storage."""
    casts: dict[Any, int] = field(default_factory=dict)
    """Weights in the type that autocast computes in, which all blocks keep, recomputed or not."""
    blocks: list[int] = field(default_factory=list)
    """In each block."""
    entries: list[int] = field(default_factory=list)
    """Of each block's input."""

    @property
    def a_block(self) -> int:
        return sum(self.blocks) // len(self.blocks)

    def total(self, recomputed: bool) -> int:
        everything = sum(self.sizes.values())
        if not recomputed:
            return everything
        return everything - sum(self.blocks) + sum(self.entries) + self.a_block


def _kept(config: RunConfig, probe: Probe) -> _Kept:
    kept = _Kept()
    own = {p.untyped_storage()._cdata for p in probe.model.parameters()}
    # autocast makes one of each weight, and an activation may have a weight's shape
    casts = Counter(tuple(p.shape) for p in probe.model.parameters() if p.dtype == torch.float32)
    # a storage that is freed may leave its address to another one
    alive: list[Any] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            shape = next((s for s in (tensor.shape, tensor.shape[::-1]) if casts[tuple(s)]), None)
            new = storage._cdata not in kept.casts and storage._cdata not in kept.sizes
            if new and shape is not None and tensor.dtype == torch.bfloat16 and tensor.ndim > 1:
                casts[tuple(shape)] -= 1
                kept.casts[storage._cdata] = storage.nbytes()
            elif new:
                kept.sizes[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return tensor

    def enter(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        (first, *_) = (value for value in inputs if isinstance(value, Tensor))
        kept.entries.append(probe.block_input * first.element_size())
        kept.blocks.append(-sum(kept.sizes.values()))

    def leave(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        kept.blocks[-1] += sum(kept.sizes.values())

    with ExitStack() as stack:
        for block in probe.body.blocks:
            for hook in (block.register_forward_pre_hook(enter), block.register_forward_hook(leave)):
                stack.callback(hook.remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=config.bf16))
        probe.forward()
    return kept


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules made in this type: those without storage cannot be cast afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
