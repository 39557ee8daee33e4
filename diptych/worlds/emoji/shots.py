"""Clips that are asked for: from words alone, from a first or last frame, with a reference, along edges,
boxes or paths, and changes of clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from diptych.request import Role, Task
from diptych.worlds.emoji.captions import with_article
from diptych.worlds.emoji.edits import Edit
from diptych.worlds.emoji.guided import edges, outlines, portrait
from diptych.worlds.emoji.motion import (
    FRAMES,
    Act,
    Film,
    MovingWorld,
    Spot,
    Story,
    Track,
    film_for,
    is_held_out,
    sample_story,
)
from diptych.worlds.emoji.motion_words import ordered, told
from diptych.worlds.emoji.names import BACKGROUNDS
from diptych.worlds.emoji.scene import Placed, Scene
from diptych.worlds.emoji.words.grammar import pick

GIVEN_FRAMES = {"first": (Role.FIRST,), "last": (Role.LAST,), "both": (Role.FIRST, Role.LAST)}
CONTROLS = ("edges", "boxes", "paths")
CLIP_EDITS = ("remove", "replace", "recolour", "background", "backwards", "masked")
"""'masked' is one of the first three, of the thing that a mask follows."""
SHOTS = {
    "text": Task.TEXT_TO_CLIP,
    **dict.fromkeys(GIVEN_FRAMES, Task.IMAGE_TO_CLIP),
    "reference": Task.REFERENCE_TO_CLIP,
    **dict.fromkeys(CLIP_EDITS, Task.EDIT_CLIP),
    **dict.fromkeys(CONTROLS, Task.CONTROL_TO_CLIP),
}
"""Type of a shot -> its task."""
_REVERSED = {"appear": "vanish", "vanish": "appear", "grow": "shrink", "shrink": "grow"}
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclass(frozen=True, eq=False)
class Shot:
    """One request for a clip with all that it takes to judge what comes of it."""

    type: str
    text: str
    film: Film
    """What is asked for, or, where places are left open, one of the clips that would do."""
    given: tuple[tuple[Role, np.ndarray], ...] = ()
    """Pictures (size, size, 3) and clips (frames, size, size, 3), uint8, by what they are for."""
    placed: tuple[str, ...] = ()
    """Things whose place is given in every frame."""
    named: bool = True
    """Whether each place says which thing is there."""
    pinned: tuple[int, ...] = ()
    """Frames that are given, as they are to be."""

    @property
    def task(self) -> Task:
        return SHOTS[self.type]

    @property
    def shows_background(self) -> bool:
        """Whether the background is that of what is given."""
        return self.task in (Task.IMAGE_TO_CLIP, Task.EDIT_CLIP)


class Words(Protocol):
    """Plain words, or wide ones (`motion_wording.Wide`)."""

    def told(self, story: Story, along: bool = False) -> str: ...

    def ordered(self, story: Story, shown: str | None = None) -> str: ...

    def changed(self, edit: Edit, masked: bool = False) -> str: ...


class Plain:
    """The benchmark's words."""

    def __init__(self, world: MovingWorld, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng

    def told(self, story: Story, along: bool = False) -> str:
        return told(story)

    def ordered(self, story: Story, shown: str | None = None) -> str:
        return ordered(story, shown)

    def changed(self, edit: Edit, masked: bool = False) -> str:
        if edit.type == "backwards":
            return pick(self.rng, ("play it backwards", "reverse the clip"))
        if edit.type == "background":
            name = edit.target.background
            return pick(self.rng, (f"change the background to {name}", f"make the background {name}"))
        old, new = exchanged(edit)
        it = "it" if masked else f"the {old}"
        if edit.type == "remove":
            return pick(self.rng, (f"remove {it}", f"take {it} away"))
        if edit.type == "recolour":
            colour = self.world.kinds[new].colour
            return pick(self.rng, (f"make {it} {colour}", f"paint {it} {colour}"))
        a = with_article(new)
        return pick(self.rng, (f"replace {it} with {a}", f"turn {it} into {a}"))


def exchanged(edit: Edit) -> tuple[str, str]:
    """The kind that goes and the kind that comes; '' where there is none."""
    before, after = edit.source.counts(), edit.target.counts()
    return next(iter(before - after), ""), next(iter(after - before), "")


def sample_shot(
    world: MovingWorld,
    type: str,
    rng: np.random.Generator,
    words: Words | None = None,
    held: bool = False,
    story: str | None = None,
    frames: int = FRAMES,
) -> Shot:
    """A request of the type for a clip. `held`: of something that no training shows, else never of such.
    `story`: the type of what it tells; not every one can be changed in every way."""
    if type not in SHOTS:
        raise ValueError(f"a shot's type must be one of {', '.join(SHOTS)}, got {type!r}")
    words = words or Plain(world, rng)
    make = _MAKERS[SHOTS[type]]
    while True:
        told = sample_story(world, rng, story, held)
        shot = make(world, type, film_for(world, told, rng, frames), words, rng)
        # a change may make something that is held out of what is not, and the reverse
        if shot is not None and is_held_out(world, shot.film.story) == held:
            return shot


def _from_words(
    world: MovingWorld, type: str, film: Film, words: Words, rng: np.random.Generator
) -> Shot | None:
    return Shot(type, words.told(film.story), film)


def _from_frames(
    world: MovingWorld, type: str, film: Film, words: Words, rng: np.random.Generator
) -> Shot | None:
    roles, shown = GIVEN_FRAMES[type], world.film(film)
    pinned = tuple(0 if role is Role.FIRST else len(film) - 1 for role in roles)
    given = tuple((role, shown[at]) for role, at in zip(roles, pinned, strict=True))
    return Shot(type, words.ordered(film.story), film, given, pinned=pinned)


def _from_reference(
    world: MovingWorld, type: str, film: Film, words: Words, rng: np.random.Generator
) -> Shot | None:
    name = pick(rng, film.story.names)
    return Shot(
        type,
        words.ordered(film.story, shown=name),
        film,
        ((Role.REFERENCE, portrait(world, name, rng)),),
    )


def _along(world: MovingWorld, type: str, film: Film, words: Words, rng: np.random.Generator) -> Shot | None:
    # one style for the whole clip: a generator that begins anew draws each frame alike
    style = int(rng.integers(2**32))
    if type == "paths":
        control = _paths(world, film)
        if control is None:
            return None
    elif type == "edges":
        control = np.stack([edges(frame, np.random.default_rng(style)) for frame in world.film(film)])
    else:
        squares = [[_square(world, spot) for _, spot in film.at(frame)] for frame in range(len(film))]
        control = np.stack(
            [outlines(world.config.size, part, np.random.default_rng(style)) for part in squares]
        )
    placed = film.story.actors if type == "paths" else film.story.names
    text = words.told(film.story, along=type != "paths")
    return Shot(type, text, film, ((Role.CONTROL, control),), placed, named=type != "boxes")


def _paths(world: MovingWorld, film: Film) -> np.ndarray | None:
    """In every frame the ways of what moves, gray on black, and where each is, white; None where nothing
    moves."""
    size, moving = world.config.size, [t for t in film.tracks if t.name in film.story.actors]
    ways = [[(spot.x, spot.y) for spot in track.spots if spot is not None] for track in moving]
    if not all(len(set(way)) > 1 for way in ways):
        return None
    out = []
    for frame in range(len(film)):
        picture = Image.new("RGB", (size, size))
        pen = ImageDraw.Draw(picture)
        for way in ways:
            pen.line(way, fill=(128, 128, 128), width=2)
            x, y = way[frame]
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(255, 255, 255))
        out.append(np.asarray(picture))
    return np.stack(out)


