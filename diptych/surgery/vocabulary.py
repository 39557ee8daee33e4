"""More words: a model whose vocabulary has grown, and that begins where it was.

What was a run of old tokens is one new token; its embedding is their mean, and so are the weights that
predict it, so that it is never likelier than the likeliest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diptych.surgery.blocks import Model, check_plain, remade, tensors


def extend(model: Model, pieces: Sequence[Sequence[int]]) -> Model:
    """A model with one more token for each of `pieces`, the numbers of the old tokens that it stands for.

    Rows of the old tokens stay what they are, padding behind them too. Raises ValueError for a model that
    has no vocabulary, or is not plain weights.
    """
    if not model.facts.vocabulary:
        raise ValueError("this model has no vocabulary of its own: what reads its prompts does")
    check_plain(model)
    weights = tensors(model)
    for layer in model.facts.vocabulary:
        name = f"{layer}.weight"
        weights[name] = _extended(weights[name], pieces)
    size = len(weights[f"{model.facts.vocabulary[0]}.weight"])
    return remade(model, replace(model.config, vocab_size=size), weights)


def _extended(table: Tensor, pieces: Sequence[Sequence[int]]) -> Tensor:
    # float32: a mean of sixteen-bit rows is rounded once
    means = [table[list(numbers)].float().mean(0).to(table.dtype) for numbers in pieces]
    return torch.cat([table, torch.stack(means)]) if means else table.clone()
