"""diptych train planner: the planner that ships, from planning data alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from diptych.commands.arguments import Output

NAME = "planner"


def told() -> str:
    """What the list of recipes says of it."""
    return (
        "The planner of requests, from planning data alone, on a CPU; its file is planner/model.safetensors."
    )


def main(arguments: list[str], console: Console) -> int:
    from diptych.planning.trainer import PlannerRun, finish, train

    config: Any = Annotated[PlannerRun, tyro.conf.arg(name="")]

    @dataclass(frozen=True, kw_only=True)
    class TrainPlanner:
        """Train the planner of requests. A run that was stopped goes on in the same folder, with the settings
        that it was begun with; others are refused."""

        output: Output = Path("runs") / NAME
        config: config = dataclasses.field(default_factory=PlannerRun)

    # the annotation is made here, so that no help of another recipe needs torch
    TrainPlanner.__annotations__["config"] = config
    command = tyro.cli(TrainPlanner, args=arguments, prog=f"diptych train {NAME}")
    model = train(command.output, command.config)
    about = finish(command.output, model)
    console.print(
        f"{command.output / 'model.safetensors'}: of requests in wordings held out, task right "
        f"{about['task']:.3f}, roles {about['roles']:.3f}, all typed fields {about['typed']:.3f}",
        highlight=False,
        soft_wrap=True,
    )
    return 0
