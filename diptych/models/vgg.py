"""What a picture looks like to VGG (arXiv 1409.1556), for the perceptual loss LPIPS (arXiv 1801.03924).

The layers are read off a file with torchvision's names, `features.N.weight` and `.bias`: a step of two from
one convolution to the next is a ReLU between them, a step of three a ReLU and a 2x2 max pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.files.weights import open_weights

# ImageNet's mean and deviation, per channel
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LINEAR = "lin{}.model.1.weight"
"""LPIPS's own names for what it weighs the channels of a stage by."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Convolutions with a ReLU each, between two poolings."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    """Weight (out, in, 3, 3) and bias (out,) of each."""
    channels: Tensor | None
    """Weight (C, 1, 1) of each channel's difference; None: all alike."""

    def to(self, device: torch.device) -> Stage:
        layers = tuple((weight.to(device), bias.to(device)) for weight, bias in self.layers)
        return Stage(layers, None if self.channels is None else self.channels.to(device))

    def __call__(self, x: Tensor) -> Tensor:
        for weight, bias in self.layers:
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
        return x


class Perceptual:
    """distance(a, b): how different pictures look to the network. Nothing in it learns, so it is no module of
    the model that it judges."""

    def __init__(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Raises ValueError, which names `where`, for weights of another network."""
        numbers = sorted(int(n) for name in weights if (n := _number(name)))
        steps = [after - before for before, after in pairwise(numbers)]
        if not numbers or numbers[0] or set(steps) - {2, 3}:
            raise ValueError(
                f"{where} is no VGG in torchvision's names: features.0.weight and on are needed, of a "
                "network without batch norms"
            )
        groups: list[list[tuple[Tensor, Tensor]]] = [[]]
        for number, step in zip(numbers, [*steps, 2], strict=True):
            weight, bias = weights[f"features.{number}.weight"], weights.get(f"features.{number}.bias")
            if weight.ndim != 4 or weight.shape[2:] != (3, 3) or bias is None:
                raise ValueError(f"{where}: features.{number} is no 3x3 convolution with a bias")
            groups[-1].append((weight.float(), bias.float()))
            if step == 3:
                groups.append([])
        linear = [weights.get(_LINEAR.format(place)) for place in range(len(groups))]
        self.stages = [
            Stage(tuple(group), None if scale is None else scale.float().flatten()[:, None, None])
            for group, scale in zip(groups, linear, strict=True)
        ]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """(P,): mean over places, summed over stages, of squared differences of features whose length over
        the channels is one. Pictures (P, 3, height, width), -1 black to 1 white; differentiable in both."""
        if self.stages[0].layers[0][0].device != first.device:
            self.stages = [stage.to(first.device) for stage in self.stages]
        total = first.new_zeros(len(first))
        a, b = (_normalised(pictures) for pictures in (first, second))
        for place, stage in enumerate(self.stages):
            if place:
                # a picture of a few px has nothing left to pool in the last stages
                if min(a.shape[-2:]) < 2:
                    break
                a, b = F.max_pool2d(a, 2), F.max_pool2d(b, 2)
            a, b = stage(a), stage(b)
            squares = (_unit(a) - _unit(b)).square()
            if stage.channels is not None:
                squares = squares * stage.channels
            total = total + squares.sum(1).mean((1, 2))
        return total


def open_perceptual(path: Path) -> Perceptual:
    """Raises ValueError for a file that is missing, is no safetensors file, or holds another network."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a .safetensors file of a VGG is needed")
    return Perceptual(open_weights(path.parent, path.stem), str(path))


def _number(name: str) -> str:
    first, _, rest = name.partition(".")
    number, _, kind = rest.partition(".")
    return number if first == "features" and kind == "weight" and number.isdecimal() else ""


def _normalised(pictures: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, device=pictures.device)[:, None, None] for v in (_MEAN, _STD))
    return (pictures.float() / 2 + 0.5 - mean) / std


def _unit(features: Tensor) -> Tensor:
    # under the root as well: its slope at zero is infinite
    return features / (features.square().sum(1, keepdim=True) + 1e-20).sqrt().add(1e-10)
