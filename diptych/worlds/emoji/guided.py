"""Pictures drawn with pictures at hand: edits under a mask, scenes with the thing that a reference shows,
scenes along edges or boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from diptych.request import Role
from diptych.worlds.emoji.captions import sample_scene_facts
from diptych.worlds.emoji.edits import Edit
from diptych.worlds.emoji.names import BACKGROUNDS
from diptych.worlds.emoji.scene import MAX_GLYPHS, EmojiWorld, Placed, Scene, Wanted
from diptych.worlds.emoji.wording import masked_instruction, request
from diptych.worlds.emoji.words.grammar import pick

GUIDED = ("masked", "reference", "edges", "boxes")
_MASKED = ("add", "remove", "replace", "recolour")


@dataclass(frozen=True, eq=False)
class Guided:
    """One such request with all that it takes to judge what comes of it."""

    type: str
    text: str
    given: tuple[tuple[Role, np.ndarray], ...]
    """Pictures, uint8 (size, size, 3), by what they are for."""
    target: Scene
    wanted: Wanted
    """What is asked of the picture as a whole."""
    placed: bool = True
    """Whether every glyph of the target has its place."""
    named: bool = True
    """Whether each place says which glyph stands there."""


def sample_guided(world: EmojiWorld, type: str, rng: np.random.Generator, held: bool = False) -> Guided:
    """A request of one of the types in wide words, `held` in families that no training has; never of a
    combination that is held out."""
    makers = {"masked": _masked, "reference": _reference, "edges": _along, "boxes": _along}
    if type not in makers:
        raise ValueError(f"type must be one of {', '.join(GUIDED)}, got {type!r}")
    while True:
        made = makers[type](world, type, rng, held)
        if made is not None:
            return made


def _masked(world: EmojiWorld, type: str, rng: np.random.Generator, held: bool) -> Guided | None:
    source = world.scene_for(sample_scene_facts(world, rng), rng)
    kind = pick(rng, _MASKED)
    # any glyph, of which there may be several: the mask says which
    old = source.items[int(rng.integers(len(source.items)))]
    others = tuple(item for item in source.items if item is not old)
    name = pick(rng, world.names)
    if kind == "add":
        if len(source.items) >= MAX_GLYPHS:
            return None
        (old,) = world.place([name], rng)
        box = world.config.box
        if any(max(abs(old.x - item.x), abs(old.y - item.y)) < box for item in source.items):
            return None
        others = (*source.items, old)
    elif kind == "recolour":
        was = world.kinds[old.name]
        if not was.shape:
            return None
        name = pick(rng, [n for n in world.shapes if world.kinds[n].shape == was.shape and n != old.name])
    if kind in ("replace", "recolour"):
        if name == old.name:
            return None
        others = (*others, replace(old, name=name))
    target = Scene(source.background, others)
    if world.is_held_out(Wanted(tuple(source.counts().items()))):
        return None
    wanted = Wanted(tuple(target.counts().items()), None, target.background)
    if world.is_held_out(wanted):
        return None
    edit = Edit(kind, "", source, target)
    pictures = ((Role.SOURCE, world.render(source)), (Role.MASK, _mask(world, old, rng)))
    return Guided(type, masked_instruction(world, edit, rng, held), pictures, target, wanted)


def _mask(world: EmojiWorld, item: Placed, rng: np.random.Generator) -> np.ndarray:
    """White where a glyph stands or will stand, a little more on each side, on black."""
    size, box = world.config.size, world.config.box
    left, top, right, bottom = (int(n) for n in rng.integers(0, 7, 4))
    mask = np.zeros((size, size, 3), dtype=np.uint8)
    rows = slice(max(0, item.y - top), item.y + box + bottom)
    columns = slice(max(0, item.x - left), item.x + box + right)
    if rng.random() < 0.8:
        mask[rows, columns] = 255
        return mask
    y, x = np.mgrid[:size, :size] - np.array([item.y, item.x])[:, None, None] - box / 2
    mask[x**2 + y**2 <= (0.72 * box) ** 2] = 255
    return mask


def _reference(world: EmojiWorld, type: str, rng: np.random.Generator, held: bool) -> Guided | None:
    wanted = sample_scene_facts(world, rng)
    if wanted.background is None and rng.random() < 0.3:
        wanted = replace(wanted, background=pick(rng, list(BACKGROUNDS)))
    name = wanted.counts[int(rng.integers(len(wanted.counts)))][0]
    picture = portrait(world, name, rng)
    target = world.scene_for(wanted, rng, main_axis=True)
    text = request(world, wanted, rng, held, shown=name)
    return Guided(type, text, ((Role.REFERENCE, picture),), target, wanted, placed=False)


def portrait(world: EmojiWorld, name: str, rng: np.random.Generator) -> np.ndarray:
    """A thing alone, in a picture of its own, uint8 (size, size, 3)."""
    (alone,) = world.place([name], rng)
    picture = world.render(Scene(pick(rng, list(BACKGROUNDS)), (alone,)))
    if rng.random() < 0.4:
        # taken from nearer: the glyph fills the picture
        size, box = world.config.size, world.config.box
        room = pick(rng, (box, box + box // 4, box + box // 2))
        left = int(np.clip(alone.x - (room - box) // 2, 0, size - room))
        top = int(np.clip(alone.y - (room - box) // 2, 0, size - room))
        near = Image.fromarray(picture[top : top + room, left : left + room])
        picture = np.asarray(near.resize((size, size), Image.Resampling.BICUBIC))
    return picture


def _along(world: EmojiWorld, type: str, rng: np.random.Generator, held: bool) -> Guided | None:
    wanted = replace(sample_scene_facts(world, rng), relation=None)
    target = world.scene_for(wanted, rng)
    picture = edges(world.render(target), rng) if type == "edges" else boxes(world, target, rng)
    text = request(world, wanted, rng, held, along=True)
    given = ((Role.CONTROL, picture),)
    return Guided(type, text, given, target, wanted, named=type == "edges")


def edges(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White lines on black (or black on white, one in six) where a picture uint8 (height, width, 3) changes,
    of one or two px."""
    values = picture.astype(np.int16)
    change = np.zeros(values.shape[:2], dtype=np.int16)
    change[:, :-1] = np.abs(np.diff(values, axis=1)).max(2)
    change[:-1] = np.maximum(change[:-1], np.abs(np.diff(values, axis=0)).max(2))
    line = change > int(rng.integers(24, 56))
    if rng.random() < 0.4:
        line[1:] |= line[:-1].copy()
    lines = np.repeat(np.where(line, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)
    return 255 - lines if rng.random() < 1 / 6 else lines


def boxes(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The boxes of a scene's glyphs on black, see `outlines`."""
    box = world.config.box
    return outlines(world.config.size, [(item.x, item.y, box) for item in scene.items], rng)


def outlines(size: int, squares: Sequence[tuple[int, int, int]], rng: np.random.Generator) -> np.ndarray:
    """Squares (left, top, side) on black: outlines of one or two px, white or each in a colour, or filled."""
    picture = np.zeros((size, size, 3), dtype=np.uint8)
    filled, width, coloured = rng.random() < 0.25, int(rng.integers(1, 3)), rng.random() < 0.3
    for x, y, side in squares:
        colour = rng.integers(96, 256, 3) if coloured else np.array([255, 255, 255])
        picture[y : y + side, x : x + side] = colour
        if not filled:
            picture[y + width : y + side - width, x + width : x + side - width] = 0
    return picture
