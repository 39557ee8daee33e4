"""SenseNova-U1's mixture of transformers."""

from typing import TYPE_CHECKING

from diptych.lazy import attributes
from diptych.models.mot.config import Experts, MoTConfig, by_size, u1_5_8b, u1_8b, u1_a3b

if TYPE_CHECKING:
    from diptych.models.mot.cache import Cache
    from diptych.models.mot.layout import CLEAN, NOISY, PAD, TEXT, Layout, Slots, may_see
    from diptych.models.mot.model import MoT, picture_positions

__all__ = [
    "CLEAN",
    "NOISY",
    "PAD",
    "TEXT",
    "Cache",
    "Experts",
    "Layout",
    "MoT",
    "MoTConfig",
    "Slots",
    "by_size",
    "may_see",
    "picture_positions",
    "u1_5_8b",
    "u1_8b",
    "u1_a3b",
]

# configs need no torch, all else does
__getattr__ = attributes(__name__, ("cache", "layout", "model"))
