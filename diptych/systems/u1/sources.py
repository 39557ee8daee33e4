"""The sources of a joint run: the emoji world's tasks and files of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path

from diptych.contracts import Source
from diptych.data.conversations.readers import JsonlSource, TextSource
from diptych.data.conversations.tokens import TextTokenizer
from diptych.systems.u1.config import TrainConfig
from diptych.worlds.emoji import EmojiWorld, WorldConfig
from diptych.worlds.emoji.source import TASKS, EmojiSource, world_texts

VOCABULARY_SAMPLES = 3000
# a seed that nobody picks: the world draws other scenes from it
VALIDATION_SEED = 1_000_001


class Sources(Mapping[str, Source]):
    """Sources by name, each opened when it is first asked for: a run on one's own files needs no emoji font,
    and exporting one needs no files."""

    def __init__(self, openers: Mapping[str, Callable[[], Source]]) -> None:
        self._openers = dict(openers)
        self._open: dict[str, Source] = {}

    def __getitem__(self, name: str) -> Source:
        if name not in self._open:
            self._open[name] = self._openers[name]()
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._openers)

    def __len__(self) -> int:
        return len(self._openers)


@cache
def _world(config: WorldConfig) -> EmojiWorld:
    """Made once, as its glyphs take a moment to render. Raises FontNotFoundError without a colour font."""
    return EmojiWorld(config)


def sources_of(config: TrainConfig) -> Sources:
    """All that a run's mixtures may name. Raises ValueError for a name that is none of them; opening one, for
    a file that cannot be used."""
    given = {Path(path).stem for path in (*config.jsonl, *config.text)}
    for stage in (stage for stage in config.stages if stage.steps):
        if unknown := sorted(set(config.shares(stage)) - given - set(TASKS)):
            raise ValueError(
                f"stage {stage.name!r} draws from {unknown[0]!r}, which is no task of the emoji world "
                f"({', '.join(TASKS)}) and no file: give it with --jsonl {unknown[0]}.jsonl or --text "
                f"{unknown[0]}.txt, or another --mixture"
            )
    jsonl = partial(JsonlSource, seed=config.seed, multiple=config.model.token, max_side=config.world.size)
    return Sources(
        {
            **_world_openers(config.world, config.seed),
            **{Path(path).stem: partial(jsonl, Path(path)) for path in config.jsonl},
            **{Path(path).stem: partial(TextSource, Path(path), seed=config.seed) for path in config.text},
        }
    )


def kept_sources(config: TrainConfig) -> Sources:
    """Sources that no run trains on: the world's tasks from another seed."""
    return Sources(_world_openers(config.world, VALIDATION_SEED))


def _world_openers(world: WorldConfig, seed: int) -> dict[str, Callable[[], Source]]:
    def opened(task: str) -> Source:
        return EmojiSource(_world(world), task, seed)

    return {task: partial(opened, task) for task in TASKS}


def vocabulary(config: TrainConfig) -> TextTokenizer:
    """A tokenizer learnt from the world's texts, of at most the model's `vocab_size` tokens."""
    texts = world_texts(_world(config.world), config.seed, VOCABULARY_SAMPLES)
    return TextTokenizer.train(texts, config.model.vocab_size)
