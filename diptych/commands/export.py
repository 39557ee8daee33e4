"""diptych export: a run's averaged weights as a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diptych.commands.arguments import Output, Positional
from diptych.commands.outputs import check_new, check_output


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's EMA weights as a model folder."""

    run: Positional[Path]
    output: Output = Path("model")
    hardware: str = "not recorded"


def run(command: Export, console: Console) -> int:
    from diptych.systems.registry import open_system, read_run
    from diptych.training.export import export

    check_output(command.output)
    family, config = read_run(command.run)
    if config.lora_rank:
        # where the adapters go by themselves
        check_new(command.output.with_name(f"{command.output.name}-lora.safetensors"))
    export(
        family,
        config,
        command.run,
        command.output,
        open_system,
        command=f"diptych train {config.name}",
        hardware=command.hardware,
    )
    console.print(f"{command.output}: written")
    return 0
