"""What a run has trained so far: its averaged weights, as a job, as a system, as a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.contracts import Job, System
from diptych.family import Family, OpenSystem
from diptych.files.typed import read_json
from diptych.files.weights import all_finite
from diptych.training import checkpoint
from diptych.training.identity import CONFIG
from diptych.training.trainer import PARENT

OPTIMISER = "optimiser.safetensors"
"""In a model folder: optimiser state that a run which starts from the model takes over."""


def finished_job(
    family: Family, config: Any, run: Path, open_system: OpenSystem, *, command: str, hardware: str
) -> tuple[Job, dict[str, Any]]:
    """A run's job with the averaged weights of its newest good checkpoint, on the CPU, and what the engine
    knows for the card of what it trained.

    Raises checkpoint.CheckpointError where the run has no whole checkpoint.
    """
    found = _newest(run)
    job = family.job(config, run, open_system)
    job.task.to_empty(device="cpu")
    parameters = dict(job.model.named_parameters())
    found.read("model", parameters)
    # those that learn have an average; the others are the model's own
    found.read("ema", {name: parameters[name] for name in found.names("ema")})
    all_finite(parameters.items(), found.path)
    parent = read_json(run / PARENT) if (run / PARENT).is_file() else None
    about = {
        "name": config.name,
        "command": command + (f" --start {parent['start']}" if parent else ""),
        "hardware": hardware,
        "torch": torch.__version__.split("+")[0],
        "seed": config.seed,
        "steps": found.state["step"],
        "seconds": round(found.state["seconds"]),
        "recipe": read_json(run / CONFIG),
        "parents": [parent["card"]] if parent else [],
    }
    return job, about


def export(
    family: Family,
    config: Any,
    run: Path,
    out: Path,
    open_system: OpenSystem,
    *,
    command: str,
    hardware: str,
) -> System:
    """Write the newest good checkpoint's averaged weights as a model folder, with its card; raises as
    `finished_job`."""
    job, about = finished_job(family, config, run, open_system, command=command, hardware=hardware)
    return family.export(job, about, out)


def exported(family: Family, config: Any, run: Path, open_system: OpenSystem) -> System:
    """The system that a run has trained so far; raises as `finished_job`."""
    job, about = finished_job(
        family, config, run, open_system, command=f"diptych train {config.name}", hardware="not recorded"
    )
    return job.system(about)


def optimiser_state(run: Path) -> dict[str, Tensor]:
    """Optimiser state of the newest good checkpoint, whole, as `training.state` names it."""
    return _newest(run).whole("optimiser")


def _newest(run: Path) -> checkpoint.Checkpoint:
    found = checkpoint.latest(run / "checkpoints")
    if found is None:
        raise checkpoint.CheckpointError(f"{run} has no checkpoint yet")
    return found
