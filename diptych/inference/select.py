"""Best of N: draw many, let a verifier score each once, keep the best (SANA-1.5, arXiv 2501.18427 section
3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from diptych.contracts import System, Verifier
from diptych.data.pictures import open_picture, save_picture
from diptych.files import journal
from diptych.files.typed import parse, read_json, to_json
from diptych.inference.draw import BATCH, draw
from diptych.inference.verifiers import scores
from diptych.request import Media, Plan, RequestError

MAX_CANDIDATES = 4096
_SCORES = "scores.jsonl"


class _Score(TypedDict):
    """A line of scores.jsonl."""

    seed: int
    score: float


@dataclass(frozen=True, eq=False)
class Candidate:
    seed: int
    score: float
    pixels: np.ndarray


def best_of(
    system: System,
    plan: Plan,
    verifier: Verifier,
    count: int,
    keep: int = 1,
    media: Sequence[Media] = (),
    folder: Path | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[Candidate]:
    """The `keep` best of `count` pictures with the seeds plan.seed, plan.seed + 1 ..., best first; of equal
    scores the earlier seed.

    Each is scored once, in batches; no more than a batch and the kept ones are in memory. With `folder`,
    every candidate and its score is saved there, and a selection that was stopped goes on from there with the
    same result. Raises RequestError for counts that cannot be, and where the folder holds another selection.
    """
    if not 1 <= count <= MAX_CANDIDATES:
        raise RequestError(f"best of N takes 1 to {MAX_CANDIDATES} candidates, got {count}")
    if not 1 <= keep <= count:
        raise RequestError(f"keep must be 1 to {count}, the number of candidates, got {keep}")
    done = _resume(folder, system, plan, verifier) if folder else {}
    best: list[Candidate] = []
    for start in range(0, count, BATCH):
        seeds = [plan.seed + n for n in range(start, min(count, start + BATCH))]
        # whole batches, so that a resumed one is drawn as it would have been
        if folder and all(seed in done for seed in seeds):
            # PNG loses nothing, so a picture that was read back is the one that was judged
            found = [Candidate(seed, done[seed], open_picture(_picture(folder, seed))) for seed in seeds]
        else:
            drawn = draw(system, [replace(plan, seed=seed, count=1) for seed in seeds], [media] * len(seeds))
            pictures = [Media(frames).pixels for frames in drawn]
            found = [
                Candidate(*row)
                for row in zip(seeds, scores(verifier, plan.prompt, pictures), pictures, strict=True)
            ]
            if folder:
                _save(folder, found)
        best = sorted([*best, *found], key=lambda candidate: (-candidate.score, candidate.seed))[:keep]
        if progress:
            progress(start + len(seeds))
    return best


def begun_with(folder: Path) -> int | None:
    """Seed of the selection that lies in a folder; None where there is none. One that was begun with a fresh
    seed goes on with it. Raises ValueError for a folder whose request is damaged."""
    path = folder / journal.REQUEST
    if not path.is_file():
        return None
    request = read_json(path)
    if not isinstance(request, dict) or not isinstance(request.get("plan"), dict):
        raise RequestError(f"{path} is no request of a selection; choose another folder")
    return Plan.from_json(to_json(request["plan"])).seed


def _picture(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.png"


def _save(folder: Path, found: Sequence[Candidate]) -> None:
    """Pictures first: a score stands only for a picture that is there."""
    for candidate in found:
        save_picture(candidate.pixels, _picture(folder, candidate.seed))
    journal.append(
        folder / _SCORES, ({"seed": candidate.seed, "score": candidate.score} for candidate in found)
    )


def _resume(folder: Path, system: System, plan: Plan, verifier: Verifier) -> dict[int, float]:
    """Scores that lie in the folder."""
    # all that candidates depend on, the size of a batch included, as a kernel may round otherwise in another;
    # but not their number, so that a selection may go on to more
    request = {
        "plan": parse(plan.to_json(), "plan"),
        "verifier": verifier.name,
        "model": system.card.get("sha256", {}),
        "batch": BATCH,
    }
    journal.begin(folder, request, "candidates", "request, model or verifier")
    # a seed that was drawn again in a larger last batch stands twice: the later score goes with the file
    return {row["seed"]: row["score"] for row in journal.resume(folder / _SCORES, _Score)}
