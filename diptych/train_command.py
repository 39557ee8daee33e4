"""What `diptych train RECIPE` takes. Apart from the other commands, since its configs need torch and theirs
need none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from diptych.training.config import TrainConfig
from diptych.training.sana_config import SanaTrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a recipe; a run that was stopped goes on in the same folder."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    start: str | None = None
    """Model whose weights and tokenizer a new run starts from: 'default', a folder or a hub id."""
    jsonl: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """JSONL file with samples of one's own; its name without ending is its name in a mixture."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Mixture of every stage instead of the recipe's: names and shares, e.g. `--mixture mine 0.5 generate
    0.5`."""
    text: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Plain text file, one sample a paragraph; named likewise."""


@dataclass(frozen=True, kw_only=True)
class SanaTrainCommand:
    """Train a SANA recipe on a folder that `diptych data index` was run on; a run that was stopped goes on in
    the same folder."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    config: Annotated[SanaTrainConfig, tyro.conf.arg(name="")]
    start: str | None = None
    """Model that a new run starts from: a folder of ours, a diffusers pipeline folder or a hub id."""
