"""The exact checker: finds glyphs in a picture without knowing its scene, and judges prompts and edits.

The background is the median colour; at every offset every glyph has a squared distance to the picture, as a
share of its own difference from the background. The nearest is taken, its box closed, and so on. What no
glyph explains counts as an unknown object, so that a smear fails an exact prompt.

The checker is strict unless it is asked to be lenient, which is how everything up to version 0.13 was judged:
relations held along either axis, moved glyphs could miss their place by a box, half a glyph was often taken
for a whole one, and a smear had to be large and strong.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from diptych.worlds.emoji.edits import SIDES, Edit
from diptych.worlds.emoji.guided import Guided
from diptych.worlds.emoji.names import BACKGROUNDS
from diptych.worlds.emoji.scene import DIAGONAL, EmojiWorld, Wanted, stands

UNKNOWN = "unknown"
REACH = 20
"""px by which what was moved, or has a place of its own, may miss it along either axis."""
SMEAR = (0.12, 0.5, 9)
"""Difference from the background, and the share of a square of that many px which has it: no object."""
_ACCEPT = 0.5
"""A glyph is there when its squared distance is below this share of its energy (distance 0 = equal, 1 = bare
background)."""
_HALF = 0.7
"""And, where the checker is strict, below this share in each of the glyph's halves that has something to
show."""
_OVERLAP = 0.6
"""Two finds are at least this share of a glyph apart along one axis."""


@dataclass(frozen=True)
class Found:
    name: str
    x: float
    y: float
    """Centre of the glyph, px."""
    distance: float
    """Squared distance to the glyph as a share of its energy; 0 = perfect."""


@dataclass(frozen=True)
class Detection:
    background: str | None
    """Name of the background, None where it is none of the world's."""
    found: tuple[Found, ...]

    def counts(self) -> Counter[str]:
        return Counter(item.name for item in self.found)


