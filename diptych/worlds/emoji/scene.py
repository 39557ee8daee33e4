"""Scenes: glyphs on a coloured background, sampled from a random generator and rendered.

What is asked of a scene (`Wanted`) is apart from where its glyphs came to lie (`Scene`): a prompt states the
first, the checker compares it with what it finds in a picture.
"""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.files.typed import convert
from diptych.worlds.emoji.font import find_font, render_glyph
from diptych.worlds.emoji.names import BACKGROUNDS, LANGUAGES, Kind, few_kinds, full_kinds, small_kinds

RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Relation -> direction (x, y) from the second object to the first; y grows downwards."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MAX_GLYPHS = 5
DIAGONAL = -3.0
"""px by which the axis of a relation may be the shorter one and still be called the main one: what is drawn
on a diagonal misses it by little."""
_KINDS = {"few": few_kinds, "small": small_kinds, "full": full_kinds}


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Size and contents of the emoji world. All lengths in pixels."""

    objects: str = "small"
    """'few': 16 kinds; 'small': 35; 'full': every emoji that the font can draw."""
    size: int = 96
    """Width and height of a picture."""
    glyph: int = 30
    """Longest side of a glyph; it stands in a box 2 px larger, and boxes never overlap."""
    lattice: int = 16
    """Boxes start at multiples of this; 1 = anywhere."""
    languages: tuple[str, ...] = ("id",)
    """Languages beside English. Indonesian needs no plural and no gender, so Unicode names fit a template
    unchanged."""
    words: str = "plain"
    """What training asks with. 'plain': the benchmark's words, in few phrasings; 'wide': as anyone might ask,
    in five languages, and of relations that are those of the main axis."""

    def __post_init__(self) -> None:
        if self.objects not in _KINDS:
            raise ValueError(f"objects must be one of {', '.join(_KINDS)}, got {self.objects!r}")
        if self.words not in ("plain", "wide"):
            raise ValueError(f"words must be plain or wide, got {self.words!r}")
        if not 8 <= self.glyph <= 120:
            raise ValueError(f"glyph must be 8 to 120 px, got {self.glyph}")
        if self.lattice < 1:
            raise ValueError(f"lattice must be at least 1 px, got {self.lattice}")
        # boxes that do not overlap are so far apart; with fewer than three a side, five things have no room
        apart = -(-self.box // self.lattice) * self.lattice
        if self.size < 2 * apart + self.box:
            raise ValueError(
                f"size must be at least {2 * apart + self.box} px, three boxes of {self.box} px a side that "
                f"start at multiples of {self.lattice} px, got {self.size}"
            )
        if not self.languages or set(self.languages) - set(LANGUAGES):
            raise ValueError(
                f"languages must be one or more of {', '.join(LANGUAGES)}, got {', '.join(self.languages)!r}"
            )

    @property
    def box(self) -> int:
        return self.glyph + 2


def world_of(card: Mapping[str, Any]) -> WorldConfig:
    """The world that a model was trained in, as its card says; the default one where it says nothing.

    Raises ValueError for a card that names another kind of world.
    """
    recipe = card.get("recipe")
    values = recipe.get("world", {}) if isinstance(recipe, dict) else {}
    return convert(WorldConfig, values, "card.json: recipe.world")


def kinds_of(config: WorldConfig) -> tuple[Kind, ...]:
    """Those of a world, also where the font lacks some."""
    return _KINDS[config.objects](config.languages)


@dataclass(frozen=True)
class Placed:
    """A glyph of kind `name` whose box starts at (x, y)."""

    name: str
    x: int
    y: int


@dataclass(frozen=True)
class Scene:
    background: str
    items: tuple[Placed, ...]

    def counts(self) -> Counter[str]:
        return Counter(item.name for item in self.items)


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for: exactly these counts, and, where given, a relation and a background."""

    counts: tuple[tuple[str, int], ...]
    relation: tuple[str, str, str] | None = None
    """(first, relation, second): every glyph of the first kind stands so to every glyph of the second."""
    background: str | None = None

    def swapped(self) -> Wanted:
        """The same objects the wrong way round: the relation reversed."""
        if self.relation is None:
            raise ValueError("only a prompt with a relation can be swapped")
        first, relation, second = self.relation
        return Wanted(self.counts, (first, OPPOSITE[relation], second), self.background)


def stands(
    relation: str,
    first: tuple[float, float],
    second: tuple[float, float],
    margin: float,
    lead: float | None = None,
) -> bool:
    """Whether a centre (x, y) stands in `relation` to another, at least `margin` px apart along its axis;
    with `lead`, so much further than along the other one: the axis is the main one."""
    dx, dy = RELATIONS[relation]
    x, y = first[0] - second[0], first[1] - second[1]
    along = x * dx + y * dy
    return along >= margin and (lead is None or along >= abs(x * dy) + abs(y * dx) + lead)


