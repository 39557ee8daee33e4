"""A model of single pictures becomes one that frames of other roles can be attached to; it draws as before
until it is trained."""

from __future__ import annotations

import torch

from diptych.models.linear_dit import LinearDiT, LinearDiTConfig


def with_frames(model: LinearDiT, config: LinearDiTConfig) -> LinearDiT:
    """A model of `config`, which differs from `model`'s in `multi_frame` at most, holding the same tensors;
    new weights are zero.

    Raises ValueError for a config that differs elsewhere.
    """
    with torch.device("meta"):
        grown = LinearDiT(config)
    weights = dict(model.state_dict())
    new = {
        name: torch.zeros(tensor.shape) for name, tensor in grown.state_dict().items() if name not in weights
    }
    if any(not name.endswith(("roles", ".mix", ".beside")) for name in new) or set(weights) - set(
        grown.state_dict()
    ):
        raise ValueError("only multi_frame can be added to a model")
    grown.load_state_dict({**weights, **new}, assign=True)
    return grown
