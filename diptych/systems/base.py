"""What every system offers: the one interface between models and all that uses them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from diptych.flow import SamplerConfig
from diptych.request import Media, Message, Plan, Task


class ImageSpace(Protocol):
    """Pictures <-> the tensors that the flow runs in."""

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 pictures (P, 3, height, width) -> targets of the flow."""
        ...

    def decode(self, target: Tensor) -> Tensor: ...

    def shape(self, width: int, height: int, frames: int = 1) -> tuple[int, int, int, int]:
        """(frames, channels, height, width) of the target tensor."""
        ...

    def round_size(self, width: int, height: int) -> tuple[int, int]: ...


class Condition(Protocol):
    """All that is constant across the denoising steps of one batch, computed once."""

    scale: float
    """Standard deviation of the noise to start from."""


class System(Protocol):
    """Draws, and perhaps answers and edits."""

    family: str
    capabilities: frozenset[Task]
    card: dict[str, Any]
    native: int
    """Side, px, of the pictures that the model was trained on."""
    max_side: int
    control: str
    """What a picture attached to a drawing holds ('edges'), or ''."""

    @property
    def space(self) -> ImageSpace: ...

    @property
    def sampler(self) -> SamplerConfig: ...

    @property
    def device(self) -> torch.device: ...

    def accelerate(self) -> None:
        """Make drawing faster, for a system that will not be trained or saved soon."""
        ...

    def parts(self) -> dict[str, nn.Module]:
        """Modules by name, for parameter counts."""
        ...

    def condition(self, plans: Sequence[Plan], media: Sequence[Sequence[Media]]) -> Any: ...

    def velocity(self, x: Tensor, sigma: float, condition: Any) -> Tensor: ...

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """A picture at a size that this system reads."""
        ...

    def answer(self, messages: Sequence[Message]) -> Iterator[str]:
        """The answer to a conversation, piece by piece."""
        ...

    def answers(self, conversations: Sequence[Sequence[Message]]) -> list[str]: ...
