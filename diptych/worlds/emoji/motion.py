"""Clips of the world: what its things do, from frame to frame, sampled from a random generator and rendered.

What is told of a clip (`Story`) is apart from where its things came to be (`Film`), as `Wanted` is apart from
`Scene`. Every kind is there once at most, so that a name says which thing is meant.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from diptych.worlds.emoji.font import find_font, render_glyph
from diptych.worlds.emoji.names import BACKGROUNDS
from diptych.worlds.emoji.scene import EmojiWorld, Wanted, WorldConfig, held_out
from diptych.worlds.emoji.words.grammar import pick

FRAMES, FPS = 8, 4.0
"""Of every clip of training: two seconds."""
SIZE, GLYPH, LATTICE = 64, 18, 4
"""px, as `WorldConfig` has them: the last place of the lattice is at the rim, where things move to."""
BIG = 1.5
"""Size of what has grown, and of what will shrink, as a multiple of the others'."""
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Where a thing moves -> direction (x, y); y grows downwards."""
ACTS = ("move", "jump", "appear", "vanish", "grow", "shrink", "swap")
STORIES = (*ACTS, "then")
"""Types of stories: one act, or two acts of different things, one after the other."""
_SHARES = dict(zip(STORIES, (0.22, 0.18, 0.09, 0.09, 0.09, 0.09, 0.1, 0.14), strict=True))
"""Of stories of any type: those with most ways of going most."""
MOST_JUMPS = 3
MAX_THINGS = 3


@dataclass(frozen=True)
class Act:
    """What a thing does."""

    type: str
    name: str
    way: str = ""
    """Of a move, one of WAYS; it goes to that side of the frame."""
    other: str = ""
    """The thing that one swaps places with."""
    times: int = 1
    """How often one jumps."""

    @property
    def actors(self) -> tuple[str, ...]:
        return (self.name, self.other) if self.other else (self.name,)


@dataclass(frozen=True)
class Story:
    """What is told of a clip: the things in it, those that do something first, and what they do."""

    names: tuple[str, ...]
    acts: tuple[Act, ...]
    background: str | None = None

    @property
    def type(self) -> str:
        return self.acts[0].type if len(self.acts) == 1 else "then"

    @property
    def actors(self) -> tuple[str, ...]:
        return tuple(name for act in self.acts for name in act.actors)

    @property
    def others(self) -> tuple[str, ...]:
        """Things that stay where they are."""
        return tuple(name for name in self.names if name not in self.actors)

    def counts(self) -> Wanted:
        return Wanted(tuple((name, 1) for name in self.names))


class Spot(NamedTuple):
    """Centre and longest side of a glyph in one frame, px."""

    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Track:
    """A thing in every frame; None where it is not there."""

    name: str
    spots: tuple[Spot | None, ...]


@dataclass(frozen=True)
class Film:
    background: str
    tracks: tuple[Track, ...]
    story: Story

    def __len__(self) -> int:
        """Frames."""
        return len(self.tracks[0].spots)

    def at(self, frame: int) -> Iterator[tuple[str, Spot]]:
        """What is there in a frame."""
        for track in self.tracks:
            spot = track.spots[frame]
            if spot is not None:
                yield track.name, spot

    def track(self, name: str) -> Track:
        return next(track for track in self.tracks if track.name == name)


class MovingWorld(EmojiWorld):
    """The kinds of a world, smaller, in frames of clips.

    Raises FontNotFoundError where no colour emoji font is installed.
    """

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.font = find_font()
        moving = replace(config or WorldConfig(), size=SIZE, glyph=GLYPH, lattice=LATTICE)
        super().__init__(moving, self.font)
        self._sized: dict[tuple[str, int], np.ndarray] = {}

    @property
    def big(self) -> int:
        """Longest side of what has grown, px."""
        return round(BIG * self.config.glyph)

    def glyph(self, name: str, size: int) -> np.ndarray:
        """float32 RGBA in 0..1, shape (size, size, 4)."""
        if size == self.config.glyph:
            return self.glyphs[name]
        if (name, size) not in self._sized:
            picture = render_glyph(self.kinds[name].emoji, size, self.font)
            assert picture is not None, f"{name} has a picture at one size alone"
            self._sized[name, size] = picture
        return self._sized[name, size]

    def film(self, film: Film) -> np.ndarray:
        """uint8 RGB, shape (frames, size, size, 3)."""
        side = self.config.size
        canvas = np.empty((len(film), side, side, 3), dtype=np.float32)
        canvas[:] = BACKGROUNDS[film.background]
        for number, frame in enumerate(canvas):
            for name, spot in film.at(number):
                glyph = self.glyph(name, spot.size)
                top, left = spot.y - spot.size // 2, spot.x - spot.size // 2
                area = frame[top : top + spot.size, left : left + spot.size]
                # a view of the canvas: blended in place
                area += glyph[..., 3:] * (glyph[..., :3] - area)
        return (canvas * 255.0 + 0.5).astype(np.uint8)


@functools.cache
def moving_world(config: WorldConfig) -> MovingWorld:
    """The clips' world of a configuration, made once."""
    return MovingWorld(config)