def held_out(*parts: str) -> bool:
    """Whether a combination is kept out of all training data: one in ten, by a checksum of its sorted names.

    Applied to ('pair', a, b) of two kinds, ('count', name, n) with n of 2 and more, and ('binding', a, b) of
    two coloured shapes. Sorting makes a pair and its mirror image the same combination.
    """
    kind, *names = parts
    # a checksum and not hash(), which Python salts anew in every process: training and test must agree
    return zlib.crc32("|".join([kind, *sorted(names)]).encode()) % 10 == 0


class EmojiWorld:
    """Kinds, glyph pictures and scene sampling for one configuration.

    Raises FontNotFoundError where no colour emoji font is installed.
    """

    def __init__(self, config: WorldConfig | None = None, font: str | Path | None = None) -> None:
        self.config = config or WorldConfig()
        path = find_font(font)
        kinds = kinds_of(self.config)
        self.glyphs: dict[str, np.ndarray] = {}
        self.kinds: dict[str, Kind] = {}
        for kind in kinds:
            picture = render_glyph(kind.emoji, self.config.glyph, path)
            if picture is not None:
                self.glyphs[kind.name] = picture
                self.kinds[kind.name] = kind
        self.names = tuple(self.kinds)
        self.shapes = tuple(name for name, kind in self.kinds.items() if kind.shape)
        self.plain = tuple(name for name, kind in self.kinds.items() if not kind.shape)

    @functools.cached_property
    def _starts(self) -> tuple[int, ...]:
        return tuple(range(0, self.config.size - self.config.box + 1, self.config.lattice))

    def render(self, scene: Scene) -> np.ndarray:
        """uint8 RGB, shape (size, size, 3)."""
        canvas = np.empty((self.config.size, self.config.size, 3), dtype=np.float32)
        canvas[:] = BACKGROUNDS[scene.background]
        for item in scene.items:
            glyph = self.glyphs[item.name]
            area = canvas[item.y + 1 : item.y + 1 + glyph.shape[0], item.x + 1 : item.x + 1 + glyph.shape[1]]
            # a view of the canvas: blended in place
            area += glyph[..., 3:] * (glyph[..., :3] - area)
        return (canvas * 255.0 + 0.5).astype(np.uint8)

    def place(
        self,
        names: list[str],
        rng: np.random.Generator,
        relation: tuple[str, str, str] | None = None,
        main_axis: bool = False,
    ) -> tuple[Placed, ...]:
        """Random boxes that do not overlap; with a relation, boxes of the two kinds are a whole box apart
        along its axis, which with `main_axis` is the longer one."""
        box, starts = self.config.box, self._starts
        count = len(starts)
        # after thirty misses of one glyph all are placed anew: the earlier ones may leave it no room
        while True:
            places: list[Placed] = []
            for name in names:
                for _ in range(30):
                    # one number at a time: half the time of an array of two, which is the same stream
                    x, y = starts[rng.integers(count)], starts[rng.integers(count)]
                    if all(abs(x - p.x) >= box or abs(y - p.y) >= box for p in places) and (
                        relation is None
                        or all(self._respects(relation, name, (x, y), p, box, main_axis) for p in places)
                    ):
                        places.append(Placed(name, x, y))
                        break
                else:
                    break
            if len(places) == len(names):
                return tuple(places)

    @staticmethod
    def _respects(
        relation: tuple[str, str, str],
        name: str,
        at: tuple[int, int],
        other: Placed,
        box: int,
        main_axis: bool,
    ) -> bool:
        first, word, second = relation
        # no diagonals, of which both relations would be true
        lead = 1 if main_axis else None
        if name == first and other.name == second:
            return stands(word, at, (other.x, other.y), box, lead)
        if name == second and other.name == first:
            return stands(word, (other.x, other.y), at, box, lead)
        return True

    def scene_for(self, wanted: Wanted, rng: np.random.Generator, main_axis: bool = False) -> Scene:
        """A random scene that satisfies `wanted`; `main_axis` as in `place`."""
        names = [name for name, count in wanted.counts for _ in range(count)]
        background = wanted.background or str(rng.choice(list(BACKGROUNDS)))
        return Scene(background, self.place(names, rng, wanted.relation, main_axis))

    def is_held_out(self, wanted: Wanted) -> bool:
        """Whether any pair of kinds, count or colour binding of it is held out of training."""
        names = [name for name, _ in wanted.counts]
        if any(count > 1 and held_out("count", name, str(count)) for name, count in wanted.counts):
            return True
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                # two coloured shapes are a binding, whatever category asked for them: so no part trains on
                # what another holds out
                both_shapes = self.kinds[first].shape and self.kinds[second].shape
                if held_out("binding" if both_shapes else "pair", first, second):
                    return True
        return False
