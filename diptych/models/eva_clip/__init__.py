"""EVA-CLIP's vision tower (arXiv 2303.15389), under its published names."""

from diptych.models.eva_clip.model import EvaTower, EvaTowerConfig, tower_config

__all__ = ["EvaTower", "EvaTowerConfig", "tower_config"]
