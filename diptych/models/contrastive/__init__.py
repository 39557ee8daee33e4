"""Pictures and their captions as points that lie close together: a small vision transformer beside a small
text encoder."""

from diptych.models.contrastive.model import Contrastive, ContrastiveConfig, VisionConfig, VisionTower

__all__ = ["Contrastive", "ContrastiveConfig", "VisionConfig", "VisionTower"]