def is_held_out(world: EmojiWorld, story: Story) -> bool:
    """Whether what a thing does, or two things together, are held out of training; two that swap are such a
    pair."""
    return any(map(_act_held_out, story.acts)) or world.is_held_out(story.counts())


def _act_held_out(act: Act) -> bool:
    return act.type != "swap" and held_out("act", act.name, act.way or act.type)


def sample_story(
    world: EmojiWorld, rng: np.random.Generator, type: str | None = None, held: bool = False
) -> Story:
    """A story, of the type if given; with `held`, one in which a thing does what it never does in training,
    or a pair swaps places that is never together there; else no such one."""
    # by rejection, as the facts of stills are: one in ten is held out
    while True:
        chosen = type or str(rng.choice(STORIES, p=list(_SHARES.values())))
        story = _candidate(world, rng, chosen)
        together = world.is_held_out(story.counts())
        if held and story.type != "swap":
            if any(map(_act_held_out, story.acts)) and not together:
                return story
        elif held:
            if together:
                return story
        elif not is_held_out(world, story):
            return story


def _candidate(world: EmojiWorld, rng: np.random.Generator, type: str) -> Story:
    if type not in STORIES:
        raise ValueError(f"a story's type must be one of {', '.join(STORIES)}, got {type!r}")
    acting = 2 if type in ("swap", "then") else 1
    # two that swap places need the whole frame
    others = 0 if type == "swap" else int(rng.choice((0, 1, 1, 2)[: MAX_THINGS + 2 - acting]))
    chosen = rng.choice(len(world.names), size=acting + others, replace=False)
    names = tuple(world.names[i] for i in chosen)
    if type == "then":
        acts = tuple(_act(pick(rng, ACTS[:-1]), name, rng, 1) for name in names[:2])
    else:
        acts = (_act(type, names[0], rng, MOST_JUMPS, names[1] if type == "swap" else ""),)
    background = pick(rng, list(BACKGROUNDS)) if rng.random() < 0.3 else None
    return Story(names, acts, background)


def _act(type: str, name: str, rng: np.random.Generator, most: int, other: str = "") -> Act:
    way = pick(rng, list(WAYS)) if type == "move" else ""
    return Act(type, name, way, other, int(rng.integers(1, most + 1)) if type == "jump" else 1)


