"""What `diptych grow` and `diptych prune` take and do."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from diptych.request import RequestError

Positional = tyro.conf.Positional
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
CALIBRATION, IMPORTANCE = "calibration.json", "importance.png"


@dataclass(frozen=True, kw_only=True)
class Grow:
    """Make a model deeper, wider or both: it computes what its kept blocks computed, and learns on from
    there."""

    source: Positional[str]
    """'default', a model folder, or the folder of a run, whose optimiser state comes along unless the width
    grows."""
    output: Output
    depth: int | None = None
    """Blocks of the grown model."""
    width: int | None = None
    """Channels of the grown model, a multiple of what they are: each is repeated, the function stays."""
    keep: int | None = None
    """First blocks that are kept, for the strategy 'partial': all but the last two unless given."""
    strategy: Literal["partial", "cyclic", "replicate"] = "partial"
    """'partial': new blocks change nothing yet; 'cyclic': all blocks over and over; 'replicate': each several
    times in a row."""
    seed: int = 0


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


def grow(command: Grow, console: Console) -> int:
    from diptych.surgery import grow as run
    from diptych.surgery import growth_plan, widen
    from diptych.systems import load_system
    from diptych.systems.folder import locate
    from diptych.systems.lineage import child

    if command.depth is None and command.width is None:
        raise RequestError("give --depth, the blocks of the grown model, or --width, its channels")
    if command.depth is None and (command.keep is not None or command.strategy != "partial"):
        raise RequestError(
            "--keep and --strategy say how a model gets deeper; give --depth, the blocks of the grown model"
        )
    _new(command.output)
    source = Path(command.source)
    optimiser: dict[str, Any] = {}
    system: Any
    if (source / "checkpoints").is_dir():
        from diptych.training.export import exported, optimiser_state

        system = exported(source)
        optimiser = optimiser_state(source)
    else:
        system = load_system(locate(command.source))
    said, told, plan = [], f"diptych grow {shlex.quote(command.source)}", None
    if command.depth is not None:
        blocks = len(system.model.blocks)
        plan = growth_plan(blocks, command.depth, command.keep, command.strategy)
        system.model = run(system.model, command.depth, command.keep, command.strategy, command.seed)
        new = sum(block is None for block in plan)
        how = f"{command.depth - new} kept, {new} new" if command.strategy == "partial" else command.strategy
        said.append(f"from {blocks} to {command.depth} blocks ({how})")
        kept = "" if command.keep is None else f" --keep {command.keep}"
        told += f" --depth {command.depth}{kept} --strategy {command.strategy}"
    if command.width is not None:
        said.append(f"from {system.model.config.width} to {command.width} channels")
        system.model = widen(system.model, command.width, command.seed)
        told += f" --width {command.width}"
        optimiser = {}  # of the narrow weights
    made = f"grown {' and '.join(said)}"
    system.card = child(
        system.card, command.source, command.output.name, made, f"{told} --seed {command.seed}"
    )
    _write(system, command.output, optimiser, plan)
    console.print(
        f"{command.output}: {made}" + (", optimiser state with it" if optimiser else ""), highlight=False
    )
    return 0


def prune(command: Prune, console: Console) -> int:
    from diptych.data.prompts import read_prompts
    from diptych.inference import Pipeline
    from diptych.inference.calibrate import calibrate, draw_importance
    from diptych.surgery import kept_blocks
    from diptych.surgery import prune as run
    from diptych.systems import load_system
    from diptych.systems.folder import locate
    from diptych.systems.lineage import child

    system: Any = load_system(locate(command.source))
    pipeline = Pipeline(system)
    blocks = len(system.model.blocks)
    kept_blocks(
        [0.0] * blocks, command.depth
    )  # a depth that cannot be is found now, not after the calibration
    _new(command.output)
    if command.prompts < 1:
        raise RequestError(f"prompts must be at least 1, got {command.prompts}")
    prompts = read_prompts(command.calibrate, command.prompts)
    plans = [
        pipeline.plan(prompt, task="text-to-image", count=1, seed=number)
        for number, prompt in enumerate(prompts)
    ]
    command.output.mkdir(parents=True, exist_ok=True)
    with Progress(console=console) as bar:
        task = bar.add_task("calibrating", total=len(plans))
        importance = calibrate(
            system,
            system.model,
            plans,
            command.output / CALIBRATION,
            lambda done: bar.update(task, completed=done),
        )
    scores = importance.scores()
    kept = kept_blocks(scores, command.depth)
    table = Table(
        "block", "importance", "", title=f"1 - cosine similarity of input and output, {len(plans)} prompts"
    )
    for block, score in enumerate(scores):
        table.add_row(
            str(block),
            f"{score:.4f}",
            "" if block in kept else "goes",
            style=None if block in kept else "red",
        )
    console.print(table)
    draw_importance(importance, kept, command.output / IMPORTANCE)
    system.model = run(system.model, kept)
    gone = ", ".join(str(block) for block in range(blocks) if block not in kept)
    made = f"pruned from {blocks} to {command.depth} blocks (without {gone})"
    data = f"--calibrate {shlex.quote(str(command.calibrate))} --prompts {command.prompts}"
    told = f"diptych prune {shlex.quote(command.source)} --depth {command.depth} {data}"
    system.card = {
        **child(system.card, command.source, command.output.name, made, told),
        "importance": [round(score, 6) for score in scores],
    }
    _write(system, command.output)
    console.print(f"{command.output}: {made}; importance.png shows why", highlight=False, soft_wrap=True)
    console.print(
        "Train it on for a while now: --start with the recipe emoji-recover, or sana-finetune",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _new(output: Path) -> None:
    """Nothing that lies there already is ever overwritten, but for what a calibration left."""
    if (output / "config.json").exists():
        raise RequestError(f"{output} is a model already; choose another folder with -o")
    if output.exists() and not output.is_dir():
        raise RequestError(f"{output} is a file; choose a folder with -o")
    other = (
        [
            path.name
            for path in output.iterdir()
            if path.name.removesuffix(".part") not in (CALIBRATION, IMPORTANCE)
        ]
        if output.is_dir()
        else []
    )
    if other:
        raise RequestError(
            f"{output} holds other files ({sorted(other)[0]}); choose an empty or a new folder with -o"
        )


def _write(
    system: Any, output: Path, optimiser: dict[str, Any] | None = None, plan: list[int | None] | None = None
) -> None:
    """The whole model folder or none of it: written aside, then moved into place beside what a calibration
    left there."""
    from safetensors.torch import save_file

    from diptych.surgery.blocks import renamed
    from diptych.training.export import OPTIMISER

    aside, old = (output.with_name(f".{output.name}.{end}") for end in ("part", "old"))
    for stale in (aside, old):
        shutil.rmtree(stale, ignore_errors=True)
    if output.is_dir():
        shutil.copytree(output, aside)
    else:
        aside.mkdir(parents=True)
    if optimiser:
        assert plan is not None
        flat = {}
        for key, tensor in optimiser.items():
            owner, name, entry = key.split("|")
            flat |= {f"{owner}|{now}|{entry}": tensor.clone() for now in renamed(name, plan)}
        save_file(flat, aside / OPTIMISER)
    system.save(aside)
    if output.is_dir():
        output.rename(old)
    aside.rename(output)
    shutil.rmtree(old, ignore_errors=True)
