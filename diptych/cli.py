"""The command line: a table of commands, and what happens to their errors."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import tyro
from rich.console import Console
from rich.markup import escape

from diptych.request import RequestError

COMMANDS = {
    "do": "Do",
    "plan": "ShowPlan",
    "info": "Info",
    "evaluate": "Evaluate",
    "export": "Export",
    "convert": "Convert",
    "grow": "Grow",
    "prune": "Prune",
    "demo": "Demo",
    "data": "Data",
    "train": "Train",
}
"""Command -> class that says what it takes, in the module of the command's name under `commands`. There,
`run(command, console)` carries it out; a module that parses its own arguments has `main` instead."""

console = Console()


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0, or 2 for an error of the user's with one clear sentence."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] and arguments[0] in COMMANDS:
            return _run(arguments[0], arguments[1:])
        # help, or a word that is no command: only this needs every module
        kinds = {name: getattr(_module(name), kind) for name, kind in COMMANDS.items()}
        tyro.extras.subcommand_cli_from_dict(
            kinds,
            args=arguments,
            prog="diptych",
            description="Models that both see and draw.",
        )  # type: ignore[call-overload]
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2


def _run(name: str, arguments: list[str]) -> int:
    module = _module(name)
    if hasattr(module, "main"):
        return int(module.main(arguments, console))
    command = tyro.cli(getattr(module, COMMANDS[name]), args=arguments, prog=f"diptych {name}")
    return int(module.run(command, console))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"diptych.commands.{name}")


def _user_errors() -> tuple[type[Exception], ...]:
    errors: list[type[Exception]] = [RequestError, ValueError, FileNotFoundError]
    # looked up, not imported: they come with torch, and where they are not loaded they were not raised
    for module, kind in (
        ("diptych.training.checkpoint", "CheckpointError"),
        ("diptych.training.trainer", "TrainingStopped"),
    ):
        if module in sys.modules:
            errors.append(getattr(sys.modules[module], kind))
    return tuple(errors)


if __name__ == "__main__":
    sys.exit(main())
