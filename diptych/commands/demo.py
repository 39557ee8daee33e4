"""diptych demo: the main job, shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diptych.commands.arguments import Output
from diptych.commands.outputs import check_output


@dataclass(frozen=True, kw_only=True)
class Demo:
    """About eight requests on the model, with a page and a contact sheet of what came out."""

    output: Output = Path("demo")
    model: str = "default"


def run(command: Demo, console: Console) -> int:
    from diptych.inference.demo import left_over

    check_output(command.output, left_over(command.output))
    import diptych
    from diptych.inference.demo import run as show

    show(diptych.load(command.model), command.output, console)
    return 0
