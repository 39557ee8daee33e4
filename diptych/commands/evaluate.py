"""diptych evaluate: judge a model on the emoji benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from diptych.commands.arguments import Output, Positional, progress
from diptych.request import RequestError

if TYPE_CHECKING:
    from diptych.evaluation import EvaluationConfig, best_of
    from diptych.inference import Pipeline
    from diptych.worlds.emoji import EmojiWorld


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge a model on the emoji benchmark: drawing, questions, edits."""

    model: Positional[str] = "default"
    output: Output = Path("evaluation")
    prompts: int = 100
    """Per category and split, per question type and per edit type."""
    seed: int = 1_000_003
    split: str = "all"
    """all, drawing, questions or edits."""
    best_of: int = 1
    """Instead: the score of drawing against N = 1, 2, 4 ... candidates, chosen by each verifier."""
    verifier: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """For that: 'self' (unless given), 'clip', 'clip:MODEL' or 'vlm:MODEL'; several may be compared."""


def run(command: Evaluate, console: Console) -> int:
    import diptych
    from diptych.evaluation import EvaluationConfig, evaluate
    from diptych.evaluation.report import print_table, write
    from diptych.worlds.emoji import EmojiWorld, world_of

    config = EvaluationConfig(prompts=command.prompts, seed=command.seed, split=command.split)
    pipeline = diptych.load(command.model)
    # the world that the model was trained in, or it would be asked for glyphs that it has never seen
    world = EmojiWorld(world_of(pipeline.system.card))
    if command.best_of != 1:
        return _best_of(command, pipeline, world, config, console)
    with console.status("evaluating") as status:
        result = evaluate(
            pipeline,
            world,
            config,
            lambda part, done, total: status.update(f"{part} ({done + 1} of {total})"),
        )
    print_table(result, console)
    for path in write(result, command.output, command.model, config):
        console.print(str(path), highlight=False)
    return 0


def _best_of(
    command: Evaluate,
    pipeline: Pipeline,
    world: EmojiWorld,
    config: EvaluationConfig,
    console: Console,
) -> int:
    from diptych.evaluation import best_of
    from diptych.inference import load_verifier
    from diptych.inference.select import MAX_CANDIDATES
    from diptych.systems.registry import open_ours

    if not 1 < command.best_of <= MAX_CANDIDATES:
        raise RequestError(f"best of N takes 1 to {MAX_CANDIDATES} candidates, got {command.best_of}")
    opener = partial(open_ours, device=pipeline.system.device)
    names = command.verifier or ("self",)
    verifiers = {name: load_verifier(name, pipeline.system, opener) for name in names}
    with progress("drawing and judging", console) as advance:
        rows = best_of.candidates(
            pipeline,
            world,
            verifiers,
            config,
            command.best_of,
            command.output,
            advance,
        )
    result = best_of.curve(rows)
    _print_curve(result, console)
    notes = [
        f"{name}: learnt from labels of the checker's own rule, which is the metric too"
        for name, verifier in verifiers.items()
        # verifiers that are no model of ours have no card, and learnt nothing from the checker
        if best_of.shares_labels(getattr(getattr(verifier, "system", None), "card", {}))
    ]
    for note in notes:
        console.print(note, highlight=False)
    for path in best_of.write(result, command.output, notes):
        console.print(str(path), highlight=False)
    return 0


def _print_curve(result: best_of.Curve, console: Console) -> None:
    table = Table(
        "verifier", *(f"N = {n}" for n in result.counts), title="right pictures, mean of six categories"
    )
    for name, means in result.means.items():
        shares = zip(means, result.halves[name], strict=True)
        table.add_row(name, *(f"{mean:.3f} ± {half:.3f}" for mean, half in shares))
    console.print(table)
