"""The sources of a joint run: the emoji world's tasks, and files and folders of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from tokenizers import AddedToken

from diptych.contracts import Picture, Sample, Source
from diptych.data.clips import open_clip
from diptych.data.conversations.forms import ANSWER, END_THINK, FORMS, PURPOSES, THINK
from diptych.data.conversations.meta import DataSet, read_meta
from diptych.data.conversations.readers import Films, JsonlSource, Sizes, TextSource, within
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.pictures import resize
from diptych.planning.rewording import Rewording
from diptych.settings import SLIMMEST, Bounds, check_shape, size_between
from diptych.systems.u1.config import MADE, PLAN, WORLD_TASKS, TrainConfig
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.planner import PlanSource, plan_texts
from diptych.systems.u1.words import read_tokenizer
from diptych.worlds.emoji import EmojiWorld, WorldConfig
from diptych.worlds.emoji.motion_source import CLIP_TASKS, MotionSource, motion_texts
from diptych.worlds.emoji.source import TASKS, EmojiSource, world_texts
from diptych.worlds.emoji.table import word_table

VOCABULARY_SAMPLES = 3000
# a seed that nobody picks: the world draws other scenes from it
VALIDATION_SEED = 1_000_001


class Own(Source, Protocol):
    """A source of one's own: so many samples, of which some may be kept."""

    def __len__(self) -> int: ...

    def kept(self) -> Source | None:
        """What is never trained on; None where nothing is kept."""
        ...

    def texts(self, count: int) -> Iterable[str]:
        """What is said in the first samples, to learn a vocabulary from."""
        ...


class Sources(Mapping[str, Source]):
    """Sources by name, each opened when it is first asked for: a run on one's own files needs no emoji font,
    and exporting one needs no files."""

    def __init__(self, openers: Mapping[str, Callable[[], Source]], notes: Iterable[str] = ()) -> None:
        self._openers = dict(openers)
        self._open: dict[str, Source] = {}
        self.notes = tuple(notes)
        """What is worth telling of them when a run begins."""

    def __getitem__(self, name: str) -> Source:
        if name not in self._open:
            self._open[name] = self._openers[name]()
        return self._open[name]

    def __contains__(self, name: object) -> bool:
        # a mapping's own would open the source
        return name in self._openers

    def __iter__(self) -> Iterator[str]:
        return iter(self._openers)

    def __len__(self) -> int:
        return len(self._openers)


@dataclass(frozen=True)
class Fitting:
    """Pictures at the sizes that a model reads and draws: `readers.Sizes` of a conversation."""

    conversation: Conversation
    draw: Bounds
    token: int
    native: int

    def __call__(self, pixels: np.ndarray, *, task: str, drawn: bool, together: int) -> np.ndarray:
        if drawn:
            height, width = pixels.shape[:2]
            if max(height, width) > SLIMMEST * min(height, width):
                raise ValueError(
                    f"a picture of {width}x{height} px is to be drawn, and one side may be at most "
                    f"{SLIMMEST} times the other"
                )
            return resize(pixels, *size_between(width, height, self.token, self.draw))
        purpose = PURPOSES.get(task, ANSWER)
        return self.conversation.fit(pixels, self.token, self.native, purpose, max(1, together))


@dataclass(frozen=True)
class Clips:
    """Clips as a model looks at them and draws them."""

    conversation: Conversation
    token: int
    native: int

    def asked(self, path: Path) -> tuple[str | Picture, ...]:
        """What a request shows of a clip: `readers.Clips`."""
        medium = open_clip(path, self.conversation.clip_frames)
        return self.conversation.shown(medium, self.token, self.native, ANSWER, 1)

    def drawn(self, path: Path) -> np.ndarray:
        """The first frames at the model's own rate and size: `readers.Films`."""
        medium = open_clip(path, self.conversation.drawn_frames, self.conversation.fps)
        if len(medium.frames) == 1:
            raise ValueError(f"{path} shows a single picture at {self.conversation.fps:g} frames a second")
        height, width = medium.frames.shape[1:3]
        check_shape(width, height)
        bounds = Bounds(least=self.token**2, most=(self.conversation.clip_side or self.native) ** 2)
        sides = size_between(width, height, self.token, bounds)
        return np.stack([resize(frame, *sides) for frame in medium.frames])


