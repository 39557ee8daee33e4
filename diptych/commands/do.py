"""diptych do: carry out a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from diptych.commands.arguments import Images, Output, Overrides, PlanOverrides, Positional, print_plan
from diptych.commands.arguments import progress as shown
from diptych.request import Media, Plan, RequestError, Task

if TYPE_CHECKING:
    from diptych.inference import Pipeline


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
    plan: PlanOverrides = field(default_factory=Overrides)


def run(command: Do, console: Console) -> int:
    import diptych

    pipeline = diptych.load(command.model)
    media = [pipeline.open(path) for path in command.image]
    plan = pipeline.plan(command.request, len(media), **command.plan.given())
    print_plan(plan, console)
    if (command.best_of, command.keep) != (1, 1):
        return _best_of(command, pipeline, plan, media, console)
    # plain print: pieces come as they are written, and are neither wrapped nor read as markup
    if plan.task is Task.ANSWER:
        for piece in pipeline.stream(plan, media):
            print(piece, end="", flush=True)
        print()
        return 0
    for path in pipeline.carry_out(plan, media).save(command.output):
        print(path)
    return 0


def _best_of(command: Do, pipeline: Pipeline, plan: Plan, media: Sequence[Media], console: Console) -> int:
    from diptych.inference import Result, best_of, load_verifier
    from diptych.systems.registry import open_ours

    if plan.task is not Task.TEXT_TO_IMAGE or plan.count != 1:
        raise RequestError(
            "best of N chooses among drawings of one prompt: ask for one picture, and for no edit"
        )
    system = pipeline.system
    verifier = load_verifier(command.verifier, system, partial(open_ours, device=system.device))
    with shown("drawing and judging", console) as advance:
        found = best_of(
            system,
            plan,
            verifier,
            command.best_of,
            command.keep,
            media,
            command.candidates,
            lambda done: advance(done, command.best_of),
        )
    drawn = Result(plan, media=tuple(Media.picture(candidate.pixels) for candidate in found))
    for path, candidate in zip(drawn.save(command.output), found, strict=True):
        console.print(
            f"{path}  [dim]score {candidate.score:.3f}, seed {candidate.seed}[/dim]",
            highlight=False,
            soft_wrap=True,
        )
    return 0
