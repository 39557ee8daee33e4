"""The command line: a table of commands, and what happens to their errors."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import re
import sys
import traceback
from types import ModuleType
from typing import Any, TextIO

import tyro
from rich.markup import escape

from diptych import __version__
from diptych.commands.arguments import check_no_flag_twice
from diptych.commands.terminal import Terminal, aside, visible
from diptych.request import RequestError

COMMANDS = {
    "do": "Do",
    "plan": "ShowPlan",
    "plan-data": "PlanData",
    "info": "Info",
    "evaluate": "Evaluate",
    "export": "Export",
    "convert": "Convert",
    "grow": "Grow",
    "prune": "Prune",
    "demo": "Demo",
    "data": "Data",
    "curate": "Curate",
    "train": "Train",
}
"""Command -> class that says what it takes, in the module of the command's name under `commands`. There,
`run(command, console)` carries it out; a module that parses its own arguments has `main` instead."""
MAX_ARGUMENT = 10_000
"""Characters of one argument."""
MAX_SENTENCE = 1000
"""Characters of what is said of an error."""
TRACE = "DIPTYCH_TRACEBACK"
"""Set to 1, this variable shows where an error was raised."""

console = Terminal()


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0; 2 for an error of the user's, 1 for one of ours, each with one
    sentence on stderr; 130 where the user stopped it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        # a terminal without the letters of a prompt shows their numbers
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _spelled(arguments):
            status = _main(arguments)
        # now, and not when Python ends, where nobody could catch a closed pipe
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # nobody reads on, which is no error; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    # BaseException: what Rust panics with, in the readers of tokenizers and tensors, is no Exception
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        return _told(error)


class _Spelled(io.TextIOBase):
    """A stream on which nothing commands a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(visible(text))

    def flush(self) -> None:
        self.stream.flush()


def _spelled(arguments: list[str]) -> contextlib.AbstractContextManager[Any]:
    """The parsers of the commands repeat what they do not understand as it is: where that would command the
    terminal, all that is said is spelled out, at the price of its colours."""
    if any(visible(word) != word for word in arguments):
        return contextlib.redirect_stderr(_Spelled(sys.stderr))
    return contextlib.nullcontext()


def _main(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"diptych {__version__}")
        return 0
    # no command reads more of one, and the parser repeats what it does not understand
    if long := [word for word in arguments if len(word) > MAX_ARGUMENT]:
        raise RequestError(
            f"the argument {long[0][:20]!r} ... has {len(long[0]):,} characters, more than the "
            f"{MAX_ARGUMENT:,} that are read"
        )
    if arguments[:1] and arguments[0] in COMMANDS:
        return _run(arguments[0], arguments[1:])
    # help, or a word that is no command: only this needs every module
    kinds = {name: getattr(_module(name), kind) for name, kind in COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(
        kinds,
        args=arguments,
        prog="diptych",
        description="Models that both see and draw. `diptych --version` tells which version this is.",
    )  # type: ignore[call-overload]
    return 2


def _run(name: str, arguments: list[str]) -> int:
    module = _module(name)
    kind = getattr(module, COMMANDS[name])
    check_no_flag_twice(arguments, kind)
    if hasattr(module, "main"):
        return int(module.main(arguments, console))
    command = tyro.cli(kind, args=arguments, prog=f"diptych {name}")
    return int(module.run(command, console))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"diptych.commands.{name.replace('-', '_')}")


def _told(error: BaseException) -> int:
    """Say an error in one sentence; returns the exit status."""
    if os.environ.get(TRACE):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        aside.print("stopped")
        return 130
    sentence = _sentence(error)
    kind, status = ("error", 2) if sentence else ("bug", 1)
    sentence = sentence or (
        f"{type(error).__name__}: {_one_line(error)} (a mistake of diptych's, not yours: please report it; "
        f"{TRACE}=1 shows where it happened)"
    )
    aside.print(f"[red]{kind}:[/red] {escape(_shortened(sentence))}", highlight=False, soft_wrap=True)
    return status


def _shortened(sentence: str) -> str:
    """A sentence of bounded length: names and values in it may be anybody's."""
    half = MAX_SENTENCE // 2
    return sentence if len(sentence) <= MAX_SENTENCE else f"{sentence[:half]} ... {sentence[-half:]}"


def _sentence(error: BaseException) -> str:
    """What a user's error says; '' for one that is ours."""
    message = _one_line(error)
    if isinstance(error, _user_errors()):
        return message or type(error).__name__
    if isinstance(error, OSError):
        # of these the system says file and reason, such as a full disk or a file where a folder should be
        reason = (error.strerror or message or type(error).__name__).lower()
        return f"{error.filename}: {reason}" if error.filename else reason
    if isinstance(error, ImportError):
        return _missing(error)
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", message):
        return "there is not enough memory for this: ask for fewer, smaller or shorter things at once"
    if isinstance(error, RecursionError):
        return "something that was given is nested too deeply"
    # what is written in Rust tells a full disk so, and a file that is too large
    if re.search(r"Error while serializing|\(os error (27|28)\)", message):
        return f"a file cannot be written: {message}"
    # tokenizers raise bare exceptions, and panic, over a file that is not theirs
    if type(error) is Exception or type(error).__name__ in ("SafetensorError", "PanicException"):
        return f"a file of the model cannot be read: {message}"
    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _user_errors() -> tuple[type[Exception], ...]:
    errors: list[type[Exception]] = [RequestError, ValueError]
    # looked up, not imported: they come with torch, and where they are not loaded they were not raised
    for module, kind in (
        ("diptych.training.checkpoint", "CheckpointError"),
        ("diptych.training.trainer", "TrainingStopped"),
    ):
        if module in sys.modules:
            errors.append(getattr(sys.modules[module], kind))
    return tuple(errors)


def _missing(error: ImportError) -> str:
    """How to install a package that is absent; '' where it is a module of ours."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "diptych"):
        return ""
    wanted = [
        extra
        for need in importlib.metadata.requires("diptych") or []
        if re.match(rf"{re.escape(package)}\b", need)
        for extra in re.findall(r"extra == ['\"](\w+)", need)
    ]
    extra = f"[{wanted[0]}]" if wanted else ""
    return f"this needs the package {package}: pip install 'diptych{extra}'"


if __name__ == "__main__":
    sys.exit(main())
