"""Guidance of one batch of drawings: which passes a step needs, how they are combined, what is remembered.

Every row has its own scales and noise level. A pass is read once, for the rows that need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.contracts import Condition, System
from diptych.flow import guided_velocity, passes_needed, per_row, projected_guidance
from diptych.request import Task

CONDITIONAL, PICTURE_ONLY, UNCONDITIONAL = "conditional", "picture_only", "unconditional"


class Guidance:
    """Guided velocity of B rows, to be integrated by a solver.

    Holds the condition of every pass, and for projected guidance what is remembered of the steps before, so
    there is one object for each batch of drawings.
    """

    def __init__(
        self,
        system: System,
        condition: Condition,
        scales: Sequence[float],
        image_scales: Sequence[float],
        has_given: bool,
    ) -> None:
        """`scales` and `image_scales` have one entry a row of the condition; `has_given`: its rows have
        given frames."""
        self.system = system
        self._edits = has_given and Task.EDIT in system.settings.tasks
        # what is changed is mixed with below 1 as well: the formulas of edits have no such case
        if not (system.embeds_guidance or system.sampler.guides_below_one or self._edits):
            # at 1 the conditional pass is all that counts
            scales = [max(1.0, scale) for scale in scales]
        # on the CPU, in float64, as noise levels are: `per_row` brings them to a velocity's device and type
        self._scales = torch.tensor(scales, dtype=torch.float64)
        self._image_scales = torch.tensor(image_scales, dtype=torch.float64)
        self._average: Tensor | None = None
        self._begun = False
        # the scale is an input of the model: one pass, and no second one to be guided away from
        if system.embeds_guidance:
            condition = condition.with_guidance(self._scales.to(condition.scale))
            self._kinds: list[tuple[str, ...]] = [(CONDITIONAL,)] * len(scales)
        else:
            self._kinds = [passes_needed(*pair, has_given) for pair in zip(scales, image_scales, strict=True)]
        self._batches = _batches(system, condition, self._kinds, has_given)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Velocity (B, F, C, H, W) to step with from x at noise levels sigma (B,), which lie on the CPU."""
        kinds = [
            kinds if self._guides(level) else (CONDITIONAL,)
            for kinds, level in zip(self._kinds, sigma.tolist(), strict=True)
        ]
        levels = sigma.to(x.device)
        passes: dict[str, _Pass] = {}
        for batch in self._batches:
            passes |= batch.denoise(self.system, x, levels, kinds)
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, needed in enumerate(kinds):
            groups.setdefault(needed, []).append(row)
        # mostly all rows need the same passes, and then nothing is gathered
        if len(groups) == 1:
            velocity = self._guided(x, sigma, passes, next(iter(groups)), list(range(len(x))))
            self._begun = True
            return velocity
        # every row has this pass; a copy, as what follows still reads the pass while rows are being written
        velocity = passes[CONDITIONAL].velocity.clone()
        for needed, rows in groups.items():
            if len(needed) > 1:
                velocity[rows] = self._guided(x[rows], sigma[rows], passes, needed, rows)
        self._begun = True
        return velocity

    def _guides(self, level: float) -> bool:
        """Whether guidance is on at a noise level: within the sampler's interval, of which an edit leaves out
        the ends, as published."""
        low, high = self.system.sampler.guidance_interval
        # an interval up to pure noise has no upper end: a shift in float32 can give a first level a hair
        # above 1
        below = high == 1.0 or (level < high if self._edits else level <= high)
        return below and (low < level if self._edits else low <= level)

    def rows(self, index: Sequence[int]) -> None:
        """Go on with some of the rows alone, in this order, and with what is remembered of them."""
        index = list(index)
        self._scales, self._image_scales = self._scales[index], self._image_scales[index]
        self._average = None if self._average is None else self._average[index]
        self._kinds = [self._kinds[row] for row in index]
        self._batches = [kept for batch in self._batches if (kept := batch.rows(index))]

    def _guided(
        self, x: Tensor, sigma: Tensor, passes: dict[str, _Pass], needed: tuple[str, ...], rows: list[int]
    ) -> Tensor:
        velocities = {kind: passes[kind].of(rows) for kind in needed}
        sampler, scales, image_scales = self.system.sampler, self._scales[rows], self._image_scales[rows]
        if sampler.guidance_norm == "projected" and len(needed) > 1:
            return self._projected(x, sigma, velocities, rows)
        token = self.system.token
        return guided_velocity(
            velocities,
            scales,
            image_scales,
            sampler.guidance_norm,
            token,
            # rows begin together; counted, as samplers start at other levels than 1, or at 1 up to rounding
            first_step=torch.full_like(sigma, not self._begun, dtype=torch.bool),
        )

    def _projected(self, x: Tensor, sigma: Tensor, velocities: dict[str, Tensor], rows: list[int]) -> Tensor:
        """Projected guidance towards the text; that towards given frames, where both are needed, is added as
        it is."""
        if self._average is None:
            self._average = x.new_zeros(len(self._kinds), *x.shape[1:])
        # v_c + (g - 1)(v_c - v_i) + (g_i - 1)(v_i - v_u): the general rule with its text part projected
        base = velocities.get(PICTURE_ONLY, velocities.get(UNCONDITIONAL))
        assert base is not None
        velocity, self._average[rows] = projected_guidance(
            x, sigma, velocities[CONDITIONAL], base, self._scales[rows], self._average[rows]
        )
        if len(velocities) == 3:
            extra = self._image_scales[rows] - 1
            velocity = velocity + per_row(extra, x) * (base - velocities[UNCONDITIONAL])
        return velocity


