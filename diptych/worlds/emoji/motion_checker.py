"""The exact checker of clips: finds the things of each frame, follows them, and names every mistake.

It knows no film: glyphs are found in each frame as in a picture, what grows at every size that it may have. A
clip is right where nothing of `FAULTS` is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from diptych.worlds.emoji.checker import Checker
from diptych.worlds.emoji.motion import WAYS, Act, Film, MovingWorld, Spot, Story, Track, spans
from diptych.worlds.emoji.shots import Shot

FAULTS = (
    "background",
    "lost",
    "stray",
    "still thing moved",
    "nothing happens",
    "wrong way",
    "too short a way",
    "wrong count",
    "uneven",
    "frozen frame",
    "wrong time",
    "off its place",
    "given frame changed",
    "flicker",
)
"""Mistakes, as `ClipChecker.faults` names them."""
STILL = 3
"""px by which what stays may drift."""
NEAR = 6
"""px by which a thing may miss a place that is given, or the place that an act ends at."""
FLICKER = 6.0
"""Mean change of the background from one frame to the next, in levels of 255."""
FROZEN = 0.2
"""Share of the usual change of a step below which a step shows nothing."""
PINNED = 8.0
"""Mean difference of a frame from the one that was given, in levels of 255; the rest of the frame is checked
by its things."""
_TIMELY = 0.6
"""Share of what an act changes that lies within its frames."""
_THERE = 0.5
"""As in pictures: the squared distance, as a share of a glyph's energy, below which it is there."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What is in a clip."""

    frames: np.ndarray
    backgrounds: tuple[str | None, ...]
    tracks: dict[str, tuple[Spot | None, ...]]
    """Kinds -> where the first of each is found, in every frame."""
    strays: int
    """Frames that show something twice, or something that is no glyph."""


class Verdict(NamedTuple):
    faults: tuple[str, ...]
    """Of FAULTS; () where the clip is right."""
    flicker: float
    """The largest mean change from one frame to the next, in levels of 255, of all that should stay."""


