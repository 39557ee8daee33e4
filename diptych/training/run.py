"""From a config to a run: world, sources and tokenizer put together, then the trainer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from diptych.data.mixture import Source
from diptych.data.readers import JsonlSource, TextSource
from diptych.data.tokens import TextTokenizer
from diptych.models.mot.config import CHANNELS, MoTConfig
from diptych.systems import U1System
from diptych.systems.folder import locate
from diptych.systems.lineage import as_parent
from diptych.training import checkpoint
from diptych.training.config import RunConfig, TrainConfig, to_json
from diptych.training.emoji_sources import TASKS, EmojiSource, world_texts
from diptych.training.export import OPTIMISER, PARENT
from diptych.training.joint import VALIDATION_SEED, JointJob
from diptych.training.sana_config import SanaTrainConfig
from diptych.training.trainer import Trainer
from diptych.worlds.emoji import EmojiWorld

VOCABULARY_SAMPLES = 3000


def run(
    config: TrainConfig,
    folder: Path,
    jsonl: Sequence[Path] = (),
    text: Sequence[Path] = (),
    start: str | None = None,
    quiet: bool = False,
) -> Trainer:
    """Train `config` in `folder`, going on where a run there stopped. Prints what it resolved to.

    A new run takes weights and tokenizer from the model `start`, if given, and else starts from fresh ones.
    """
    fresh = checkpoint.latest_step(folder / "checkpoints") is None
    begin = U1System.load(locate(start)) if start is not None and fresh else None
    config = _sized(config, begin.model.config if begin else None, folder)
    world = EmojiWorld(config.world)
    sources: dict[str, Source] = {task: EmojiSource(world, task, config.seed) for task in TASKS}
    validation: dict[str, Source] = {task: EmojiSource(world, task, VALIDATION_SEED) for task in TASKS}
    token = 2 * config.patch
    for path in jsonl:
        sources[path.stem] = JsonlSource(path, seed=config.seed, multiple=token, max_side=config.world.size)
    for path in text:
        sources[path.stem] = TextSource(path, seed=config.seed)
    words = begin.tokenizer if begin else tokenizer(config, world, folder)
    trainer = Trainer(JointJob(config, sources, words, validation), folder, quiet=quiet)
    if begin:
        (folder / PARENT).write_text(
            json.dumps({"start": start, "card": as_parent(begin.card, str(start))}, indent=1) + "\n"
        )
        trainer.begin_from(dict(begin.model.named_parameters()), _optimiser_state(start))
    trainer.log.say(resolved(config, folder))
    trainer.train()
    return trainer


def run_sana(config: SanaTrainConfig, folder: Path, start: str | None = None, quiet: bool = False) -> Trainer:
    """Train `config` in `folder`, going on where a run there stopped. Prints what it resolved to."""
    # diffusers and transformers come with it, which joint runs do not need
    from diptych.training.sana import SanaJob

    if not config.pictures:
        raise ValueError("this recipe needs --pictures, a folder that `diptych data index` was run on")
    trainer = Trainer(SanaJob(config, folder, start), folder, quiet=quiet)
    if start is not None and checkpoint.latest_step(folder / "checkpoints") is None:
        trainer.begin_from(dict(trainer.model.named_parameters()), _optimiser_state(start))
    trainer.log.say(resolved(trainer.config, folder))
    trainer.train()
    return trainer


def _optimiser_state(start: str | None) -> dict[str, Tensor]:
    """What a grown model brings along, or nothing."""
    path = locate(start) / OPTIMISER
    return load_file(path) if path.is_file() else {}


def _sized(config: TrainConfig, start: MoTConfig | None, folder: Path) -> TrainConfig:
    """With the size of the model that the run starts from, or once started from: that one need not be at hand
    any more."""
    if start is not None:
        return replace(config, size=start.width // CHANNELS, depth=start.depth)
    if (folder / PARENT).is_file():
        saved = json.loads((folder / "config.json").read_text())
        return replace(config, size=saved["size"], depth=saved["depth"])
    return config


def tokenizer(config: TrainConfig, world: EmojiWorld, folder: Path) -> TextTokenizer:
    """The run's tokenizer: the one in its folder, or one learnt from the world's texts."""
    path = folder / "tokenizer.json"
    if path.is_file():
        return TextTokenizer.load(path)
    return TextTokenizer.train(world_texts(world, config.seed, VOCABULARY_SAMPLES), config.vocab_size)


def resolved(config: RunConfig, folder: Path) -> str:
    """The resolved config in full, for a reader."""
    return f"run in {folder}\n" + json.dumps(json.loads(to_json(config)))
