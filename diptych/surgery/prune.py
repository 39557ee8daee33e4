"""Depth pruning (SANA-1.5, arXiv 2501.18427 section 3.3): blocks that change their input least are left
out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import BlockModel
from diptych.surgery.blocks import Model, with_blocks

READING = "reading"
"""Where a prefix is read, before the first noise level: the understanding stream of a mixture of
transformers."""


@dataclass
class Importance:
    """Sums of 1 - cosine similarity between each token before a block and after it, by block and noise level.

    The importance of a block is the mean over tokens, samples and guidance passes at each noise level, then
    the mean over levels; what is measured while a prefix is read (text and clean pictures, in the
    understanding stream) counts as much as all levels together.
    """

    blocks: int
    sums: dict[str, list[float]] = field(default_factory=dict)
    """Noise level, or READING -> one sum a block."""
    tokens: dict[str, float] = field(default_factory=dict)
    """Noise level, or READING -> tokens that went through each block."""

    @contextmanager
    def watch(self, model: BlockModel) -> Iterator[_Watch]:
        """Measure every pass through the model's blocks; set `.level` to name the noise level that a pass is
        at."""
        watch = _Watch(self)
        hooks = [block.register_forward_hook(watch.hook(index)) for index, block in enumerate(model.blocks)]
        try:
            yield watch
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, level: str, block: int, before: Tensor, after: Tensor) -> None:
        """Tokens (..., C) of one pass. Raises ValueError where they are not finite."""
        change = (1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).double()
        total = float(change.sum())
        if total != total:
            raise ValueError(
                f"block {block} gave values that are not finite at {level}; the model is damaged"
            )
        self.sums.setdefault(level, [0.0] * self.blocks)[block] += total
        if block == 0:
            self.tokens[level] = self.tokens.get(level, 0.0) + change.numel()

    def table(self) -> dict[str, list[float]]:
        """Level -> mean change by each block."""
        return {
            level: [value / self.tokens[level] for value in values] for level, values in self.sums.items()
        }

    def scores(self) -> list[float]:
        """One importance a block. Raises ValueError where nothing was measured."""
        table = self.table()
        levels = [values for level, values in table.items() if level != READING]
        if not levels:
            raise ValueError("nothing was measured: the calibration data is empty")
        drawing = [sum(values) / len(levels) for values in zip(*levels, strict=True)]
        if READING not in table:
            return drawing
        return [(a + b) / 2 for a, b in zip(drawing, table[READING], strict=True)]


class _Watch:
    """Set `level` to the noise level that passes are at."""

    def __init__(self, importance: Importance) -> None:
        self.importance, self.level = importance, READING

    def hook(self, index: int) -> Any:
        def measure(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            # a block takes its streams of tokens first and returns them first; what else it returns (keys and
            # values) is no stream
            outputs = output if isinstance(output, tuple) else (output,)
            streams = list(itertools.takewhile(lambda out: isinstance(out, Tensor), outputs))
            # of several streams the last is what is drawn. A prefix may be read within a step, where it is
            # first needed; no noise is in it, and the last stream is empty
            level = self.level if streams[-1].numel() else READING
            for before, after in zip(inputs, streams, strict=False):
                if before.numel():
                    self.importance.add(level, index, before.detach(), after.detach())

        return measure


def kept_blocks(scores: Sequence[float], depth: int) -> list[int]:
    """The `depth` most important blocks, in their order; of equal ones the earlier. Raises ValueError for no
    smaller depth."""
    if not 1 <= depth < len(scores):
        raise ValueError(
            f"depth must be 1 to {len(scores) - 1}, fewer than the {len(scores)} blocks that the model "
            f"has, got {depth}"
        )
    chosen = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:depth]
    return sorted(chosen)


def prune(model: Model, kept: Sequence[int]) -> Model:
    """A model of the `kept` blocks alone; tensors are shared with the old one.

    Raises ValueError for no block, for blocks that are not there or out of order.
    """
    if not kept:
        raise ValueError("a model needs at least one block, got none to keep")
    if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(model.blocks):
        raise ValueError(f"kept blocks must rise from 0 to {len(model.blocks) - 1} at most, got {list(kept)}")
    return with_blocks(model, list(kept))