class ClipChecker:
    """Judges clips of a world's size. Deterministic; torch on the CPU."""

    def __init__(self, world: MovingWorld) -> None:
        self.world = world
        self.pictures = Checker(world)

    def see(self, frames: np.ndarray, growing: Sequence[str] = ()) -> Seen:
        """Things in the frames of a clip, uint8 (frames, height, width, 3); those that may be larger than
        others are looked for at every size."""
        backgrounds, rows, strays = [], [], 0
        for frame in frames:
            sized: dict[str, Spot] = {}
            for name in growing:
                spot = self._sized(frame, name)
                if spot is not None:
                    sized[name] = spot
                    frame = _without(frame, spot)
            found = self.pictures.detect(frame)
            backgrounds.append(found.background)
            counts = found.counts() + Counter(list(sized))
            strays += any(count > 1 for count in counts.values()) or any(
                name not in self.world.kinds for name in counts
            )
            size = self.world.config.glyph
            rows.append({f.name: Spot(round(f.x), round(f.y), size) for f in found.found} | sized)
        names = sorted({name for row in rows for name in row if name in self.world.kinds})
        tracks = {name: tuple(row.get(name) for row in rows) for name in names}
        return Seen(frames, tuple(backgrounds), tracks, strays)

    def _sized(self, frame: np.ndarray, name: str) -> Spot | None:
        """A thing that is larger than others, at the size that fits best; None where it is not larger."""
        image = torch.from_numpy(np.ascontiguousarray(frame)).float().permute(2, 0, 1) / 255.0
        bare = image.flatten(1).median(dim=1).values[:, None, None]
        margin = self.world.config.glyph // 3
        padded = F.pad(image - bare, (margin,) * 4)
        best, spot = _THERE, None
        for size in range(self.world.config.glyph, self.world.big + 1):
            glyph = torch.from_numpy(self.world.glyph(name, size)).permute(2, 0, 1)
            template = glyph[3:] * (glyph[:3] - bare)
            cross = F.conv2d(padded[None], template[None])[0, 0]
            window = F.avg_pool2d(padded.square().sum(0)[None, None], size, stride=1)[0, 0] * size**2
            distance = (window - 2 * cross) / template.square().sum() + 1.0
            value = float(distance.min())
            if value < best:
                row, column = divmod(int(distance.argmin()), distance.shape[1])
                half = size // 2 - margin
                best, spot = value, Spot(column + half, row + half, size)
        return spot

    def faults(self, frames: np.ndarray, shot: Shot) -> tuple[str, ...]:
        """Mistakes of a clip that was asked for; () where it is right."""
        return self.judge(frames, shot).faults

    def judge(self, frames: np.ndarray, shot: Shot) -> Verdict:
        """A clip that was asked for, uint8 (frames, size, size, 3). Raises ValueError for one of another
        length."""
        film = shot.film
        if len(frames) != len(film):
            raise ValueError(f"the clip must have {len(film)} frames, got {len(frames)}")
        growing = [track.name for track in film.tracks if len({s.size for s in track.spots if s}) > 1]
        seen = self.see(frames, growing)
        faults = self._surroundings(seen, shot)
        if shot.named and len(shot.placed) == len(film.tracks):
            faults |= self._frozen_tracks(seen, film)
        else:
            faults |= self.story(seen, film.story)
        if shot.named:
            faults |= self._places(seen, [film.track(name) for name in shot.placed])
        elif not _filled(seen, film):
            faults.add("off its place")
        if any(distance(seen.frames[at], self.world.film(film)[at]).mean() > PINNED for at in shot.pinned):
            faults.add("given frame changed")
        found = tuple(fault for fault in FAULTS if fault in faults)
        return Verdict(found, flicker(seen, film.story.actors))

    def _surroundings(self, seen: Seen, shot: Shot) -> set[str]:
        """Background, what should not be there, and what flickers."""
        film, found = shot.film, set(seen.backgrounds)
        # words may leave the background open; what is changed or begun has one
        wanted = {film.background if shot.shows_background else film.story.background} - {None}
        faults = {"background"} if len(found) > 1 or None in found or not wanted <= found else set()
        if seen.strays or set(seen.tracks) - {track.name for track in film.tracks}:
            faults.add("stray")
        return faults | ({"flicker"} if flicker(seen, list(seen.tracks)) > FLICKER else set())

    def _places(self, seen: Seen, tracks: Sequence[Track]) -> set[str]:
        faults = set()
        for track in tracks:
            spots = seen.tracks.get(track.name, (None,) * len(seen.frames))
            there = [(a is None) == (b is None) for a, b in zip(spots, track.spots, strict=True)]
            if not all(there):
                faults.add("lost")
            elif not _follows(spots, track.spots):
                faults.add("off its place")
        return faults

    def _frozen_tracks(self, seen: Seen, film: Film) -> set[str]:
        for track in film.tracks:
            pairs = enumerate(zip(track.spots, track.spots[1:], strict=False))
            steps = [at for at, (one, other) in pairs if one and other and one != other]
            if _frozen(seen, (track.name,), steps):
                return {"frozen frame"}
        return set()

    def story(self, seen: Seen, story: Story) -> set[str]:
        """What a clip does otherwise than it is told."""
        faults = set()
        if seen.strays or set(seen.tracks) - set(story.names):
            faults.add("stray")
        for name in story.names:
            track = seen.tracks.get(name, (None,))
            comes = any(act.name == name and act.type in ("appear", "vanish") for act in story.acts)
            if not any(track) or (not all(track) and not comes):
                faults.add("lost")
            elif (name in story.others or comes) and not _stays([spot for spot in track if spot]):
                faults.add("still thing moved")
        if "lost" not in faults:
            for act, span in zip(story.acts, spans(story, len(seen.frames)), strict=True):
                faults |= self._act(seen, act, span)
        return faults

    def _act(self, seen: Seen, act: Act, span: tuple[int, int]) -> set[str]:
        track = seen.tracks[act.name]
        first, last = span
        if act.type in ("appear", "vanish"):
            there = [spot is not None for spot in track]
            switches = [at for at in range(1, len(there)) if there[at] != there[at - 1]]
            if not switches:
                return {"nothing happens"}
            if len(switches) > 1:
                return {"lost"}
            if there[-1] != (act.type == "appear"):
                return {"wrong way"}
            # between the frames of the act: half of a clip is another's
            return set() if first < switches[0] <= last else {"wrong time"}
        path = _path(track)
        if act.type == "move":
            faults = self._moved(path, act, span)
        elif act.type == "jump":
            faults = self._jumped(path, act, span)
        elif act.type == "swap":
            faults = self._swapped(path, _path(seen.tracks[act.other]))
        else:
            faults = self._grown(path, act, span)
        # a step that is missing makes the others uneven
        if faults <= {"uneven"} and _frozen(seen, act.actors, range(*span)):
            return {"frozen frame"}
        return faults

    def _moved(self, path: np.ndarray, act: Act, span: tuple[int, int]) -> set[str]:
        box, way = self.world.config.box, np.array(WAYS[act.way])
        (first, last), places = span, path[:, :2]
        whole = places[-1] - places[0]
        along, across = float(whole @ way), float(np.abs(whole @ way[::-1]))
        if max(abs(along), across) < box / 4:
            return {"nothing happens"}
        if along <= 0 or across > max(NEAR, along / 2):
            return {"wrong way"}
        rim = box / 2 if sum(way) < 0 else self.world.config.size - box / 2
        if along < 0.75 * box or abs(float(places[-1] @ np.abs(way)) - rim) > NEAR:
            return {"too short a way"}
        share = np.clip((np.arange(len(path)) - first) / (last - first), 0.0, 1.0)
        missed = np.abs(places - (places[0] + share[:, None] * whole)).max()
        step = along / (last - first)
        if missed <= max(4.0, 0.6 * step):
            return set()
        return {"wrong time"} if _within(path, span) < _TIMELY else {"uneven"}

    def _jumped(self, path: np.ndarray, act: Act, span: tuple[int, int]) -> set[str]:
        heights = path[0, 1] - path[:, 1]
        top = float(heights.max())
        if top < self.world.config.box / 4:
            return {"nothing happens" if heights.min() > -self.world.config.box / 4 else "wrong way"}
        if top < 0.6 * self.world.config.box:
            return {"too short a way"}
        if np.abs(path[:, 0] - path[0, 0]).max() > NEAR or abs(heights[-1]) > NEAR or heights.min() < -NEAR:
            return {"wrong way"}
        jumps, up = 0, False
        for height in heights:
            if not up and height >= 0.7 * top:
                jumps, up = jumps + 1, True
            elif up and height <= 0.35 * top:
                up = False
        if jumps != act.times:
            return {"wrong count"}
        return set() if _within(path, span) >= _TIMELY else {"wrong time"}

    def _grown(self, path: np.ndarray, act: Act, span: tuple[int, int]) -> set[str]:
        sizes = path[:, 2] if act.type == "grow" else path[::-1, 2]
        usual = self.world.config.glyph
        if np.abs(path[:, :2] - path[0, :2]).max() > NEAR:
            return {"off its place"}
        if abs(sizes[-1] - sizes[0]) < 0.1 * usual:
            return {"nothing happens"}
        if sizes[-1] < sizes[0]:
            return {"wrong way"}
        if sizes[-1] < 0.85 * self.world.big or sizes[0] > 1.15 * usual:
            return {"too short a way"}
        if np.diff(sizes).min() < -1:
            return {"uneven"}
        return set() if _within(path[:, 2:], span) >= _TIMELY else {"wrong time"}

    def _swapped(self, path: np.ndarray, other: np.ndarray) -> set[str]:
        ways = [np.abs(p[-1, :2] - p[0, :2]).max() for p in (path, other)]
        if max(ways) < self.world.config.box / 4:
            return {"nothing happens"}
        ends = [np.abs(a[-1, :2] - b[0, :2]).max() for a, b in ((path, other), (other, path))]
        if max(ends) > NEAR:
            return {"too short a way"}
        for places in (path, other):
            steps = np.hypot(*np.diff(places[:, :2], axis=0).T)
            if steps.max() > 2.5 * max(1.0, float(np.median(steps))):
                return {"uneven"}
        return set()


