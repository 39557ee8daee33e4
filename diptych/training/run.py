"""From a config to a run, whatever it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diptych.family import Family, OpenSystem
from diptych.files.typed import to_json
from diptych.training.trainer import Trainer


def train(
    family: Family, config: Any, folder: Path, open_system: OpenSystem, *, quiet: bool = False
) -> Trainer:
    """Train `config` in `folder`, going on where a run there stopped. Prints what it resolved to: the job may
    have taken the model's size from what the run starts from.

    Raises ValueError for settings that contradict one another, TrainingStopped for a run that stopped itself.
    """
    trainer = Trainer(family.job(config, folder, open_system), folder, quiet=quiet)
    trainer.log.say(f"run in {folder}\n" + json.dumps(json.loads(to_json(trainer.config))))
    trainer.train()
    return trainer