class Checker:
    """Judges pictures of the size that its world has. Deterministic; torch on the CPU."""

    def __init__(self, world: EmojiWorld, max_found: int = 12, lenient: bool = False) -> None:
        self.world, self.lenient = world, lenient
        self.max_found = max_found
        self.size = world.config.glyph
        rgba = torch.from_numpy(np.stack([world.glyphs[name] for name in world.names])).permute(0, 3, 1, 2)
        self.alpha = rgba[:, 3:].contiguous()
        self.colour = rgba[:, :3].contiguous()

    def detect(self, picture: np.ndarray) -> Detection:
        """Glyphs in a uint8 RGB picture (height, width, 3)."""
        image = torch.from_numpy(np.ascontiguousarray(picture)).float().permute(2, 0, 1) / 255.0
        bare = image.flatten(1).median(dim=1).values[:, None, None]
        names = list(BACKGROUNDS)
        distances = (torch.tensor([BACKGROUNDS[name] for name in names]) - bare.flatten()).abs().amax(dim=1)
        nearest = int(distances.argmin())
        # half the distance of the two nearest of the world's backgrounds, sky blue and lavender
        background = names[nearest] if distances[nearest] < 0.05 else None

        templates = self.alpha * (self.colour - bare)
        energy = templates.square().flatten(1).sum(1)
        residual = image - bare
        # padded with bare background, so that a glyph of which the rim cuts a piece can be found
        margin = self.size // 3
        padded = F.pad(residual, (margin,) * 4)
        # |I-T|^2 = |I-b|^2 - 2 <I-b, T-b> + |T-b|^2, over a glyph's box
        cross = F.conv2d(padded[None], templates)[0]
        window = F.conv2d(padded.square().sum(0)[None, None], torch.ones(1, 1, self.size, self.size))[0]
        distance = (window - 2 * cross) / energy[:, None, None] + 1.0
        explained = torch.zeros_like(padded)
        found: list[Found] = []
        reach = int(self.size * _OVERLAP)
        while len(found) < self.max_found:
            index, row, column = np.unravel_index(int(distance.argmin()), distance.shape)
            if float(distance[index, row, column]) >= _ACCEPT:
                break
            # what an earlier find explains is no evidence: two touching squares have a third one in their
            # corner
            at = (slice(None), slice(row, row + self.size), slice(column, column + self.size))
            open_residual = padded[at] * (1 - explained[at])
            share = float((open_residual - templates[index]).square().sum() / energy[index])
            if share >= _ACCEPT:
                distance[index, row, column] = torch.inf
                continue
            distance[
                :, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1
            ] = torch.inf
            centre = self.size / 2 - margin
            whole = self.lenient or _is_whole(open_residual - templates[index], templates[index])
            name = self.world.names[int(index)] if whole else UNKNOWN
            found.append(Found(name, float(column) + centre, float(row) + centre, share))
            explained[at] = 1.0
        # averaged over 3x3 first, so that pixel noise is no object
        strength, part, side = (0.15, 0.5, self.size // 2) if self.lenient else SMEAR
        leftover = F.avg_pool2d(padded * (1 - explained), 3, stride=1, padding=1).abs().amax(0) > strength
        blob = F.avg_pool2d(leftover.float()[None, None], side, stride=1)[0, 0]
        if float(blob.max()) > part:
            row, column = np.unravel_index(int(blob.argmax()), blob.shape)
            middle = side / 2 - margin
            found.append(Found(UNKNOWN, float(column) + middle, float(row) + middle, 1.0))
        return Detection(background, tuple(found))

    def satisfies(self, detection: Detection, wanted: Wanted) -> bool:
        """Whether a picture shows exactly what was asked: counts, relation, background, nothing else."""
        # what no glyph explains is counted as well, under a name that no prompt has
        if detection.counts() != Counter(dict(wanted.counts)):
            return False
        if wanted.background is not None and detection.background != wanted.background:
            return False
        if wanted.relation is None:
            return True
        first, word, second = wanted.relation
        lead = None if self.lenient else DIAGONAL
        return all(
            # half a glyph apart is enough of a drawing; training scenes are a whole box apart
            stands(word, (a.x, a.y), (b.x, b.y), self.size / 2, lead)
            for a in detection.found
            if a.name == first
            for b in detection.found
            if b.name == second
        )

    def edited(self, detection: Detection, edit: Edit) -> bool:
        """Whether a picture shows the edit done and every untouched glyph still in its place."""
        if detection.background != edit.target.background or detection.counts() != edit.target.counts():
            return False
        fixed = [item for item in edit.target.items if item != edit.subject]
        left = list(detection.found)
        half = self.world.config.box / 2
        for item in fixed:
            near = [
                f
                for f in left
                if f.name == item.name and max(abs(f.x - item.x - half), abs(f.y - item.y - half)) <= half
            ]
            if not near:
                return False
            left.remove(near[0])
        if edit.subject is None or edit.side is None:
            return True
        # counts are those of the target and all others were found: one glyph is left, the one that moved
        before = next(item for item in edit.source.items if item.name == edit.subject.name)
        (dx, dy), (moved,) = SIDES[edit.side], left
        if not self.lenient:
            to = edit.subject
            return max(abs(moved.x - to.x - half), abs(moved.y - to.y - half)) <= REACH
        along = (moved.x - before.x - half) * dx + (moved.y - before.y - half) * dy
        across = abs((moved.x - before.x - half) * dy) + abs((moved.y - before.y - half) * dx)
        # half a box the right way is a move; how far is not said, and a box sideways is drift
        return along >= half and across <= 2 * half

    def guided(self, detection: Detection, guided: Guided) -> bool:
        """Whether a picture drawn by given pictures shows what was asked, each glyph in the place that a
        source, an edge picture or a layout gives it."""
        if not self.satisfies(detection, guided.wanted):
            return False
        left, half = list(detection.found), self.world.config.box / 2
        for item in guided.target.items if guided.placed else ():
            near = [
                f
                for f in left
                if (f.name == item.name or not guided.named)
                and max(abs(f.x - item.x - half), abs(f.y - item.y - half)) <= half
            ]
            if not near:
                return False
            left.remove(min(near, key=lambda f: abs(f.x - item.x - half) + abs(f.y - item.y - half)))
        return True


def _is_whole(residual: torch.Tensor, template: torch.Tensor) -> bool:
    """Whether no half of a glyph is missing; residual and template (3, size, size)."""
    missed, energy = residual.square().sum(0), template.square().sum(0)
    middle = len(energy) // 2
    for half in ((slice(middle), slice(None)), (slice(middle, None), slice(None))):
        for rows, columns in (half, half[::-1]):
            # a glyph that lies on one side of its box has nothing on the other
            there = float(energy[rows, columns].sum())
            if there > 0.15 * float(energy.sum()) and float(missed[rows, columns].sum()) > _HALF * there:
                return False
    return True
