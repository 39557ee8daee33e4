"""Best of N on the emoji benchmark: score against N for several verifiers, with the exact checker as the
bound.

Every prompt gets the same candidates for all verifiers. The score at N is the mean over all disjoint groups
of N candidates, so that small N, for which there are many groups, is known best.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from diptych.contracts import Verifier
from diptych.evaluation.emoji import EvaluationConfig
from diptych.files import journal
from diptych.files.typed import convert, to_json
from diptych.files.whole import write_whole
from diptych.inference import Pipeline, draw
from diptych.inference.verifiers import scores
from diptych.worlds.emoji import CATEGORIES, Checker, EmojiWorld
from diptych.worlds.emoji.captions import caption, sample_wanted

ORACLE = "checker (bound)"
_FILE = "candidates.jsonl"
_LABELLED = ("verify", "drawn")
"""Sources whose answers are those of the checker, which is the metric too."""


@dataclass(frozen=True)
class Curve:
    """Shares of right pictures by verifier and N: the mean over the categories, and half of its 95 % interval
    over prompts."""

    counts: tuple[int, ...]
    means: dict[str, list[float]]
    halves: dict[str, list[float]]
    categories: dict[str, dict[str, list[float]]]


def candidates(
    pipeline: Pipeline,
    world: EmojiWorld,
    verifiers: Mapping[str, Verifier],
    config: EvaluationConfig,
    count: int,
    folder: Path,
    progress: Callable[[int, int], Any] | None = None,
) -> list[dict[str, Any]]:
    """Draw, judge and check `count` candidates of every prompt of the six categories (seen combinations).

    One line a prompt in `folder`; a run that was stopped goes on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checker, path = Checker(world), folder / _FILE
    about = {"seed": config.seed, "prompts": config.prompts, "count": count, "verifiers": sorted(verifiers)}
    rows = _resume(path, {**about, "model": pipeline.system.card.get("sha256", {})})
    total = len(CATEGORIES) * config.prompts
    number = 0
    for category in CATEGORIES:
        # the stream of `emoji.evaluate`'s own prompts, so that N = 1 is about what it measures
        rng = np.random.default_rng([config.seed, zlib.crc32(f"seen {category}".encode())])
        for _ in range(config.prompts):
            wanted = sample_wanted(world, category, rng)
            number += 1
            # after the prompt was sampled: the stream must go on as in a run that was never stopped
            if number <= len(rows):
                continue
            text = caption(world, wanted)
            # seeds far apart, so that no prompt shares noise with another
            plan = pipeline.plan(text, seed=config.seed + number * count, task="text-to-image", count=1)
            drawn = draw(pipeline.system, [replace(plan, seed=plan.seed + n) for n in range(count)])
            pictures = [frames[0] for frames in drawn]
            right = [checker.satisfies(checker.detect(picture), wanted) for picture in pictures]
            given = {name: scores(verifier, text, pictures) for name, verifier in verifiers.items()}
            row = {"category": category, "prompt": text, "right": [int(r) for r in right], "scores": given}
            rows.append(row)
            journal.append(path, [row])
            if progress:
                progress(number, total)
    return rows


def _resume(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    rows = journal.resume(path)
    if not rows:
        journal.append(path, [about])
    elif rows[0] != about:
        raise ValueError(
            f"{path} holds candidates of another model, verifier or number; choose another folder with -o"
        )
    for number, row in enumerate(rows[1:], 2):
        convert(_Judged, row, f"{path}:{number}")
    return rows[1:]


class _Judged(TypedDict):
    """A line of candidates.jsonl, below the first: a prompt and its candidates."""

    category: str
    prompt: str
    right: list[int]
    scores: dict[str, list[float]]


def curve(rows: Sequence[dict[str, Any]]) -> Curve:
    """Score against N = 1, 2, 4 ... for every verifier and for the checker."""
    most = len(rows[0]["right"])
    counts = tuple(2**n for n in range(most.bit_length()) if 2**n <= most)
    names = [*rows[0]["scores"], ORACLE]
    shares: dict[str, dict[str, list[list[float]]]] = {name: {} for name in names}
    for row in rows:
        right = np.array(row["right"], dtype=float)
        for name in names:
            given = right if name == ORACLE else np.array(row["scores"][name])
            shares[name].setdefault(row["category"], []).append([_share(right, given, n) for n in counts])
    means, halves, categories = {}, {}, {}
    for name, by_category in shares.items():
        tables = {category: np.array(values) for category, values in by_category.items()}
        categories[name] = {category: table.mean(0).tolist() for category, table in tables.items()}
        means[name] = np.mean([table.mean(0) for table in tables.values()], 0).tolist()
        # prompts are the sample, not groups of candidates: those of one prompt are not independent
        variance = (
            sum(table.var(0, ddof=1) / len(table) for table in tables.values() if len(table) > 1)
            / len(tables) ** 2
        )
        halves[name] = (1.959964 * np.sqrt(np.broadcast_to(variance, len(counts)))).tolist()
    return Curve(counts, means, halves, categories)


def _share(right: np.ndarray, given: np.ndarray, count: int) -> float:
    """Share of groups of `count` candidates whose best-scored one is right; of equal scores the first."""
    groups = len(right) // count
    rights, scored = (
        right[: groups * count].reshape(groups, count),
        given[: groups * count].reshape(groups, count),
    )
    return float(rights[np.arange(groups), scored.argmax(1)].mean())


def shares_labels(sources: Collection[str]) -> bool:
    """Whether a model that was trained on these sources learnt to verify from answers of the checker's own
    rule, so that its choice is judged by what it was taught."""
    return any(name in sources for name in _LABELLED)


def write(result: Curve, folder: Path, notes: Sequence[str]) -> list[Path]:
    """best_of.json, best_of.md and best_of.png under `folder`."""
    from matplotlib.figure import Figure

    data = {
        "counts": result.counts,
        "mean": result.means,
        "plus_minus": result.halves,
        "by": result.categories,
        "notes": list(notes),
    }
    write_whole(folder / "best_of.json", to_json(data))
    lines = [
        "| verifier | " + " | ".join(f"N = {n}" for n in result.counts) + " |",
        "|---" * (len(result.counts) + 1) + "|",
    ]
    for name, means in result.means.items():
        lines.append(
            f"| {name} | "
            + " | ".join(f"{m:.3f} ± {h:.3f}" for m, h in zip(means, result.halves[name], strict=True))
            + " |"
        )
    write_whole(folder / "best_of.md", "\n".join([*lines, "", *notes]) + "\n")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, means in result.means.items():
        axes.errorbar(
            result.counts,
            means,
            yerr=result.halves[name],
            marker="o",
            capsize=3,
            label=name,
            ls="--" if name == ORACLE else "-",
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(result.counts, [str(n) for n in result.counts])
    axes.set_xlabel("candidates N")
    axes.set_ylabel("share of right pictures, mean of categories")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / "best_of.png", dpi=110)
    return [folder / "best_of.json", folder / "best_of.md", folder / "best_of.png"]