def _path(track: Sequence[Spot | None]) -> np.ndarray:
    """float (frames in which it is there, 3): centre and size."""
    return np.array([spot for spot in track if spot is not None], dtype=float)


def _within(path: np.ndarray, span: tuple[int, int]) -> float:
    """Share of the way and growth of a path that lies within a span of frames."""
    steps = np.abs(np.diff(path, axis=0)).sum(1)
    return float(steps[span[0] : span[1]].sum() / max(1e-6, steps.sum()))


def _without(frame: np.ndarray, spot: Spot) -> np.ndarray:
    """The frame with bare background where a thing is."""
    out, half = frame.copy(), spot.size // 2 + 1
    rows, columns = (slice(max(0, c - half), c + half + 1) for c in (spot.y, spot.x))
    out[rows, columns] = np.median(frame.reshape(-1, 3), axis=0)
    return out


def _stays(spots: Sequence[Spot]) -> bool:
    places = np.array([spot[:2] for spot in spots])
    return bool(np.abs(places - np.median(places, axis=0)).max() <= STILL)


def _follows(spots: Sequence[Spot | None], wanted: Sequence[Spot | None]) -> bool:
    """Whether a thing is there when it should be, where it should be, as large as it should be."""
    for spot, other in zip(spots, wanted, strict=True):
        if spot is None or other is None:
            if spot != other:
                return False
            continue
        away = max(abs(spot.x - other.x), abs(spot.y - other.y))
        if away > NEAR or abs(spot.size - other.size) > other.size / 5:
            return False
    return True


