"""Published systems, assembled from the parts below."""

from __future__ import annotations

from pathlib import Path

import torch

from diptych.systems.base import Condition, System
from diptych.systems.folder import ModelFolderError, family
from diptych.systems.u1 import U1System

__all__ = ["Condition", "ModelFolderError", "System", "U1System", "load_system"]


def load_system(folder: Path, device: torch.device | str = "cpu") -> System:
    """The system that a model folder holds: our own folders, or a published SANA pipeline.

    Raises ModelFolderError for a folder that is not whole or of an unknown family.
    """
    name = family(folder)
    if name == "u1":
        return U1System.load(folder, device)
    if name == "sana":
        # diffusers and transformers are imported with it, which the default model does not need
        from diptych.systems.sana import SanaSystem

        return SanaSystem.load(folder, device)
    raise ModelFolderError(f"{folder}: family {name!r} is none of u1, sana")
