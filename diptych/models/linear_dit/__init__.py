"""SANA's linear diffusion transformer."""

from typing import TYPE_CHECKING

from diptych.lazy import attributes
from diptych.models.linear_dit.config import FRAME_ROLES, PRESETS, LinearDiTConfig

if TYPE_CHECKING:
    from diptych.models.linear_dit.layers import TextKeyValue
    from diptych.models.linear_dit.model import FRAME_PARTS, LinearDiT, TextCondition, trim_text

__all__ = [
    "FRAME_PARTS",
    "FRAME_ROLES",
    "PRESETS",
    "LinearDiT",
    "LinearDiTConfig",
    "TextCondition",
    "TextKeyValue",
    "trim_text",
]

# configs need no torch, all else does
__getattr__ = attributes(__name__, ("layers", "model"))
