"""SANA's linear diffusion transformer."""

from diptych.models.linear_dit.config import FRAME_ROLES, PRESETS, LinearDiTConfig
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
