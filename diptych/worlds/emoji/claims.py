"""Claims about a scene: prompts that it carries out, and prompts that it misses by one mistake, as drawing
models make them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from diptych.worlds.emoji.captions import swapped_binding
from diptych.worlds.emoji.names import BACKGROUNDS
from diptych.worlds.emoji.scene import DIAGONAL, MAX_GLYPHS, RELATIONS, EmojiWorld, Scene, Wanted, stands


def shows(world: EmojiWorld, scene: Scene, wanted: Wanted, main_axis: bool = False) -> bool:
    """Whether a scene is exactly what was asked: counts, relation, background, nothing else. The checker's
    rule, on facts; `main_axis` is that of its strict form."""
    if scene.counts() != Counter(dict(wanted.counts)) or wanted.background not in (None, scene.background):
        return False
    if wanted.relation is None:
        return True
    first, word, second = wanted.relation
    return all(
        stands(word, (a.x, a.y), (b.x, b.y), world.config.glyph / 2, DIAGONAL if main_axis else None)
        for a in scene.items
        if a.name == first
        for b in scene.items
        if b.name == second
    )


def spoiled(world: EmojiWorld, wanted: Wanted, rng: np.random.Generator) -> Wanted:
    """The same request with one thing changed: a count, a kind, one more or one fewer, the relation, the
    colours, the background.

    A request with a relation has that changed half of the time. Never a combination held out of training.
    """
    while True:
        kinds = dict(wanted.counts)
        change = str(rng.choice(_changes(world, wanted)))
        chosen = str(rng.choice(list(kinds)))
        others = [name for name in world.names if name not in kinds]
        other = others[int(rng.integers(len(others)))]
        result = _change(world, wanted, change, chosen, other, rng)
        if not world.is_held_out(result):
            return result


def _changes(world: EmojiWorld, wanted: Wanted) -> list[str]:
    total, kinds = sum(count for _, count in wanted.counts), [world.kinds[name] for name, _ in wanted.counts]
    changes = ["kind"]
    if total < MAX_GLYPHS:
        changes += ["more", "extra"]
    if total > len(kinds):
        changes.append("fewer")
    if len(kinds) > 1:
        changes.append("dropped")
    if wanted.background:
        changes.append("background")
    single = all(count == 1 for _, count in wanted.counts)
    if (
        len(kinds) == 2
        and single
        and all(kind.shape for kind in kinds)
        and kinds[0].shape != kinds[1].shape
        and kinds[0].colour != kinds[1].colour
    ):
        # as often as all others together; so is the relation, below
        changes += ["binding"] * len(changes)
    if wanted.relation:
        changes += ["relation"] * len(changes)
    return changes


def _change(
    world: EmojiWorld, wanted: Wanted, change: str, chosen: str, other: str, rng: np.random.Generator
) -> Wanted:
    counts, relation, background = dict(wanted.counts), wanted.relation, wanted.background
    if change == "relation":
        assert relation is not None
        # it may still be true, as one glyph can be both above another and left of it: answers come from
        # `shows`
        words = [word for word in RELATIONS if word != relation[1]]
        return Wanted(
            wanted.counts, (relation[0], words[int(rng.integers(len(words)))], relation[2]), background
        )
    if change == "binding":
        swapped = swapped_binding(world, wanted)
        return Wanted(swapped.counts, None, background)
    if change == "background":
        names = [name for name in BACKGROUNDS if name != background]
        return Wanted(wanted.counts, relation, names[int(rng.integers(len(names)))])
    if change == "kind":
        if relation is not None:
            first, word, second = (other if name == chosen else name for name in relation)
            relation = (first, word, second)
        return Wanted(
            tuple((other if name == chosen else name, count) for name, count in counts.items()),
            relation,
            background,
        )
    if change == "more":
        counts[chosen] += 1
    elif change == "fewer":
        chosen = next(name for name, count in counts.items() if count > 1) if counts[chosen] == 1 else chosen
        counts[chosen] -= 1
    elif change == "extra":
        # a relation is between two kinds, so it goes where there are three, or one
        counts[other], relation = 1, None
    elif change == "dropped":
        del counts[chosen]
        relation = None
    return Wanted(tuple(counts.items()), relation, background)