def _changed(
    world: MovingWorld, type: str, film: Film, words: Words, rng: np.random.Generator
) -> Shot | None:
    kind = pick(rng, CLIP_EDITS[:3]) if type == "masked" else type
    target = _target(world, kind, film, rng)
    if target is None:
        return None
    edit = Edit(kind, "", _scene(film), _scene(target))
    given = [(Role.SOURCE, world.film(film))]
    if type == "masked":
        given.append((Role.MASK, _mask(world, film.track(exchanged(edit)[0]))))
    text = words.changed(edit, type == "masked")
    return Shot(type, text, target, tuple(given), target.story.names)


def _mask(world: MovingWorld, track: Track) -> np.ndarray:
    """White where a thing is, on black: uint8 (frames, size, size, 3)."""
    mask = np.zeros((len(track.spots), world.config.size, world.config.size, 3), dtype=np.uint8)
    for frame, spot in zip(mask, track.spots, strict=True):
        if spot is not None:
            left, top, side = _square(world, spot)
            frame[top : top + side, left : left + side] = 255
    return mask


def _square(world: MovingWorld, spot: Spot) -> tuple[int, int, int]:
    """Left, top and side of a thing's box, px."""
    rim = (world.config.box - world.config.glyph) // 2
    return spot.x - spot.size // 2 - rim, spot.y - spot.size // 2 - rim, spot.size + 2 * rim


