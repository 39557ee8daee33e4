"""Bridges from a language model to a denoiser (BLIP3-o, arXiv 2505.09568; MetaQuery, 2504.06256)."""

from typing import TYPE_CHECKING

from diptych.lazy import attributes
from diptych.models.connector.config import BridgeConfig, ReferenceConfig

if TYPE_CHECKING:
    from diptych.models.connector.model import Bridge, Layered
    from diptych.models.connector.reference import Reference

__all__ = ["Bridge", "BridgeConfig", "Layered", "Reference", "ReferenceConfig"]

# configs need no torch, all else does
__getattr__ = attributes(__name__, ("model", "reference"))
