"""diptych info: what a model is, and what memory a run will take."""

from __future__ import annotations

from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych.commands import train
from diptych.commands.arguments import Positional

_TOLD = (
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
)
"""Fields of a card that are shown, in this order."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Parts, parameters, memory, origin and licence of a model; `info --train RECIPE [overrides]`: memory
    that a run will take."""

    model: Positional[str] = "default"


def main(arguments: list[str], console: Console) -> int:
    if arguments[:1] == ["--train"]:
        return train.main(arguments[1:], console, estimate=True)
    return run(tyro.cli(Info, args=arguments, prog="diptych info"), console)


def run(command: Info, console: Console) -> int:
    import diptych
    from diptych.files.lineage import lines

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

    def tell(about: str, text: str) -> None:
        console.print(f"  [dim]{about:<12}[/dim]{escape(text)}", highlight=False, soft_wrap=True)

    for key in _TOLD:
        if key in system.card:
            tell(key, str(system.card[key]))
    card = system.card or {"name": command.model, "made": "no card: where it comes from is not known"}
    for generation, line in lines(card):
        tell("family tree" if generation == 0 else "", "   " * generation + line)
    sampler = system.sampler
    tell("draws", f"{system.native} px, {sampler.num_steps} steps, guidance {sampler.guidance_scale}")
    return 0