@dataclass(frozen=True, eq=False)
class _Pass:
    """What one pass gave for the rows that needed it."""

    rows: list[int]
    velocity: Tensor

    def of(self, rows: list[int]) -> Tensor:
        if rows == self.rows:
            return self.velocity
        return self.velocity[[self.rows.index(row) for row in rows]]


@dataclass(eq=False)
class _Batch:
    """Passes that are denoised by one call: a condition with an entry for each pass of each row."""

    condition: Condition
    entries: list[tuple[str, int]]
    """(pass, row) of each row of the condition, pass by pass."""
    part: tuple[list[int], Condition] | None = None
    """The entries of an earlier step that did not need all of them; steps mostly need the same."""

    def denoise(
        self, system: System, x: Tensor, levels: Tensor, kinds: Sequence[tuple[str, ...]]
    ) -> dict[str, _Pass]:
        """Velocities of the passes in `kinds`, by pass."""
        needed = [at for at, (kind, row) in enumerate(self.entries) if kind in kinds[row]]
        if not needed:
            return {}
        # entries stand pass by pass, which the split below relies on
        rows = [self.entries[at][1] for at in needed]
        if rows != list(range(len(x))):
            x, levels = x[rows], levels[rows]
        velocity = system.denoise(x, levels, self._of(needed))
        found: dict[str, list[int]] = {}
        for at in needed:
            kind, row = self.entries[at]
            found.setdefault(kind, []).append(row)
        parts = velocity.split([len(rows) for rows in found.values()])
        return {kind: _Pass(rows, v) for (kind, rows), v in zip(found.items(), parts, strict=True)}

    def _of(self, needed: list[int]) -> Condition:
        if len(needed) == len(self.entries):
            return self.condition
        if self.part is None or self.part[0] != needed:
            self.part = (needed, self.condition.rows(needed))
        return self.part[1]

    def rows(self, index: list[int]) -> _Batch | None:
        """The entries of some rows, which are numbered anew; None where there are none."""
        # rows are numbered anew but stay pass by pass; what `part` held was under the old numbers and is
        # dropped
        where = {entry: at for at, entry in enumerate(self.entries)}
        kinds = dict.fromkeys(kind for kind, _ in self.entries)
        found = [(kind, new, where.get((kind, row))) for kind in kinds for new, row in enumerate(index)]
        kept = [at for _, _, at in found if at is not None]
        if not kept:
            return None
        return _Batch(self.condition.rows(kept), [(kind, new) for kind, new, at in found if at is not None])


def _batches(
    system: System, condition: Condition, kinds: Sequence[tuple[str, ...]], has_given: bool
) -> list[_Batch]:
    """The passes of all rows, read, in as few batches as the system wants."""
    batches: list[_Batch] = []
    for kind in (CONDITIONAL, PICTURE_ONLY, UNCONDITIONAL):
        rows = [row for row, needed in enumerate(kinds) if kind in needed]
        if not rows:
            continue
        read = condition if len(rows) == len(kinds) else condition.rows(rows)
        if kind != CONDITIONAL:
            yes = torch.ones(len(rows), dtype=torch.bool, device=condition.scale.device)
            # the same call as training's dropout: what guidance starts from is what the model was trained to
            # see
            read = read.dropped(text=yes, media=yes if kind == UNCONDITIONAL else ~yes)
        entries = [(kind, row) for row in rows]
        # rows without their given frames have fewer of them, so no one call denoises both
        apart = kind == UNCONDITIONAL and has_given
        if batches and system.joins_passes and not apart:
            batches[-1].condition = batches[-1].condition.joined([read])
            batches[-1].entries += entries
        else:
            batches.append(_Batch(read, entries))
    # only now that passes are joined, so that each batch is read in one go, and not within the first step
    for batch in batches:
        batch.condition.prepare()
    return batches
