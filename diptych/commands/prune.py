"""diptych prune: a shallower model, without the blocks that matter least."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from diptych.commands.arguments import Output, Positional
from diptych.commands.outputs import check_output
from diptych.commands.terminal import progress
from diptych.request import TASKS, RequestError

CALIBRATION, IMPORTANCE = "calibration.json", "importance.png"


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Leave out the blocks that change their input least, as measured while the model draws calibration
    prompts."""

    source: Positional[str]
    """'default' or a model folder."""
    depth: int
    """Blocks that stay."""
    calibrate: Path
    """Prompts: .txt (one a line), .jsonl (prompt, caption or text), or an indexed folder of pictures."""
    output: Output
    prompts: int = 100


def run(command: Prune, console: Console) -> int:
    from diptych.data.prompts import read_prompts
    from diptych.files.lineage import child
    from diptych.files.whole import whole_folder
    from diptych.inference import Pipeline
    from diptych.inference.calibrate import calibrate, draw_importance
    from diptych.surgery import kept_blocks, prune
    from diptych.systems.registry import open_system, recipes

    system = open_system(command.source)
    pipeline = Pipeline(system)
    blocks = len(system.model.blocks)
    # a depth that cannot be is found now, not after the calibration
    kept_blocks([0.0] * blocks, command.depth)
    check_output(command.output, (CALIBRATION, IMPORTANCE))
    if command.prompts < 1:
        raise RequestError(f"prompts must be at least 1, got {command.prompts}")
    prompts = read_prompts(command.calibrate, command.prompts)
    # without media a task draws from its prompt alone: pictures before clips, as the table has them
    worded = [
        task for task, facts in TASKS.items() if task in system.settings.tasks and facts.draws_from_words
    ]
    if not worded:
        raise RequestError(f"{command.source} draws nothing from words alone, so prompts cannot calibrate it")
    plans = [
        # a seed for each prompt: with one for all, the importance would be that of a single noise
        pipeline.plan(prompt, task=worded[0], count=1, seed=number)
        for number, prompt in enumerate(prompts)
    ]
    command.output.mkdir(parents=True, exist_ok=True)
    with progress("calibrating") as advance:
        importance = calibrate(
            system,
            system.model,
            plans,
            command.output / CALIBRATION,
            lambda done: advance(done, len(plans)),
        )
    scores = importance.scores()
    kept = kept_blocks(scores, command.depth)
    console.print(_table(scores, kept, len(plans)))
    draw_importance(importance, kept, command.output / IMPORTANCE)
    system.model = prune(system.model, kept)
    gone = ", ".join(str(block) for block in range(blocks) if block not in kept)
    made = f"pruned from {blocks} to {command.depth} blocks (without {gone})"
    data = f"--calibrate {shlex.quote(str(command.calibrate))} --prompts {command.prompts}"
    told = f"diptych prune {shlex.quote(command.source)} --depth {command.depth} {data}"
    system.card = {
        **child(system.card, command.source, command.output.name, made, told),
        # scores go with the model: what was measured cannot be measured again without the blocks that went
        "importance": [round(score, 6) for score in scores],
    }
    with whole_folder(command.output) as folder:
        system.save(folder)
    console.print(f"{command.output}: {made}; {IMPORTANCE} shows why", highlight=False, soft_wrap=True)
    able = [name for name, (family, _) in recipes().items() if family.name == system.family]
    console.print(
        f"Train it on for a while now: diptych train RECIPE --start {shlex.quote(str(command.output))}, with "
        f"a recipe of its family ({', '.join(able)})",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _table(scores: Sequence[float], kept: Sequence[int], prompts: int) -> Table:
    table = Table(
        "block", "importance", "", title=f"1 - cosine similarity of input and output, {prompts} prompts"
    )
    for block, score in enumerate(scores):
        stays = block in kept
        table.add_row(
            str(block),
            f"{score:.4f}",
            "" if stays else "goes",
            style=None if stays else "red",
        )
    return table
