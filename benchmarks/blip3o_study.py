"""BLIP3-o's study in the small emoji world: latents or features, flow or regression, and pixels; three
bridges; one after the other or both at once; instruction tuning.

Every run has the same number of pictures, the same prompts and the same frozen language model, the shipped
default. Rows first, then bridges, then joint training, then tuning; all seeds of each. Runs the public
commands (train, export) in a folder; what was stopped goes on. Prints each score, and writes study.json and
study.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.data.pictures import save_picture
from diptych.evaluation.emoji import EvaluationConfig, evaluate
from diptych.files.whole import write_whole
from diptych.flow import NoiseLaw
from diptych.inference import Pipeline, draw
from diptych.models.mot import MoT
from diptych.request import Task
from diptych.systems.blip3o.recipes import SMALL_WORLD
from diptych.systems.blip3o.spaces import load_any
from diptych.systems.registry import open_system
from diptych.systems.u1.recipes import emoji
from diptych.systems.u1.system import U1System
from diptych.worlds.emoji import CATEGORIES, Checker, EmojiWorld, WorldConfig
from diptych.worlds.emoji.captions import caption, sample_wanted

PICTURES, CURATED, TUNED_KIND = 6000, 96, "position"
STEPS, PER_STEP, TUNING, TALKS = 512, 32, 128, 4
PROMPTS, ASKED = 25, 20
DIVERSE_PROMPTS, DIVERSE_PICTURES = 12, 6
TEST_SEED = 1_000_003
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass(frozen=True)
class Run:
    """One training and its judgement."""

    part: str
    name: str
    seed: int
    recipe: tuple[str, ...]
    """Recipe and flags."""
    questions: bool = False
    """Whether what it answers is judged too."""

    def folder(self, root: Path) -> Path:
        return root / "runs" / f"{self.name.replace(' ', '-')}-{self.seed}"


def diptych(*arguments: str) -> None:
    print("$ diptych", *arguments, flush=True)
    command = [sys.executable, "-m", "diptych.cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)


def flags(**values: Any) -> tuple[str, ...]:
    """steps=3 -> --steps 3; two underscores are a dot."""
    return tuple(
        word
        for key, value in values.items()
        for word in (f"--{key.replace('__', '.').replace('_', '-')}", str(value))
    )


def runs(root: Path, seeds: int) -> Iterator[Run]:
    pictures, features = str(root / "pictures"), str(root / "features")
    common = {"pictures": pictures, "stages__0__steps": STEPS, "sample_every": 10**6}
    spaces = {"latents": str(root / "latents"), "features": features}

    def drawing(space: str, seed: int, **more: Any) -> tuple[str, ...]:
        cached = {
            "space": spaces[space],
            "cache": str(root / f"cache-{space}-{more.get('bridge', 'states')}"),
        }
        return ("blip3o", *flags(**common, **cached, seed=seed, **more))

    for seed in range(seeds):
        yield Run("rows", "VAE + flow", seed, drawing("latents", seed))
        yield Run("rows", "CLIP + MSE", seed, drawing("features", seed, loss="mse"))
        yield Run("rows", "CLIP + flow", seed, drawing("features", seed))
        yield Run("rows", "pixels", seed, native(root, seed))
    for seed in range(seeds):
        for bridge in ("queries", "connector"):
            yield Run("bridges", bridge, seed, drawing("features", seed, bridge=bridge))
    for seed in range(seeds):
        asked = {"space": features, "seed": seed, "talks_per_step": TALKS}
        yield Run("joint", "joint", seed, ("blip3o-joint", *flags(**common, **asked)), questions=True)
    for seed in range(seeds):
        start = str(Run("rows", "CLIP + flow", seed, ()).folder(root) / "model")
        for name, folder in (("tuned", "curated"), ("untuned", "pictures")):
            again = {"start": start, "pictures": str(root / folder), "stages__0__steps": TUNING, "seed": seed}
            yield Run("tuning", name, seed, ("blip3o-tuning", *flags(**again, sample_every=10**6)))


def native(root: Path, seed: int) -> tuple[str, ...]:
    """The default model's own design: its language part as it is, and a fresh part that draws pixels."""
    mixture = ("--mixture", "pictures", "1.0")
    stages = {f"stages__{n}__steps": 0 for n in (0, 2, 3)}
    world = {f"world__{key}": getattr(SMALL_WORLD, key) for key in ("objects", "size", "glyph")}
    rates = {"stages__1__optim__lr": 2e-3, "stages__1__optim__decay": 0.5, "ema": 0.99}
    values = {
        "start": str(root / "native"),
        "pictures": str(root / "pictures"),
        "data__documents_per_step": PER_STEP,
        "data__workers": 0,
        "stages__1__steps": STEPS,
        "flow__law__mean": 1.0,
        "flow__sampler__guidance_scale": 1.5,
        "sample_every": 10**6,
        "seed": seed,
    }
    return ("emoji", *flags(**values, **stages, **world, **rates), *mixture)