@cache
def _world(config: WorldConfig) -> EmojiWorld:
    """Made once, as its glyphs take a moment to render. Raises FontNotFoundError without a colour font."""
    return EmojiWorld(config)


def sources_of(config: TrainConfig) -> Sources:
    """All that a run's mixtures may name. Raises ValueError for a name that is none of them and for a list of
    data sets that cannot be used; opening a source, for one that cannot."""
    own, notes = _own_openers(config)
    for stage in (stage for stage in config.stages if stage.steps):
        if unknown := sorted(set(config.shares(stage)) - own.keys() - set(MADE)):
            raise ValueError(
                f"stage {stage.name!r} draws from {unknown[0]!r}, which is neither made on the way "
                f"({', '.join(MADE)}) nor data of one's own: give it with --jsonl {unknown[0]}.jsonl or "
                f"--text {unknown[0]}.txt, or another --mixture"
            )
    return Sources({**_made(config.world, config.seed), **own}, notes)


def kept_sources(config: TrainConfig, sources: Mapping[str, Source]) -> Sources:
    """Sources that no run trains on: the world's tasks from another seed, and what one's own keep, which is
    found out as they are opened."""
    own = [name for name in sources if name not in MADE]

    def kept(name: str) -> Source:
        found = cast(Own, sources[name]).kept()
        return Nothing(name) if found is None else found

    openers: dict[str, Callable[[], Source]] = _made(config.world, VALIDATION_SEED)
    return Sources(
        openers | {name: partial(kept, name) for name in own} if config.data.validation else openers
    )


class Nothing:
    """A source that keeps no samples."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 0

    def draw(self, number: int) -> Sample:
        raise IndexError(f"{self.name} keeps no sample")


def default_shares(config: TrainConfig, sources: Mapping[str, Source]) -> dict[str, float]:
    """Shares of one's own sources by their size: samples, and for a listed data set repeat_time * length."""
    listed = {entry.name: entry for path in config.meta for entry in read_meta(Path(path))}
    shares = {}
    for name in (name for name in sources if name not in MADE):
        entry = listed.get(name)
        # the list's own lengths are taken on trust, as its shares are its author's
        size = 1 if entry is not None and entry.counted else len(cast(Own, sources[name]))
        shares[name] = size * (1.0 if entry is None else entry.share)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def _own_openers(config: TrainConfig) -> tuple[dict[str, Callable[[], Source]], list[str]]:
    conversation = config.conversation or Conversation()
    sizes: Sizes = within(config.model.token, config.world.size)
    clips = Clips(conversation, config.model.token, config.native)
    if config.draw_pixels is not None:
        bounds = Bounds(least=config.draw_pixels[0], most=config.draw_pixels[1])
        sizes = Fitting(conversation, bounds, config.model.token, config.native)
    films = clips.drawn if conversation.drawn_frames else None
    lines = partial(
        JsonlSource,
        seed=config.seed,
        sizes=sizes,
        exact=FORMS[conversation.form].thinks,
        clips=clips.asked if conversation.clip_frames else None,
        films=films,
        validation=config.data.validation,
    )
    openers: dict[str, Callable[[], Source]] = {}
    notes: list[str] = []
    wanted = {name for stage in config.stages for name in config.shares(stage)} - {*config.own, *MADE}
    failed: list[ValueError] = []
    for path in config.meta:
        for entry in _listed(Path(path), failed):
            if entry.name in (*config.own, *MADE, *openers):
                raise ValueError(f"{path}: {entry.name!r} would name two sources of the mixture: rename it")
            openers[entry.name] = partial(
                lines, entry.annotation, media=entry.root, name=entry.name, task=entry.task
            )
            if entry.ignored:
                notes.append(f"{path}: {entry.name}: of no effect here: {', '.join(entry.ignored)}")
    if failed:
        # a run that has its shares by now is exported where its data are not: what is asked of one of these
        # sources says so then
        gone = {name: partial(_refused, failed[0]) for name in sorted(wanted - openers.keys())}
        if not gone:
            raise failed[0]
        openers |= gone
    openers |= {Path(path).stem: partial(lines, Path(path)) for path in config.jsonl}
    openers |= {Path(path).stem: partial(_text, Path(path), config) for path in config.text}
    openers |= {
        Path(path).stem: partial(_captioned, Path(path), config, sizes, films) for path in config.pictures
    }
    return openers, notes


