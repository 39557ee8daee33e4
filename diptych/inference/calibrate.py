"""Measuring which blocks of a model matter, on prompts that it draws."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.data import journal
from diptych.inference.generate import draw
from diptych.request import Media, Plan
from diptych.surgery.prune import READING, Importance
from diptych.systems import System

BATCH = 8
"""Prompts drawn together; after each batch what was measured is saved."""


def calibrate(
    system: System,
    model: Any,
    plans: Sequence[Plan],
    kept: Path,
    progress: Callable[[int], Any] | None = None,
) -> Importance:
    """Importance of every block of `model` while `system` draws settled plans.

    What was measured so far lies in `kept`; a calibration that was stopped goes on from there and ends with
    the same numbers.
    """
    key = _fingerprint(model, plans)
    importance, done = _resume(kept, key, len(model.blocks))
    with importance.watch(model) as watch:
        noting = _Noting(system, watch)
        while done < len(plans):
            draw(noting, plans[done : done + BATCH])  # type: ignore[arg-type]
            done = min(len(plans), done + BATCH)
            journal.write_whole(kept, json.dumps({"of": key, "done": done, **importance.as_dict()}))
            if progress:
                progress(done)
    return importance


class _Noting:
    """A system that tells the watch which noise level a pass is at."""

    def __init__(self, system: System, watch: Any) -> None:
        self._system, self._watch = system, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def condition(self, plans: Sequence[Plan], media: Sequence[Sequence[Media]]) -> Any:
        self._watch.level = READING
        return self._system.condition(plans, media)

    def velocity(self, x: Tensor, sigma: float, condition: Any) -> Tensor:
        self._watch.level = f"{sigma:.4f}"
        return self._system.velocity(x, sigma, condition)


def _fingerprint(model: Any, plans: Sequence[Plan]) -> str:
    """Changes with the weights, the prompts or the settings."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r}".encode())
    digest.update("".join(plan.to_json() for plan in plans).encode())
    return digest.hexdigest()


def _resume(kept: Path, key: str, blocks: int) -> tuple[Importance, int]:
    if not kept.is_file():
        return Importance(blocks), 0
    try:
        saved = json.loads(kept.read_text())
        if saved["of"] == key:
            return Importance.from_dict(saved), int(saved["done"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{kept} is no calibration ({error}); delete it to begin again") from error
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
