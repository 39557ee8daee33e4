"""Measuring which blocks of a model matter, on prompts that it draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.contracts import Condition, Prompt, Stack, System
from diptych.files import typed
from diptych.files.whole import write_whole
from diptych.inference.draw import draw
from diptych.request import Plan
from diptych.surgery.prune import READING, Importance

BATCH = 8
"""Prompts drawn together; after each batch what was measured is saved."""


@dataclass(frozen=True)
class _Kept:
    """What a calibration has measured so far."""

    of: str
    done: int
    importance: Importance


def calibrate(
    system: System,
    model: Any,
    plans: Sequence[Plan],
    kept: Path,
    progress: Callable[[int], Any] | None = None,
) -> Importance:
    """Importance of every block of `model` while `system` draws settled plans.

    What was measured so far lies in `kept`; a calibration that was stopped goes on from there and ends with
    the same numbers. Raises ValueError for plans of different numbers of steps.
    """
    if len({plan.steps for plan in plans}) > 1:
        raise ValueError(
            "the plans of a calibration take equally many steps, since a pass is at one noise level"
        )
    key = _fingerprint(model, plans)
    # a stopped calibration goes on at a batch, so the same sums are added in the same order
    importance, done = _resume(kept, key, len(model.blocks))
    with importance.watch(model) as watch:
        noting = _Noting(system, watch)
        while done < len(plans):
            draw(noting, plans[done : done + BATCH])  # type: ignore[arg-type]
            done = min(len(plans), done + BATCH)
            write_whole(kept, typed.to_json(_Kept(key, done, importance)))
            if progress:
                progress(done)
    return importance


class _Noting:
    """A system that tells the watch which noise level a pass is at."""

    def __init__(self, system: System, watch: Any) -> None:
        self._system, self._watch = system, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> Condition:
        self._watch.level = READING
        return self._system.read(prompts, stacks)

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        # all plans take equally many steps, so one row's level is that of all; as text, since it is a key of
        # JSON
        self._watch.level = f"{float(sigma.flatten()[0]):.4f}"
        return self._system.denoise(x, sigma, condition)


def _fingerprint(model: Any, plans: Sequence[Plan]) -> str:
    """Changes with the weights, the prompts or the settings."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        # one sum a tensor notices other weights at the cost of reading them once; in float64, where a small
        # change is not lost in a large sum
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r}".encode())
    digest.update("".join(plan.to_json() for plan in plans).encode())
    return digest.hexdigest()


def _resume(kept: Path, key: str, blocks: int) -> tuple[Importance, int]:
    if kept.is_file():
        try:
            saved = typed.read(_Kept, kept)
        except ValueError as error:
            raise ValueError(f"{kept} is no calibration ({error}); delete it to begin again") from error
        if saved.of == key:
            return saved.importance, saved.done
    return Importance(blocks), 0


def draw_importance(importance: Importance, kept: Sequence[int], path: Path) -> Path:
    """A picture of the importance by block and noise level, what is kept in green, what goes in red."""
    from matplotlib.figure import Figure

    table, scores = importance.table(), importance.scores()
    levels = [READING] * (READING in table) + sorted(
        (level for level in table if level != READING), key=float, reverse=True
    )
    figure = Figure(figsize=(max(6.0, 0.35 * importance.blocks + 3), 7), layout="constrained")
    bars, heat = figure.subplots(2, 1, sharex=True)
    bars.bar(
        range(importance.blocks),
        scores,
        color=["#2e8b57" if block in kept else "#c8443c" for block in range(importance.blocks)],
    )
    bars.set_ylabel("importance\n1 - cosine(in, out)")
    bars.set_title(f"{len(kept)} of {importance.blocks} blocks kept")
    image = heat.imshow([table[level] for level in levels], aspect="auto", cmap="viridis")
    heat.set_xlabel("block")
    heat.set_ylabel("noise level sigma")
    shown = range(0, len(levels), max(1, len(levels) // 12))
    heat.set_yticks(
        list(shown), [levels[n] if levels[n] == READING else f"{float(levels[n]):.2f}" for n in shown]
    )
    figure.colorbar(image, ax=heat)
    figure.savefig(path, dpi=110)
    return path