def _scene(film: Film) -> Scene:
    """All that is ever there: what an instruction may name."""
    return Scene(film.background, tuple(Placed(track.name, 0, 0) for track in film.tracks))


def _target(world: MovingWorld, type: str, film: Film, rng: np.random.Generator) -> Film | None:
    story = film.story
    if type == "background":
        name = pick(rng, [name for name in BACKGROUNDS if name != film.background])
        return replace(film, background=name, story=replace(story, background=None))
    if type == "backwards":
        return _backwards(film)
    name = pick(rng, story.names)
    if type == "remove":
        # of a swap one alone would be left, that goes in a half circle: nothing that a story tells of
        if len(story.names) == 1 or story.type == "swap":
            return None
        acts = tuple(act for act in story.acts if act.name != name)
        left = Story(tuple(n for n in story.names if n != name), acts, story.background)
        return Film(film.background, tuple(t for t in film.tracks if t.name != name), left)
    kind = world.kinds[name]
    if type == "recolour":
        if not kind.shape:
            return None
        options = [n for n in world.shapes if world.kinds[n].shape == kind.shape]
    else:
        options = list(world.names)
    new = pick(rng, options)
    return None if new in story.names else _renamed(film, name, new)


def _renamed(film: Film, old: str, new: str) -> Film:
    def named(name: str) -> str:
        return new if name == old else name

    story = film.story
    acts = tuple(replace(act, name=named(act.name), other=named(act.other)) for act in story.acts)
    renamed = Story(tuple(map(named, story.names)), acts, story.background)
    return Film(film.background, tuple(Track(named(t.name), t.spots) for t in film.tracks), renamed)


def _backwards(film: Film) -> Film | None:
    story = film.story
    # a jump backwards is a jump
    if all(act.type == "jump" for act in story.acts):
        return None
    acts = tuple(_reversed(act) for act in story.acts[::-1])
    tracks = tuple(Track(track.name, track.spots[::-1]) for track in film.tracks)
    return Film(film.background, tracks, replace(story, acts=acts))


def _reversed(act: Act) -> Act:
    return replace(act, type=_REVERSED.get(act.type, act.type), way=_OPPOSITE.get(act.way, ""))


_Maker = Callable[[MovingWorld, str, Film, Words, np.random.Generator], Shot | None]
_MAKERS: dict[Task, _Maker] = {
    Task.TEXT_TO_CLIP: _from_words,
    Task.IMAGE_TO_CLIP: _from_frames,
    Task.REFERENCE_TO_CLIP: _from_reference,
    Task.EDIT_CLIP: _changed,
    Task.CONTROL_TO_CLIP: _along,
}
