"""Depth pruning (SANA-1.5, arXiv 2501.18427 section 3.3): blocks that change their input least are left
out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diptych.surgery.blocks import Model, with_blocks

READING = "reading"
"""Where the prefix is read, before the first noise level: the understanding stream of a mixture of
transformers."""


class Importance:
    """Sums of 1 - cosine similarity between each token before a block and after it, by block and noise level.

    The importance of a block is the mean over tokens, samples and guidance passes at each noise level, then
    the mean over levels; what is measured while a prefix is read (text and clean pictures, in the
    understanding stream) counts as much as all levels together.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.sums: dict[str, list[float]] = {}
        self.tokens: dict[str, float] = {}

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[_Watch]:
        """Measure every pass through the model's blocks; set `.level` to name the noise level that a pass is
        at."""
        watch = _Watch(self)
        hooks = [block.register_forward_hook(watch.hook(index)) for index, block in enumerate(model.blocks)]  # type: ignore[arg-type]
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

    def as_dict(self) -> dict[str, Any]:
        return {"blocks": self.blocks, "sums": self.sums, "tokens": self.tokens}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Importance:
        made = cls(values["blocks"])
        made.sums, made.tokens = values["sums"], values["tokens"]
        return made


class _Watch:
    def __init__(self, importance: Importance) -> None:
        self.importance, self.level = importance, READING

    def hook(self, index: int) -> Any:
        def measure(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            # a mixture of transformers has two streams, of which one may be empty
            pairs = (
                zip(inputs[:2], output[:2], strict=True)
                if isinstance(output, tuple)
                else [(inputs[0], output)]
            )
            for before, after in pairs:
                if before.numel():
                    self.importance.add(self.level, index, before.detach(), after.detach())

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
