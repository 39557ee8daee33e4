"""Diptych: train, grow, prune, judge and serve models that both see and draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diptych.inference import Pipeline

__version__ = "0.1.0"


def load(name: str | Path | None = None, device: str | None = None, dtype: str = "auto") -> Pipeline:
    """A model ready to run: the shipped one, a folder, or 'hf:owner/name' of the hub. `dtype` of its weights:
    'float32', 'bfloat16', or 'auto': as its family keeps them (models of ours float32, published ones
    bfloat16).

    Raises ValueError for another type, and files.folder.ModelFolderError for a folder that is not whole or
    of an unknown kind.
    """
    # torch is imported here, so that `import diptych` and the planner start at once
    import torch

    from diptych.files.folder import DEFAULT
    from diptych.inference import Pipeline
    from diptych.systems.registry import open_system

    dtypes = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise ValueError(f"dtype must be one of {', '.join(dtypes)}, got {dtype!r}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    system = open_system(DEFAULT if name is None else name, device, dtypes[dtype])
    system.accelerate()
    return Pipeline(system)
