"""Two models on the same prompts of the emoji benchmark: what the second does better or worse.

python benchmarks/paired.py OLD NEW [--prompts 300] [--split all] [--wording plain] [--output paired]

Each prompt is one pair, so the interval is that of the mean of differences (1, 0 or -1), normal, 95 %. A
part that one of the two was not taught is left out. Writes paired.md, and what each model got right, which a
second run with the same settings takes from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import diptych
from diptych.evaluation import EvaluationConfig, evaluate
from diptych.files.typed import read_json, to_json
from diptych.files.whole import write_whole
from diptych.worlds.emoji import EmojiWorld, world_of

LOSS = 0.02
"""A part that is more than this below is marked."""


def verdicts(model: str, config: EvaluationConfig, kept: Path) -> dict[str, list[bool]]:
    """What a model got right, kept in a file for a comparison that is run again."""
    about = {"model": model, "prompts": config.prompts, "split": config.split, "wording": config.wording}
    if kept.is_file() and (found := read_json(kept))["about"] == about:
        return dict(found["verdicts"])
    pipeline = diptych.load(model)
    world = EmojiWorld(world_of(pipeline.system.card))
    done = evaluate(pipeline, world, config, lambda part, *_: print(f"{model}: {part}", flush=True))
    write_whole(kept, to_json({"about": about, "verdicts": done.verdicts}))
    return done.verdicts


def difference(old: Sequence[bool], new: Sequence[bool]) -> tuple[float, float]:
    """Mean of new - old over pairs, and the half-width of its 95 % interval."""
    pairs = [int(b) - int(a) for a, b in zip(old, new, strict=True)]
    mean = sum(pairs) / len(pairs)
    variance = sum((pair - mean) ** 2 for pair in pairs) / len(pairs)
    return mean, 1.959964 * (variance / len(pairs)) ** 0.5


def table(old: Mapping[str, Sequence[bool]], new: Mapping[str, Sequence[bool]]) -> str:
    lines = ["| part | n | old | new | new - old | |", "|---|---|---|---|---|---|"]
    for part in [part for part in old if part in new]:
        mean, half = difference(old[part], new[part])
        count = len(old[part])
        shares = f"{sum(old[part]) / count:.3f} | {sum(new[part]) / count:.3f}"
        mark = "below" if mean < -LOSS else ""
        lines.append(f"| {part} | {count} | {shares} | {mean:+.3f} ± {half:.3f} | {mark} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--split", default="all")
    parser.add_argument("--wording", default="plain")
    parser.add_argument("--output", type=Path, default=Path("paired"))
    options = parser.parse_args()
    config = EvaluationConfig(prompts=options.prompts, split=options.split, wording=options.wording)
    options.output.mkdir(parents=True, exist_ok=True)
    old, new = (
        verdicts(getattr(options, name), config, options.output / f"{name}.json") for name in ("old", "new")
    )
    page = table(old, new)
    write_whole(options.output / "paired.md", page)
    print(page)


if __name__ == "__main__":
    main()
