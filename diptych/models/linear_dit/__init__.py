"""SANA's linear diffusion transformer."""

from diptych.models.linear_dit.config import PRESETS, LinearDiTConfig
from diptych.models.linear_dit.layers import TextKeyValue
from diptych.models.linear_dit.model import LinearDiT, TextCondition, trim_text

__all__ = ["PRESETS", "LinearDiT", "LinearDiTConfig", "TextCondition", "TextKeyValue", "trim_text"]