def spans(story: Story, frames: int) -> tuple[tuple[int, int], ...]:
    """First and last frame of each act."""
    if len(story.acts) == 1:
        return ((0, frames - 1),)
    return (0, (frames - 1) // 2), (frames // 2, frames - 1)


def film_for(world: MovingWorld, story: Story, rng: np.random.Generator, frames: int = FRAMES) -> Film:
    """A random film that tells a story. No thing touches another in any frame, not even the place of one that
    is yet to appear."""
    box = world.config.box
    parts = [(act, span) for act, span in zip(story.acts, spans(story, frames), strict=True)]
    # after thirty misses of one thing all are placed anew, as in scenes
    while True:
        paths: dict[str, np.ndarray] = {}
        for act, span in [*parts, *((Act("stay", name), (0, frames - 1)) for name in story.others)]:
            for _ in range(30):
                new = _paths(world, act, span, frames, rng)
                if all(_apart(a, b, box - GLYPH) for a in new for b in paths.values()):
                    paths |= zip(act.actors, new, strict=True)
                    break
            else:
                break
        if len(paths) == len(story.names):
            break
    tracks = tuple(_track(name, paths[name], story, frames) for name in story.names)
    return Film(story.background or pick(rng, list(BACKGROUNDS)), tracks, story)


def _track(name: str, path: np.ndarray, story: Story, frames: int) -> Track:
    there = np.ones(frames, dtype=bool)
    for act, span in zip(story.acts, spans(story, frames), strict=True):
        if act.name == name and act.type in ("appear", "vanish"):
            there = (np.arange(frames) >= middle(span)) == (act.type == "appear")
    rows = zip(path.tolist(), there, strict=True)
    return Track(name, tuple(Spot(*row) if seen else None for row, seen in rows))


def middle(span: tuple[int, int]) -> int:
    """The first frame in which what appears is there, and what vanishes is not."""
    return (span[0] + span[1] + 1) // 2


def _apart(a: np.ndarray, b: np.ndarray, gap: int) -> bool:
    """Whether two paths (frames, 3) keep the gap, px, in every frame."""
    away = np.abs(a[:, :2] - b[:, :2]).max(1)
    return bool((away >= (a[:, 2] + b[:, 2]) / 2 + gap).all())


def _paths(
    world: MovingWorld, act: Act, span: tuple[int, int], frames: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Where the actors of an act are, int (frames, 3) each: centre and size."""
    starts, half, box = world._starts, world.config.box // 2, world.config.box
    first, last = span
    share = np.clip((np.arange(frames) - first) / (last - first), 0.0, 1.0)[:, None]
    start = np.array([pick(rng, starts), pick(rng, starts)]) + half
    sizes = np.full(frames, world.config.glyph)
    if act.type == "swap":
        return _swapped(world, share, rng)
    path = np.repeat(start[None], frames, 0).astype(float)
    if act.type == "move":
        axis, forward = (0 if WAYS[act.way][0] else 1), sum(WAYS[act.way]) > 0
        # at least a box from the side that it goes to
        far = [at for at in starts if (at <= starts[-1] - box if forward else at >= box)]
        path[:, axis] = pick(rng, far) + half
        end = path[0].copy()
        end[axis] = half + (starts[-1] if forward else 0)
        path += share * (end - path)
    elif act.type == "jump":
        path[:, 1] = pick(rng, [at for at in starts if at >= box]) + half
        path[first : last + 1, 1] -= box * hops(last - first + 1, act.times)
    elif act.type in ("grow", "shrink"):
        grown = share[:, 0] if act.type == "grow" else 1 - share[:, 0]
        sizes = np.round(sizes + grown * (world.big - sizes)).astype(int)
        room = (world.big + 1) // 2
        path[:] = np.clip(start, room, world.config.size - room)
    return [np.column_stack([np.round(path).astype(int), sizes])]


def hops(frames: int, times: int) -> np.ndarray:
    """Heights in 0..1 of so many jumps in so many frames: on the ground before, after and between them."""
    ground = np.round(np.linspace(0, frames - 1, times + 1)).astype(int)
    height = np.zeros(frames)
    for start, end in itertools.pairwise(ground):
        top = (start + end) // 2
        height[start : top + 1] = np.linspace(0, 1, top - start + 1)
        height[top : end + 1] = np.linspace(1, 0, end - top + 1)
    return height


def _swapped(world: MovingWorld, share: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Two that go half way round each other, so far apart that their boxes do not touch."""
    size, box = world.config.size, world.config.box
    least, most = math.ceil(box * math.sqrt(2)) / 2 + 1, (size - box) / 2
    radius = float(rng.uniform(least, most))
    room = box / 2 + radius
    centre = rng.uniform(room, size - room, 2)
    angle = rng.uniform(0, 2 * math.pi) + math.pi * share
    arm = radius * np.hstack([np.cos(angle), np.sin(angle)])
    sizes = np.full(len(share), world.config.glyph)
    low, high = box // 2, size - box // 2
    return [
        np.column_stack([np.clip(np.round(centre + side * arm), low, high).astype(int), sizes])
        for side in (1, -1)
    ]
