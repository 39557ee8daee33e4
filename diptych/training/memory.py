"""How much memory a SANA run takes, told before anything is loaded: sizes counted on tensors without
storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diptych.data.buckets import buckets
from diptych.models.linear_dit import LinearDiT
from diptych.optim.batches import MIN_EIGHT_BIT
from diptych.optim.build import OptimConfig, is_muon
from diptych.training.sana_config import SanaTrainConfig

CAPTION_TOKENS = 40
"""Text tokens that a batch is counted with; the longest caption of a real one may have more."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process that holds the whole model."""

    weights: int
    gradients: int
    optimiser: int
    ema: int
    activations: int
    """What the backward pass of one micro-batch keeps, and the casted weights where autocast makes them."""
    working: int
    """Gradients of activations that are alive at once: a quarter of what one block keeps, as measured."""

    @property
    def total(self) -> int:
        """The peak: at the start of the backward pass, or at its end, when activations have gone and
        gradients have come."""
        steady = self.weights + self.optimiser + self.ema
        return steady + max(self.activations, self.gradients + 4 * self.working) + self.working


def estimate(config: SanaTrainConfig, factor: int, text_tokens: int = CAPTION_TOKENS) -> Memory:
    """Memory of a run of `config` over an image space that is `factor` times smaller, text encoder and
    autoencoder not counted.

    The forward pass runs on fake tensors, and what autograd keeps for the backward pass is added up;
    recomputed blocks keep their input alone.
    """
    with torch.device("meta"):
        model = LinearDiT(config.model)
    count = sum(p.numel() for p in model.parameters())
    optim = config.stages[0].optim
    state = sum(p.numel() * _state_words(name, p, optim) for name, p in model.named_parameters())
    kept, casts, block = _activations(config, factor, text_tokens)
    lora, size = config.lora_rank > 0, 2 if config.weights == "bfloat16" else 4
    return Memory(
        weights=size * count,
        gradients=0 if lora else size * count,
        optimiser=0 if lora else round(4 * state),
        ema=4 * count if config.ema else 0,
        activations=kept + casts,
        working=block // 4,
    )


def _state_words(name: str, parameter: nn.Parameter, optim: OptimConfig) -> float:
    """Float32 numbers of optimiser state per weight: one for Muon's momentum, two for AdamW; CAME's averages
    of a matrix are few."""
    if optim.name.startswith("came") and parameter.ndim == 2:
        few = (2 * sum(parameter.shape)) / parameter.numel()
        return few + (0.25 if optim.name == "came8bit" and parameter.numel() > MIN_EIGHT_BIT else 1)
    return 1 if is_muon(name, parameter, optim) else 2


def _activations(config: SanaTrainConfig, factor: int, text_tokens: int) -> tuple[int, int, int]:
    """(bytes kept for the backward pass, bytes of casted weights, bytes that one block keeps)."""
    pictures = config.data.pictures_per_step // config.data.accumulate
    bucket = buckets(
        max(r for stage in config.stages for r in stage.resolutions or config.data.resolutions),
        factor * config.model.patch,
    )[0]
    shape = (config.model.channels, bucket.height // factor, bucket.width // factor)
    kept: dict[Any, int] = {}
    casts: dict[Any, int] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        with _default_dtype(getattr(torch, config.weights)):
            model = LinearDiT(config.model)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        weights = {tuple(p.shape) for p in model.parameters() if p.ndim > 1}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                is_weight = tuple(tensor.shape) in weights or tuple(tensor.shape[::-1]) in weights
                (casts if is_weight else kept)[storage._cdata] = storage.nbytes()
                alive.append(storage)
            return tensor

        alive: list[Any] = []
        frames = 2 if config.control else 1
        x = torch.empty(pictures, frames, *shape)
        text = torch.empty(pictures, text_tokens, config.model.caption_channels)
        sizes = []
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=config.bf16),
        ):
            condition = model.condition(text)
            before = sum(kept.values())
            out = model(x, torch.empty(pictures, frames), condition, roles=("target", "control")[:frames])
            sizes.append(sum(kept.values()) - before)
            out.float().square().mean()
        inside = sizes[0] // config.model.depth
        if config.checkpoint_blocks:
            tokens = pictures * frames * (shape[1] * shape[2]) // config.model.patch**2
            entry = tokens * config.model.width * (2 if config.bf16 else 4)
            return before + config.model.depth * entry + inside, sum(casts.values()), inside
        return sum(kept.values()), sum(casts.values()), inside


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules made in this type: fake ones cannot be cast afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