def prepare(root: Path) -> None:
    """Pictures, their index, the three spaces, and a native model whose part that draws is fresh."""
    world = EmojiWorld(SMALL_WORLD)
    for name, count, kinds in (("pictures", PICTURES, CATEGORIES), ("curated", CURATED, (TUNED_KIND,))):
        _write_pictures(world, root / name, count, kinds)
    for recipe, name in (("contrastive", "contrastive"), ("autoencoder", "latents")):
        _trained(root, name, (recipe, *flags(sample_every=10**6)))
    told = flags(
        encoder=root / "contrastive", space=root / "latents", pictures=root / "pictures", sample_every=10**6
    )
    _trained(root, "features", ("blip3o-detokenizer", *told))
    if not (root / "native" / "config.json").is_file():
        _fresh_native(root / "native")


def _write_pictures(world: EmojiWorld, folder: Path, count: int, kinds: tuple[str, ...]) -> None:
    """Scenes of seen combinations with their plain captions, each kind as often, and their index."""
    if (folder / "diptych-index.parquet").is_file():
        return
    for number in range(count):
        rng = np.random.default_rng([7, number, len(kinds)])
        wanted = sample_wanted(world, kinds[number % len(kinds)], rng)
        save_picture(world.render(world.scene_for(wanted, rng)), folder / f"{number:05d}.png")
        (folder / f"{number:05d}.txt").write_text(caption(world, wanted))
    diptych("data", "index", str(folder))


def _trained(root: Path, name: str, recipe: tuple[str, ...]) -> None:
    if not (root / name / "config.json").is_file():
        diptych("train", *recipe, "-o", str(root / "runs" / name))
        diptych("export", str(root / "runs" / name), "-o", str(root / name))


