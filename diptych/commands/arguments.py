"""What several commands take, and how they show that they are at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from tyro.conf import Positional as Positional

from diptych.request import Plan, Role, Task

Images = Annotated[tuple[Path, ...], tyro.conf.arg(aliases=["-i"]), tyro.conf.UseAppendAction]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


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
        # None is 'not given' and no value of its own, so a seed or a scale of 0 goes through
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


PlanOverrides = Annotated[Overrides, tyro.conf.arg(name="")]


def print_plan(plan: Plan, console: Console) -> None:
    for key, value in plan.shown().items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        console.print(f"  [dim]{key:<22}[/dim]{escape(text)}", highlight=False)


@contextmanager
def progress(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar that goes when the block ends; yields advance(done, total)."""
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