def _filled(seen: Seen, film: Film) -> bool:
    """Whether every place that is given is taken, by whatever thing."""
    left = list(seen.tracks.values())
    for track in film.tracks:
        near = [spots for spots in left if _follows(spots, track.spots)]
        if not near:
            return False
        left.remove(near[0])
    return True


def _boxes(seen: Seen, names: Sequence[str], at: int) -> np.ndarray:
    """bool (height, width): where these things are in a frame or in the next."""
    mask = np.zeros(seen.frames.shape[1:3], dtype=bool)
    for name in names:
        for spot in seen.tracks.get(name, ())[at : at + 2]:
            if spot is not None:
                half = spot.size // 2 + 3
                rows, columns = (slice(max(0, c - half), c + half + 1) for c in (spot.y, spot.x))
                mask[rows, columns] = True
    return mask


def _steps(seen: Seen) -> np.ndarray:
    """How much every px changes from each frame to the next, in levels: (frames - 1, height, width)."""
    steps = torch.from_numpy(np.diff(seen.frames.astype(np.float32), axis=0)).permute(0, 3, 1, 2)
    # averaged over 3x3 with their signs, so that pixel noise is no change
    return F.avg_pool2d(steps, 3, stride=1, padding=1).abs().mean(1).numpy()


def flicker(seen: Seen, apart: Sequence[str]) -> float:
    """The largest mean change, in levels of 255, from one frame to the next, of all but these things."""
    worst = 0.0
    for at, change in enumerate(_steps(seen)):
        still = ~_boxes(seen, apart, at)
        if still.any():
            worst = max(worst, float(change[still].mean()))
    return worst


def _frozen(seen: Seen, actors: Sequence[str], steps: Sequence[int]) -> bool:
    """Whether one of these steps shows nothing, measured against the usual one; what is lost has no steps."""
    changes, found = _steps(seen), []
    for at in steps:
        there = _boxes(seen, actors, at)
        if there.any():
            found.append(float(changes[at][there].mean()))
    return bool(found) and min(found) < FROZEN * float(np.median(found))


def distance(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Difference of two pictures uint8, in levels of 255, value by value."""
    return np.abs(frame.astype(np.int16) - other)
