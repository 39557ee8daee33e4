"""What is special to clips, for every system: how what is given is shown, and which frames are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from diptych.contracts import Picture
from diptych.request import Role

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CLIP_ORDER = (Role.REFERENCE, Role.CONTROL, Role.SOURCE, Role.MASK, Role.FIRST, Role.LAST)
"""Order in which a model of clips is shown what is given: what has a place in time comes last."""


def clip_turn(text: str, given: Sequence[tuple[Role, np.ndarray]]) -> tuple[str | Picture, ...]:
    """Parts of a user's turn that asks for a clip: the words, then what is given, pictures (height, width, 3)
    or clips (frames, height, width, 3), each behind the name of its role; a source has none.

    What is given stands behind the words: so it is as far in time from the frames that are drawn as it ever
    is, however long the words are.
    """
    parts: list[str | Picture] = [text]
    for role, pixels in sorted(given, key=lambda one: CLIP_ORDER.index(one[0])):
        parts += [*[f" {role.value}"] * (role is not Role.SOURCE), Picture(pixels)]
    return tuple(parts)


@runtime_checkable
class Accompanied(Protocol):
    """A condition under which more frames are denoised than are drawn."""

    @property
    def beside(self) -> int:
        """How many; they come first in what is denoised, and are cut off in the end."""
        ...


@runtime_checkable
class Holds(Protocol):
    """A condition of clips of which some frames are given, and are to stay as they are; of a system whose
    solver steps along noise levels."""

    @property
    def held(self) -> Mapping[int, Tensor]:
        """Place of a frame among those that are drawn -> its targets (B, C, H, W)."""
        ...
