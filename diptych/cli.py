"""The command line: parses, calls, prints."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych import surgery_command
from diptych.request import Media, Plan, RequestError, Role, Task

if TYPE_CHECKING:
    from diptych.evaluation import EvaluationConfig
    from diptych.inference import Pipeline
    from diptych.training.sana_config import SanaTrainConfig
    from diptych.worlds.emoji import EmojiWorld

Positional = tyro.conf.Positional
Images = Annotated[tuple[Path, ...], tyro.conf.arg(aliases=["-i"]), tyro.conf.UseAppendAction]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
console = Console()


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Fields of the plan, where they should differ from what was understood."""

    task: Task | None = None
    prompt: str | None = None
    inputs: tuple[Role, ...] | None = None
    """Role of each attached picture, in order."""
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    count: int | None = None
    """Pictures to draw."""
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    negative_prompt: str | None = None

    def given(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclass(frozen=True, kw_only=True)
class Do:
    """Carry out a request: draw, answer or edit."""

    request: Positional[str]
    """In plain words: "two cats above a red heart", "how many cats are there?", "remove the heart"."""
    image: Images = ()
    """Picture to ask about or to change."""
    output: Output = Path("out.png")
    model: str = "default"
    """'default', a model folder or a hub id."""
    best_of: int = 1
    """Draw so many and keep the best by the verifier."""
    keep: int = 1
    """Best ones that are kept."""
    verifier: str = "self"
    """'self' (the model asks itself), 'clip', 'clip:MODEL' or 'vlm:MODEL'."""
    candidates: Path | None = None
    """Folder where all candidates and scores are saved; a selection that was stopped goes on from there."""
    plan: Annotated[Overrides, tyro.conf.arg(name="")] = field(default_factory=Overrides)


@dataclass(frozen=True, kw_only=True)
class ShowPlan:
    """Print what a request is understood as, without carrying it out."""

    request: Positional[str]
    image: Images = ()
    model: str = "default"
    plan: Annotated[Overrides, tyro.conf.arg(name="")] = field(default_factory=Overrides)


@dataclass(frozen=True, kw_only=True)
class Info:
    """Parts, parameters, memory, origin and licence of a model; `info --train RECIPE [overrides]`: memory
    that a run will take."""

    model: Positional[str] = "default"


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


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's EMA weights as a model folder."""

    run: Positional[Path]
    output: Output = Path("model")
    hardware: str = "not recorded"


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a SANA model in another form: our folder, diffusers' pipeline folder, the native checkpoint; or a
    LoRA in another style."""

    source: Positional[Path]
    output: Positional[Path]
    to: Literal["diptych", "diffusers", "sana", "lora-peft", "lora-diffusers", "lora-kohya"]
    base: Path | None = None
    """Folder whose text encoder and autoencoder go with a native checkpoint, which holds the denoiser
    alone."""
    cross_heads: int | None = None
    """Heads of a native checkpoint's cross-attention, where its width is no published one."""
    lora: Path | None = None
    """LoRA file, of any style, that is merged into the model."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """About eight requests on the model, with a page and a contact sheet of what came out."""

    output: Output = Path("demo")
    model: str = "default"


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0, or 2 for an error of the user's with one clear sentence."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["train"]:
            return train(arguments[1:])
        if arguments[:2] == ["info", "--train"]:
            return train(arguments[2:], estimate=True)
        if arguments[:1] == ["data"]:
            from diptych import data_command

            return data_command.main(arguments[1:], console)
        commands = {
            "do": Do,
            "plan": ShowPlan,
            "info": Info,
            "evaluate": Evaluate,
            "export": Export,
            "convert": Convert,
            "grow": surgery_command.Grow,
            "prune": surgery_command.Prune,
            "demo": Demo,
            "data": _DataHelp,
            "train": _TrainHelp,
        }
        chosen = tyro.extras.subcommand_cli_from_dict(
            commands, args=arguments, prog="diptych", description="Models that both see and draw."
        )  # type: ignore[call-overload]
        return int(_RUN[type(chosen)](chosen))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2


def _user_errors() -> tuple[type[Exception], ...]:
    errors: list[type[Exception]] = [RequestError, ValueError, FileNotFoundError]
    checkpoint = sys.modules.get("diptych.training.checkpoint")
    trainer = sys.modules.get("diptych.training.trainer")
    if checkpoint:
        errors.append(checkpoint.CheckpointError)
    if trainer:
        errors.append(trainer.TrainingStopped)
    return tuple(errors)


@dataclass(frozen=True, kw_only=True)
class _TrainHelp:
    """Train a recipe: diptych train RECIPE [-o FOLDER] [overrides]; 'diptych train RECIPE --help' lists
    them."""


@dataclass(frozen=True, kw_only=True)
class _DataHelp:
    """Pictures with captions: diptych data {index,inspect,cache,emoji}."""


def _print_plan(plan: Plan) -> None:
    for key, value in plan.shown().items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        console.print(f"  [dim]{key:<22}[/dim]{escape(text)}", highlight=False)


def do(command: Do) -> int:
    import diptych

    pipeline = diptych.load(command.model)
    media = [pipeline.open(path) for path in command.image]
    plan = pipeline.plan(command.request, len(media), **command.plan.given())
    _print_plan(plan)
    if (command.best_of, command.keep) != (1, 1):
        return _best_of(command, pipeline, plan, media)
    if plan.task is Task.ANSWER:
        for piece in pipeline.stream(plan, media):
            print(piece, end="", flush=True)
        print()
        return 0
    for path in pipeline.carry_out(plan, media).save(command.output):
        print(path)
    return 0


def _best_of(command: Do, pipeline: Pipeline, plan: Plan, media: list[Media]) -> int:
    from rich.progress import Progress

    from diptych.inference import Result, best_of, load_verifier

    if plan.task is not Task.TEXT_TO_IMAGE or plan.count != 1:
        raise RequestError(
            "best of N chooses among drawings of one prompt: ask for one picture, and for no edit"
        )
    verifier = load_verifier(command.verifier, pipeline.system)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("drawing and judging", total=command.best_of)
        found = best_of(
            pipeline.system,
            plan,
            verifier,
            command.best_of,
            command.keep,
            media,
            command.candidates,
            lambda done: bar.update(task, completed=done),
        )
    paths = Result(plan, images=tuple(candidate.pixels for candidate in found)).save(command.output)
    for path, candidate in zip(paths, found, strict=True):
        console.print(
            f"{path}  [dim]score {candidate.score:.3f}, seed {candidate.seed}[/dim]",
            highlight=False,
            soft_wrap=True,
        )
    return 0


def show_plan(command: ShowPlan) -> int:
    import diptych

    print(
        diptych.load(command.model)
        .plan(command.request, len(command.image), **command.plan.given())
        .to_json()
    )
    return 0


def info(command: Info) -> int:
    import diptych
    from diptych.systems.lineage import lines

    system = diptych.load(command.model).system
    table = Table(
        "part",
        "parameters",
        "MiB in float32",
        title=f"{system.card.get('name', command.model)} (family {system.family})",
    )
    total = 0
    for name, module in system.parts().items():
        count = sum(p.numel() for p in module.parameters())
        total += count
        table.add_row(name, f"{count:,}", f"{count * 4 / 2**20:.1f}")
    table.add_row("all", f"{total:,}", f"{total * 4 / 2**20:.1f}", style="bold")
    console.print(table)
    for key in (
        "licence",
        "data",
        "made",
        "command",
        "hardware",
        "torch",
        "seed",
        "steps",
        "seconds",
        "documents",
        "weights",
    ):
        if key in system.card:
            console.print(
                f"  [dim]{key:<12}[/dim]{escape(str(system.card[key]))}", highlight=False, soft_wrap=True
            )
    for generation, line in lines(
        system.card or {"name": command.model, "made": "no card: where it comes from is not known"}
    ):
        console.print(
            f"  [dim]{'family tree' if generation == 0 else '':<12}[/dim]{'   ' * generation}{escape(line)}",
            highlight=False,
            soft_wrap=True,
        )
    sampler = system.sampler
    console.print(
        f"  [dim]{'draws':<12}[/dim]{system.native} px, {sampler.num_steps} steps, guidance "
        f"{sampler.guidance_scale}",
        highlight=False,
    )
    return 0


def evaluate(command: Evaluate) -> int:
    import diptych
    from diptych.evaluation import EvaluationConfig
    from diptych.evaluation import evaluate as run
    from diptych.evaluation.report import print_table, write
    from diptych.training.config import from_dict
    from diptych.worlds.emoji import EmojiWorld, WorldConfig

    config = EvaluationConfig(prompts=command.prompts, seed=command.seed, split=command.split)
    pipeline = diptych.load(command.model)
    world = EmojiWorld(
        from_dict(WorldConfig, pipeline.system.card.get("recipe", {}).get("world", {}), "card.json")
    )
    if command.best_of != 1:
        return _evaluate_best_of(command, pipeline, world, config)
    with console.status("evaluating") as status:
        result = run(
            pipeline,
            world,
            config,
            lambda part, done, total: status.update(f"{part} ({done + 1} of {total})"),
        )
    print_table(result, console)
    for path in write(result, command.output, command.model, config):
        console.print(str(path), highlight=False)
    return 0


def _evaluate_best_of(
    command: Evaluate, pipeline: Pipeline, world: EmojiWorld, config: EvaluationConfig
) -> int:
    from rich.progress import Progress

    from diptych.evaluation import best_of
    from diptych.inference import load_verifier
    from diptych.inference.select import MAX_CANDIDATES

    if not 1 < command.best_of <= MAX_CANDIDATES:
        raise RequestError(f"best of N takes 1 to {MAX_CANDIDATES} candidates, got {command.best_of}")
    verifiers = {name: load_verifier(name, pipeline.system) for name in command.verifier or ("self",)}
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("drawing and judging", total=None)
        rows = best_of.candidates(
            pipeline,
            world,
            verifiers,
            config,
            command.best_of,
            command.output,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    result = best_of.curve(rows)
    table = Table(
        "verifier", *(f"N = {n}" for n in result.counts), title="right pictures, mean of six categories"
    )
    for name, means in result.means.items():
        table.add_row(
            name, *(f"{mean:.3f} ± {half:.3f}" for mean, half in zip(means, result.halves[name], strict=True))
        )
    console.print(table)
    notes = [
        f"{name}: learnt from labels of the checker's own rule, which is the metric too"
        for name, verifier in verifiers.items()
        if best_of.shares_labels(getattr(getattr(verifier, "system", None), "card", {}))
    ]
    for note in notes:
        console.print(note, highlight=False)
    for path in best_of.write(result, command.output, notes):
        console.print(str(path), highlight=False)
    return 0


def export(command: Export) -> int:
    from diptych.training.export import export as run

    values = json.loads((command.run / "config.json").read_text())
    run(command.run, command.output, command=f"diptych train {values['name']}", hardware=command.hardware)
    console.print(f"{command.output}: written")
    return 0


def convert(command: Convert) -> int:
    from diptych.systems.convert import convert_lora, convert_model

    if command.to.startswith("lora-"):
        convert_lora(command.source, command.output, command.to.removeprefix("lora-"))
        console.print(f"{command.output}: written")
        return 0
    for difference in convert_model(
        command.source, command.output, command.to, command.base, command.cross_heads, command.lora
    ):
        console.print(
            f"[yellow]note:[/yellow] {escape(difference)}: its code will draw slightly other pictures",
            highlight=False,
        )
    console.print(f"{command.output}: written")
    return 0


def demo(command: Demo) -> int:
    import diptych
    from diptych.inference.demo import run

    run(diptych.load(command.model), command.output, console)
    return 0


def train(arguments: list[str], estimate: bool = False) -> int:
    """diptych train RECIPE [-o FOLDER] [--jsonl FILE] [overrides of the recipe's config]"""
    from diptych.recipes import RECIPES

    if not arguments or arguments[0].startswith("-"):
        console.print(f"usage: diptych train RECIPE [-o FOLDER] [overrides]\nrecipes: {', '.join(RECIPES)}")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    name = arguments[0]
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        raise RequestError(
            f"there is no recipe {name!r}"
            + (f" (nearest: {near[0]!r})" if near else "")
            + f"; recipes: {', '.join(RECIPES)}"
        )

    from diptych.train_command import SanaTrainCommand, TrainCommand
    from diptych.training.config import TrainConfig
    from diptych.training.run import run, run_sana
    from diptych.training.sana_config import SanaTrainConfig

    recipe = RECIPES[name]()
    if isinstance(recipe, SanaTrainConfig):
        sana = SanaTrainCommand(output=Path("runs") / name, config=recipe)
        sana = tyro.cli(SanaTrainCommand, args=arguments[1:], prog=f"diptych train {name}", default=sana)
        if estimate:
            return _print_memory(sana.config)
        run_sana(sana.config, sana.output, sana.start)
        return 0
    assert isinstance(recipe, TrainConfig)
    if estimate:
        raise RequestError(
            "memory is estimated for SANA's recipes "
            f"({', '.join(n for n in RECIPES if n.startswith('sana'))}), not for {name!r}"
        )
    default = TrainCommand(output=Path("runs") / name, config=recipe)
    command = tyro.cli(TrainCommand, args=arguments[1:], prog=f"diptych train {name}", default=default)
    config = command.config
    if command.mixture:
        config = dataclasses.replace(
            config, stages=tuple(dataclasses.replace(s, mixture=command.mixture) for s in config.stages)
        )
    run(config, command.output, command.jsonl, command.text, command.start)
    return 0


def _print_memory(config: SanaTrainConfig) -> int:
    from diptych.spaces import load_space
    from diptych.training.memory import estimate

    factor = load_space(Path(config.space)).factor if config.space else 32
    memory = estimate(config, factor)
    table = Table(
        "memory of one process",
        "MiB",
        title=f"{config.name}, {config.data.pictures_per_step // config.data.accumulate} pictures at once",
    )
    for name in ("weights", "optimiser", "ema", "activations", "working", "gradients"):
        table.add_row(name, f"{getattr(memory, name) / 2**20:,.0f}")
    table.add_row("peak", f"{memory.total / 2**20:,.0f}", style="bold")
    console.print(table)
    console.print(
        f"Latents {factor} times smaller; text encoder and autoencoder come on top. Gradients replace "
        "activations as the backward pass goes."
    )
    return 0


_RUN: dict[type, Any] = {
    Do: do,
    ShowPlan: show_plan,
    Info: info,
    Evaluate: evaluate,
    Export: export,
    Convert: convert,
    surgery_command.Grow: lambda command: surgery_command.grow(command, console),
    surgery_command.Prune: lambda command: surgery_command.prune(command, console),
    Demo: demo,
    _TrainHelp: lambda _: train([]),
    _DataHelp: lambda _: 2,
}

if __name__ == "__main__":
    sys.exit(main())
