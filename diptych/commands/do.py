"""diptych do: carry out a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from diptych.commands.arguments import (
    Images,
    Json,
    Overrides,
    PlanOverrides,
    Positional,
    print_plan,
    understood,
)
from diptych.commands.outputs import check_file
from diptych.commands.terminal import progress
from diptych.files.typed import to_json
from diptych.files.visible import visible
from diptych.request import TASKS, Media, Plan, Product, RequestError, Task

if TYPE_CHECKING:
    from diptych.inference import Pipeline, Result


@dataclass(frozen=True, kw_only=True)
class Do:
    """Carry out a request: draw, answer or edit. The plan and progress go to stderr, the answer or the names
    of the pictures to stdout."""

    request: Positional[str]
    """In plain words: "two cats above a red heart", "how many cats are there?", "remove the heart"."""
    image: Images = ()
    """Picture to ask about or to change."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Picture to write, out.png unless given; one that is there is replaced."""
    model: str = "default"
    """'default', a model folder, or 'hf:owner/name' of the hub."""
    best_of: int = 1
    """Draw so many and keep the best by the verifier."""
    keep: int = 1
    """Best ones that are kept."""
    verifier: str | None = None
    """'self' (the model asks itself; so unless given), 'clip', 'clip:MODEL' or 'vlm:MODEL'."""
    candidates: Path | None = None
    """Folder where all candidates and scores are saved; a selection that was stopped goes on from there."""
    json: Json = False
    """Print one JSON object: plan, answer, pictures with seeds and scores."""
    plan: PlanOverrides = field(default_factory=Overrides)


def run(command: Do, console: Console) -> int:
    _check_options(command)
    from diptych.systems.registry import settings_of

    overrides = command.plan
    if command.candidates is not None and overrides.seed is None:
        from diptych.inference.select import begun_with

        overrides = dataclasses.replace(overrides, seed=begun_with(command.candidates))
    plan, media = understood(settings_of(command.model), command.request, command.image, overrides)
    if TASKS[plan.task].makes is Product.TEXT:
        return _answer(command, plan, media)
    if command.best_of > 1 and (plan.task is not Task.TEXT_TO_IMAGE or plan.count != 1):
        raise RequestError(
            "best of N chooses among drawings of one prompt: ask for one picture, and for no edit"
        )
    from diptych.data.pictures import names

    output = command.output or Path("out.png")
    for path in names(output, command.keep if command.best_of > 1 else plan.count):
        check_file(path, plan.frames)
    print_plan(plan)
    # here and not above: the plan is told before torch and the model are loaded, which takes seconds
    import diptych
    from diptych.inference import Result

    pipeline = diptych.load(command.model)
    scores: list[float] | None = None
    if command.best_of > 1:
        found = _best_of(command, pipeline, plan, media)
        scores = [candidate.score for candidate in found]
        seeds = [candidate.seed for candidate in found]
        result = Result(plan, media=tuple(Media.picture(candidate.pixels) for candidate in found))
    else:
        seeds = [plan.seed + number for number in range(plan.count)]
        result = _drawn(pipeline, plan, media)
    paths = result.save(output)
    if command.json:
        pictures = [
            {"path": str(path), "seed": seed, "score": scores[number] if scores else None}
            for number, (path, seed) in enumerate(zip(paths, seeds, strict=True))
        ]
        _print_json(plan, "", pictures)
    elif scores is None:
        for path in paths:
            print(visible(str(path)))
    else:
        for path, seed, score in zip(paths, seeds, scores, strict=True):
            console.print(
                f"{escape(str(path))}  [dim]score {score:.3f}, seed {seed}[/dim]",
                highlight=False,
                soft_wrap=True,
            )
    return 0


def _check_options(command: Do) -> None:
    """What would have no effect is refused, before the model is loaded."""
    if command.best_of < 1:
        raise RequestError(f"best_of must be at least 1, got {command.best_of}")
    if command.best_of == 1:
        given = {
            "--keep": command.keep != 1,
            "--verifier": command.verifier is not None,
            "--candidates": command.candidates is not None,
        }
        for flag, there in given.items():
            if there:
                raise RequestError(f"{flag} says how the best of several is chosen: give --best-of too")


def _answer(command: Do, plan: Plan, media: Sequence[Media]) -> int:
    if command.output is not None or command.best_of > 1:
        raise RequestError("the request is a question, so no picture is drawn: leave out -o and --best-of")
    print_plan(plan)
    import diptych

    pipeline = diptych.load(command.model)
    if command.json:
        _print_json(plan, "".join(pipeline.stream(plan, media)), [])
        return 0
    # plain print: pieces come as they are written, and are neither wrapped nor read as markup
    for piece in pipeline.stream(plan, media):
        print(visible(piece), end="", flush=True)
    print()
    return 0


def _print_json(plan: Plan, text: str, pictures: list[dict[str, Any]]) -> None:
    print(to_json({"plan": dataclasses.asdict(plan), "text": text, "pictures": pictures}), end="")


def _drawn(pipeline: Pipeline, plan: Plan, media: Sequence[Media]) -> Result:
    from diptych.inference.draw import BATCH

    total = (plan.steps or 0) * -(-plan.count // BATCH)
    steps = 0
    with progress("drawing, step") as advance:

        def step(_: int) -> None:
            nonlocal steps
            steps += 1
            advance(steps, total)

        return pipeline.carry_out(plan, media, step)


def _best_of(command: Do, pipeline: Pipeline, plan: Plan, media: Sequence[Media]) -> Sequence[Any]:
    from diptych.inference import best_of, load_verifier
    from diptych.systems.registry import open_ours

    system = pipeline.system
    verifier = load_verifier(command.verifier or "self", system, partial(open_ours, device=system.device))
    with progress("drawing and judging") as advance:
        return best_of(
            system,
            plan,
            verifier,
            command.best_of,
            command.keep,
            media,
            command.candidates,
            lambda done: advance(done, command.best_of),
        )
