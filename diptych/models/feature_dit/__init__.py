"""Diffusion transformer over feature vectors (BLIP3-o, arXiv 2505.09568)."""

from typing import TYPE_CHECKING

from diptych.lazy import attributes
from diptych.models.feature_dit.config import PRESETS, FeatureDiTConfig

if TYPE_CHECKING:
    from diptych.models.feature_dit.convert import FromPublished, config_of, to_published
    from diptych.models.feature_dit.model import FeatureCondition, FeatureDiT

__all__ = [
    "PRESETS",
    "FeatureCondition",
    "FeatureDiT",
    "FeatureDiTConfig",
    "FromPublished",
    "config_of",
    "to_published",
]

# configs need no torch, all else does
__getattr__ = attributes(__name__, ("model", "convert"))
