"""Published systems, assembled from the parts below."""

from diptych.systems.folder import ModelFolderError
from diptych.systems.u1 import Condition, U1System

__all__ = ["Condition", "ModelFolderError", "U1System"]