def _fresh_native(folder: Path) -> None:
    """The default model at tokens of half the size: words as it knows them, and a part that draws from
    scratch."""
    default = open_system("default")
    assert isinstance(default, U1System)
    model = MoT(replace(default.model.config, patch=default.model.config.patch // 2))
    known, drawing = dict(default.model.named_parameters()), MoT.facts.streams["generation"]
    with torch.no_grad():
        named = dict(model.named_parameters())
        for name, value in model.starting_values(torch.Generator().manual_seed(0)):
            kept = known.get(name)
            own = any(piece in name for piece in drawing) or kept is None or kept.shape != value.shape
            named[name].copy_(value if own else kept)
    flow = replace(emoji().flow, law=NoiseLaw(mean=1.0, std=1.2, shift=1.0))
    card = {"name": "native", "recipe": {}}
    U1System(model, default.tokenizer, flow, SMALL_WORLD.size, card, default.conversation).save(folder)


def scored(run: Run, root: Path, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """A run's scores; it is trained and judged now if it has not been."""
    folder, began = run.folder(root), clock()
    path = folder / "scores.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    if not (folder / "model" / "config.json").is_file():
        diptych("train", *run.recipe, "-o", str(folder / "run"))
        diptych("export", str(folder / "run"), "-o", str(folder / "model"))
    trained = clock() - began
    scores = judged(folder / "model", run.questions)
    scores |= {
        "seconds of training": round(trained, 1),
        "seconds of judging": round(clock() - began - trained, 1),
    }
    write_whole(path, json.dumps(scores, indent=1) + "\n")
    return scores


def judged(model: Path, questions: bool) -> dict[str, Any]:
    system = open_system(model)
    system.accelerate()
    pipeline, world = Pipeline(system), EmojiWorld(SMALL_WORLD)
    config = EvaluationConfig(prompts=PROMPTS, split="drawing")
    scores = evaluate(pipeline, world, config).summary()
    scores["diversity"] = diversity(pipeline, world)
    if questions:
        asked = EvaluationConfig(prompts=ASKED, split="questions")
        scores |= evaluate(pipeline, EmojiWorld(WorldConfig()), asked).summary()
    return scores


def diversity(pipeline: Pipeline, world: EmojiWorld) -> dict[str, float]:
    """Mean distance of two pictures of one prompt, the root of the mean squared difference of pixels (0..1);
    of right pictures alone; and of the world's own pictures of the same prompts."""
    checker, rng = Checker(world), np.random.default_rng(TEST_SEED)
    drawn, right, real = [], [], []
    for number in range(DIVERSE_PROMPTS):
        wanted = sample_wanted(world, CATEGORIES[number % len(CATEGORIES)], rng)
        text = caption(world, wanted)
        plans = [
            pipeline.plan(text, seed=TEST_SEED + n, task=Task.TEXT_TO_IMAGE) for n in range(DIVERSE_PICTURES)
        ]
        pictures = [frames[0] for frames in draw(pipeline.system, plans)]
        drawn += _distances(pictures)
        right += _distances([p for p in pictures if checker.satisfies(checker.detect(p), wanted)])
        real += _distances([world.render(world.scene_for(wanted, rng)) for _ in range(DIVERSE_PICTURES)])
    return {
        "drawn": float(np.mean(drawn)),
        "right": float(np.mean(right)) if right else float("nan"),
        "pairs right": len(right),
        "world": float(np.mean(real)),
    }


def _distances(pictures: list[np.ndarray]) -> list[float]:
    scaled = [picture.astype(np.float32) / 255 for picture in pictures]
    return [float(np.sqrt(np.square(one - other).mean())) for one, other in combinations(scaled, 2)]


def ceilings(root: Path) -> dict[str, float]:
    """Share of the world's own pictures that are still right when they come back from each space: what no
    drawing in it can pass."""
    path = root / "ceilings.json"
    if path.is_file():
        found: dict[str, float] = json.loads(path.read_text())
        return found
    world, rng = EmojiWorld(SMALL_WORLD), np.random.default_rng(TEST_SEED)
    checker = Checker(world)
    wanted = [sample_wanted(world, CATEGORIES[n % len(CATEGORIES)], rng) for n in range(120)]
    pictures = np.stack([world.render(world.scene_for(one, rng)) for one in wanted])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)[:, None]
    shares = {}
    for name in ("latents", "features"):
        space = load_any(root / name)
        back = space.decode(space.encode(pixels), seeds=range(len(wanted)))[:, 0].permute(0, 2, 3, 1).numpy()
        shares[name] = float(
            np.mean([checker.satisfies(checker.detect(p), w) for p, w in zip(back, wanted, strict=True)])
        )
    write_whole(path, json.dumps(shares, indent=1) + "\n")
    return shares


def pooled(values: list[float]) -> tuple[float, float]:
    """Mean over seeds, and the half-width of its 95 % interval: Student's t over the seeds."""
    mean, count = sum(values) / len(values), len(values)
    if count < 2:
        return mean, float("nan")
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, STUDENT[count] * math.sqrt(variance / count)


def _value(scores: Mapping[str, Any], what: str) -> float:
    part, _, kind = what.partition(": ")
    if part == "diversity":
        return float(scores["diversity"][kind])
    if kind == "others":
        by = {name: one for name, one in scores[part]["by"].items() if name != TUNED_KIND}
        return float(np.mean([one["score"] for one in by.values()]))
    return float(scores[part]["by"][kind]["score"] if kind else scores[part]["mean"])


COLUMNS = {
    "rows": ("drawing, seen", "drawing, held-out", "diversity: drawn", "seconds of training"),
    "bridges": ("drawing, seen", "drawing, held-out", "diversity: drawn", "seconds of training"),
    "joint": ("drawing, seen", "drawing, held-out", "questions", "seconds of training"),
    "tuning": (
        f"drawing, seen: {TUNED_KIND}",
        "drawing, seen: others",
        f"drawing, held-out: {TUNED_KIND}",
        "drawing, held-out: others",
    ),
}
SHARED = {"bridges": {"states": "CLIP + flow"}, "joint": {"sequential": "CLIP + flow"}}
"""Rows that stand in a later table as well."""


def tables(found: Mapping[tuple[str, str], list[dict[str, Any]]], unchanged: dict[str, Any] | None) -> str:
    """Tables of what has been judged so far, in Markdown."""
    text = []
    for part, columns in COLUMNS.items():
        names = [name for group, name in found if group == part]
        lines = {name: found[part, name] for name in names}
        for name, row in SHARED.get(part, {}).items():
            if lines and ("rows", row) in found:
                # the frozen language model answers as it did: judged once for all seeds
                more = unchanged or {}
                lines[name] = [{**scores, **more} for scores in found["rows", row]]
        if not lines:
            continue
        text += [
            f"## {part}\n",
            "| | " + " | ".join(columns) + " | seeds |",
            "|---" * (len(columns) + 2) + "|",
        ]
        for name, values in lines.items():
            cells = []
            for column in columns:
                try:
                    mean, half = pooled(
                        [v[column] if column.startswith("seconds") else _value(v, column) for v in values]
                    )
                    cells.append(f"{mean:.3f} ± {half:.3f}" if mean < 10 else f"{mean:.0f}")
                except KeyError:
                    cells.append("")
            text.append(f"| {name} | " + " | ".join(cells) + f" | {len(values)} |")
        text.append("")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    root: Path = options.folder
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    prepare(root)
    print(json.dumps({"back from each space": ceilings(root)}), flush=True)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    unchanged: dict[str, Any] | None = None
    for run in runs(root, options.seeds):
        scores = scored(run, root)
        found.setdefault((run.part, run.name), []).append(scores)
        if run.questions and unchanged is None:
            unchanged = _answers_of_default(root)
        told = {key: scores[key]["mean"] for key in ("drawing, seen", "drawing, held-out")}
        print(
            json.dumps({"part": run.part, "name": run.name, "seed": run.seed, **told, **scores["diversity"]}),
            flush=True,
        )
        # after every run: a study that was stopped has its tables
        table = {f"{part}: {name}": values for (part, name), values in found.items()}
        write_whole(root / "study.json", json.dumps(table, indent=1) + "\n")
        write_whole(root / "study.md", tables(found, unchanged))


def _answers_of_default(root: Path) -> dict[str, Any]:
    path = root / "answers.json"
    if not path.is_file():
        asked = EvaluationConfig(prompts=ASKED, split="questions")
        pipeline = Pipeline(open_system("default"))
        summary = evaluate(pipeline, EmojiWorld(WorldConfig()), asked).summary()
        write_whole(path, json.dumps(summary, indent=1) + "\n")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    main()
