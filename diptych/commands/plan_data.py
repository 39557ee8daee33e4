"""diptych plan-data: requests with what they mean, for planners to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diptych.commands.arguments import Output
from diptych.commands.outputs import check_new


@dataclass(frozen=True, kw_only=True)
class PlanData:
    """Write planning data: requests in five languages, as JSONL, each with the plan that it means."""

    output: Output
    """The file."""
    count: int = 1000
    seed: int = 0
    """The same seed writes the same requests."""
    expand: Path | None = None
    """Folder of a language model that says each request in other words as well; what loses a value is
    dropped."""


def run(command: PlanData, console: Console) -> int:
    from diptych.planning.data.write import write

    check_new(command.output)
    reword = None
    if command.expand is not None:
        from diptych.planning.data.reword import Rewriter

        reword = Rewriter(command.expand, command.seed)
    count, reworded = write(command.output, command.count, command.seed, reword)
    more = f", and {reworded:,} of them in other words" if command.expand is not None else ""
    console.print(f"{count:,} requests{more} in {command.output}", highlight=False, soft_wrap=True)
    return 0
