"""diptych evaluate: judge a model on the emoji benchmark, or planners on the routing benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych.commands.arguments import Dtype, Json, Output, Positional
from diptych.commands.outputs import check_output
from diptych.commands.terminal import aside, progress
from diptych.files.folder import DEFAULT
from diptych.files.typed import to_json
from diptych.request import RequestError

if TYPE_CHECKING:
    from diptych.evaluation import EvaluationConfig, best_of
    from diptych.inference import Pipeline
    from diptych.worlds.emoji import EmojiWorld

BEST_OF = ("candidates.jsonl", "best_of.json", "best_of.md", "best_of.png")
"""What an earlier evaluation with --best-of left, which goes on from its candidates."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge a model on the emoji benchmark: drawing, questions, edits, drawing by given pictures, clips."""

    model: Positional[str] = "default"
    dtype: Dtype = "auto"
    """Type of the model's weights; 'auto': as its family keeps them."""
    output: Output = Path("evaluation")
    prompts: int = 100
    """Per category and split, per question type and per edit type."""
    seed: int = 1_000_003
    split: str = "all"
    """all, drawing, questions, edits, guided or clips."""
    wording: Literal["plain", "trained", "held-out", "free"] = "plain"
    """'plain': the benchmark's own words; or wide ones, in ways of saying that training has or has not; or
    'free' ones, written apart from training and planned as any request is, beside the same in plain words."""
    routing: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Instead: planners on the requests of the routing benchmark, and a named model that plans itself."""
    best_of: int = 1
    """Instead: the score of drawing against N = 1, 2, 4 ... candidates, chosen by each verifier."""
    verifier: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """For that: 'self' (unless given), 'clip', 'clip:MODEL' or 'vlm:MODEL'; several may be compared."""

    json: Json = False
    """Print one JSON object: what results.json holds, and the files that were written."""


def run(command: Evaluate, console: Console) -> int:
    if command.verifier and command.best_of == 1:
        raise RequestError("--verifier says how the best of several is chosen: give --best-of too")
    if command.split != "all" and command.best_of != 1:
        raise RequestError("--best-of judges drawing alone: leave --split out")
    if command.wording != "plain" and command.best_of != 1:
        raise RequestError("--best-of draws from the plain words: leave --wording out")
    if command.routing:
        return _routing(command, console)
    # before hours of work, whose results would have no place
    check_output(command.output, BEST_OF if command.best_of != 1 else ())
    import diptych
    from diptych.evaluation import EvaluationConfig, evaluate, evaluate_free
    from diptych.evaluation.report import print_table, write
    from diptych.worlds.emoji import EmojiWorld, world_of

    config = EvaluationConfig(
        prompts=command.prompts, seed=command.seed, split=command.split, wording=command.wording
    )
    pipeline = diptych.load(command.model, dtype=command.dtype)
    # the world that the model was trained in, or it would be asked for glyphs that it has never seen
    world = EmojiWorld(world_of(pipeline.system.card))
    if command.best_of != 1:
        return _best_of(command, pipeline, world, config, console)
    with progress("evaluating") as advance:
        judged = evaluate_free if command.wording == "free" else evaluate
        result = judged(pipeline, world, config, lambda part, done, total: advance(done, total))
    # written before anything is printed: who reads what is printed may be gone by then
    paths = write(result, command.output, command.model, config)
    if command.json:
        _print_json({"model": command.model, "results": result.summary()}, paths)
        return 0
    print_table(result, console)
    _print_paths(paths, console)
    return 0


def _routing(command: Evaluate, console: Console) -> int:
    """Every planner that is here on the requests of the routing benchmark."""
    plain = Evaluate(model=command.model, output=command.output, json=command.json, routing=True)
    if command != plain:
        raise RequestError(
            "--routing judges planners on fixed requests: give it a model, --output and --json alone"
        )
    check_output(command.output)
    import diptych
    from diptych.evaluation import routing
    from diptych.planning import Planner, RulePlanner
    from diptych.planning.learned import Learned

    learned = Learned.open()
    planners: dict[str, Planner] = {"rules": RulePlanner(), **({"learned": learned} if learned else {})}
    if command.model != DEFAULT:
        own = diptych.load(command.model).planner()
        if own is None:
            raise RequestError(f"{command.model} plans no requests itself: leave it out")
        planners[command.model] = own
    results = {}
    with progress("planning") as advance:
        for number, (name, planner) in enumerate(planners.items()):
            results[name] = routing.route(
                planner,
                progress=lambda done, total, before=number: advance(
                    before * total + done, len(planners) * total
                ),
            )
    paths = routing.write(results, command.output)
    if command.json:
        _print_json({"results": {name: result.summary() for name, result in results.items()}}, paths)
        return 0
    routing.print_tables(results, console)
    _print_paths(paths, console)
    return 0


def _print_paths(paths: Sequence[Path], console: Console) -> None:
    for path in paths:
        console.print(escape(str(path)), highlight=False, soft_wrap=True)


def _print_json(values: dict[str, Any], paths: Sequence[Path]) -> None:
    print(to_json({**values, "files": [str(path) for path in paths]}), end="")


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
    from diptych.inference.verifiers import YesNo
    from diptych.systems.registry import open_ours, sources_of

    if not 1 < command.best_of <= MAX_CANDIDATES:
        raise RequestError(f"best of N takes 1 to {MAX_CANDIDATES} candidates, got {command.best_of}")
    opener = partial(open_ours, device=pipeline.system.device)
    names = command.verifier or ("self",)
    verifiers = {name: load_verifier(name, pipeline.system, opener) for name in names}
    with progress("drawing and judging") as advance:
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
    notes = [
        f"{name}: learnt from labels of the checker's own rule, which is the metric too"
        for name, verifier in verifiers.items()
        # verifiers that are no model of ours learnt nothing from the checker
        if isinstance(verifier, YesNo) and best_of.shares_labels(sources_of(verifier.system))
    ]
    paths = best_of.write(result, command.output, notes)
    for note in notes:
        aside.print(escape(note), highlight=False, soft_wrap=True)
    if command.json:
        _print_json({"model": command.model, "results": dataclasses.asdict(result)}, paths)
        return 0
    _print_curve(result, console)
    _print_paths(paths, console)
    return 0


def _print_curve(result: best_of.Curve, console: Console) -> None:
    table = Table(
        "verifier", *(f"N = {n}" for n in result.counts), title="right pictures, mean of six categories"
    )
    for name, means in result.means.items():
        shares = zip(means, result.halves[name], strict=True)
        table.add_row(name, *(f"{mean:.3f} ± {half:.3f}" for mean, half in shares))
    console.print(table)
