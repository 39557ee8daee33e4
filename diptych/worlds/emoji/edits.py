"""Edits: an instruction, the scene before it and the scene after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diptych.worlds.emoji.captions import with_article
from diptych.worlds.emoji.names import BACKGROUNDS, gender_partner, tone_base
from diptych.worlds.emoji.scene import MAX_GLYPHS, EmojiWorld, Placed, Scene

EDIT_TYPES = ("add", "remove", "replace", "recolour", "move", "background", "swap")
"""'swap' changes the skin tone or the gender of a person."""
SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}


@dataclass(frozen=True)
class Edit:
    """For 'add' and 'move' `subject` is the glyph of the target that the edit is about, else None."""

    type: str
    instruction: str
    source: Scene
    target: Scene
    subject: Placed | None = None
    side: str | None = None


def sample_edit(world: EmojiWorld, scene: Scene, type: str, rng: np.random.Generator) -> Edit | None:
    """An edit of the type that starts from `scene`, or None where the scene allows none."""
    maker = _MAKERS.get(type)
    if maker is None:
        raise ValueError(f"edit type must be one of {', '.join(EDIT_TYPES)}, got {type!r}")
    return maker(world, scene, rng)


def _pick(rng: np.random.Generator, options):  # type: ignore[no-untyped-def]
    return options[int(rng.integers(len(options)))]


def _single(scene: Scene, rng: np.random.Generator) -> Placed | None:
    """A glyph that is alone of its kind, so that 'the cat' names it."""
    counts = scene.counts()
    singles = [item for item in scene.items if counts[item.name] == 1]
    return _pick(rng, singles) if singles else None


def _with(scene: Scene, old: Placed | None, new: Placed | None) -> Scene:
    items = [item for item in scene.items if item != old]
    return replace(scene, items=tuple(items + ([new] if new else [])))


def _add(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> Edit | None:
    if len(scene.items) >= MAX_GLYPHS:
        return None
    name = _pick(rng, world.names)
    for _ in range(50):
        # placed as if alone, and kept where it hits nothing: a crowded scene allows no such edit after fifty
        # tries
        (new,) = world.place([name], rng)
        if all(max(abs(new.x - item.x), abs(new.y - item.y)) >= world.config.box for item in scene.items):
            text = _pick(
                rng,
                (
                    f"add {with_article(name)}",
                    f"put {with_article(name)} into the picture",
                    f"also draw {with_article(name)}",
                ),
            )
            return Edit("add", text, scene, _with(scene, None, new), subject=new)
    return None


def _remove(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> Edit | None:
    # all of one kind go: 'the cats' names each of them, and no choice among equals is asked for
    counts = scene.counts()
    if len(counts) < 2:
        return None
    name = _pick(rng, sorted(counts))
    what = f"the {name if counts[name] == 1 else world.kinds[name].plural}"
    target = replace(scene, items=tuple(item for item in scene.items if item.name != name))
    return Edit(
        "remove", _pick(rng, (f"remove {what}", f"delete {what}", f"take {what} away")), scene, target
    )


def _replace(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> Edit | None:
    old = _single(scene, rng)
    name = _pick(rng, world.names)
    if old is None or name in scene.counts():
        return None
    text = _pick(
        rng,
        (
            f"replace the {old.name} with {with_article(name)}",
            f"turn the {old.name} into {with_article(name)}",
        ),
    )
    return Edit("replace", text, scene, _with(scene, old, replace(old, name=name)))


def _recolour(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> Edit | None:
    counts = scene.counts()
    shapes = [item for item in scene.items if world.kinds[item.name].shape and counts[item.name] == 1]
    if not shapes:
        return None
    old = _pick(rng, shapes)
    kind = world.kinds[old.name]
    name = _pick(rng, [n for n in world.shapes if world.kinds[n].shape == kind.shape and n != old.name])
    if name in counts:
        return None
    colour = world.kinds[name].colour
    text = _pick(
        rng,
        (
            f"make the {old.name} {colour}",
            f"paint the {old.name} {colour}",
            f"change the colour of the {old.name} to {colour}",
        ),
    )
    return Edit("recolour", text, scene, _with(scene, old, replace(old, name=name)))


def _move(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> Edit | None:
    old = _single(scene, rng)
    if old is None:
        return None
    side = _pick(rng, list(SIDES))
    dx, dy = SIDES[side]
    last = world._starts[-1]
    x = old.x if not dx else (0 if dx < 0 else last)
    y = old.y if not dy else (0 if dy < 0 else last)
    box = world.config.box
    if max(abs(x - old.x), abs(y - old.y)) < box:
        return None
    if any(max(abs(x - item.x), abs(y - item.y)) < box for item in scene.items if item != old):
        return None
    new = replace(old, x=x, y=y)
    text = _pick(rng, (f"move the {old.name} to the {side}", f"shift the {old.name} to the {side}"))
    return Edit("move", text, scene, _with(scene, old, new), subject=new, side=side)


def _background(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> Edit | None:
    name = _pick(rng, [b for b in BACKGROUNDS if b != scene.background])
    text = _pick(
        rng, (f"change the background to {name}", f"make the background {name}", f"use a {name} background")
    )
    return Edit("background", text, scene, replace(scene, background=name))


def _swap(world: EmojiWorld, scene: Scene, rng: np.random.Generator) -> Edit | None:
    counts = scene.counts()
    options: list[tuple[Placed, str, str]] = []
    for item in scene.items:
        if counts[item.name] > 1:
            continue
        base, _ = tone_base(item.name)
        for name in world.names:
            if name == item.name or name in counts:
                continue
            other, tone = tone_base(name)
            # towards a tone alone: no instruction says 'give it no tone'
            if other == base and tone:
                options.append((item, name, f"give the {item.name} a {tone}"))
            elif name == gender_partner(item.name):
                options.append((item, name, f"swap the gender of the {item.name}"))
    if not options:
        return None
    old, name, text = _pick(rng, options)
    return Edit("swap", text, scene, _with(scene, old, replace(old, name=name)))


_MAKERS = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "recolour": _recolour,
    "move": _move,
    "background": _background,
    "swap": _swap,
}