def _listed(path: Path, failed: list[ValueError]) -> list[DataSet]:
    """The data sets of a list; none of one that cannot be used, which is added to the failed ones."""
    try:
        return read_meta(path)
    except ValueError as error:
        failed.append(error)
        return []


def _refused(error: ValueError) -> Source:
    raise error


def _text(path: Path, config: TrainConfig) -> Source:
    return TextSource(path, seed=config.seed, validation=config.data.validation)


def _captioned(path: Path, config: TrainConfig, sizes: Sizes, films: Films | None) -> Source:
    from diptych.data.captioned.index import Index
    from diptych.data.captioned.source import CaptionedSource

    return CaptionedSource(
        Index(path), path.stem, seed=config.seed, sizes=sizes, films=films, validation=config.data.validation
    )


def _made(world: WorldConfig, seed: int) -> dict[str, Callable[[], Source]]:
    def opened(task: str) -> Source:
        made = MotionSource if task in CLIP_TASKS else EmojiSource
        return made(_world(world), task, seed)

    return {PLAN: partial(PlanSource, seed), **{task: partial(opened, task) for task in WORLD_TASKS}}


def world_words(config: TrainConfig) -> Rewording:
    """Those that a model of the emoji world is asked with."""
    return Rewording.of(word_table(config.world))


def vocabulary(config: TrainConfig, sources: Mapping[str, Source]) -> TextTokenizer:
    """The words of a run from scratch: a tokenizer that the config names, with the marks of its conversations
    added where it lacks them, or one that is learnt from the texts of the data, of at most the model's
    `vocab_size` tokens."""
    marks = FORMS[(config.conversation or Conversation()).form].marks
    if config.tokenizer:
        return _named(Path(config.tokenizer), marks)
    names = {name for stage in config.stages for name, share in config.shares(stage).items() if share}
    texts: list[str] = []
    if names & set(TASKS):
        texts += world_texts(_world(config.world), config.seed, VOCABULARY_SAMPLES)
    if names & set(CLIP_TASKS):
        texts += motion_texts(_world(config.world), config.seed, VOCABULARY_SAMPLES // len(CLIP_TASKS))
    if PLAN in names:
        texts += plan_texts(config.seed, VOCABULARY_SAMPLES)
    for name in sorted(names - set(MADE)):
        texts += cast(Own, sources[name]).texts(VOCABULARY_SAMPLES)
    return TextTokenizer.train(texts, config.model.vocab_size, marks)


def _named(path: Path, marks: Sequence[str]) -> TextTokenizer:
    if path.is_dir() and (path / "vocab.json").is_file():
        words = read_tokenizer(path, ())
    else:
        words = TextTokenizer.load(path / "tokenizer.json" if path.is_dir() else path, ())
    for mark in marks:
        if mark not in words.ids:
            # thoughts are shown to a reader, the other marks say nothing
            shown = mark in (THINK, END_THINK)
            words.inner.add_tokens([AddedToken(mark, special=not shown, normalized=False)])
    return TextTokenizer(words.inner, marks)
