"""diptych convert: a model in another form on disk."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.markup import escape

from diptych.commands.arguments import Positional
from diptych.commands.outputs import check_new
from diptych.request import RequestError

if TYPE_CHECKING:
    from diptych.family import Family


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a model in another form: our folder, or one that its own project reads; or a LoRA in another
    style."""

    source: Positional[Path]
    output: Positional[Path]
    to: str
    """The form; they are listed above."""


def command_type() -> type:
    """What `diptych convert` takes: the families' own options besides."""
    from diptych.systems.registry import FAMILIES

    # options of one name in several families are one flag
    kinds = [family.options for family in FAMILIES if family.options is not None]
    return dataclasses.make_dataclass(
        "ConvertCommand", [], bases=(*reversed(kinds), Convert), frozen=True, kw_only=True
    )


def main(arguments: list[str], console: Console) -> int:
    from diptych.systems.registry import FAMILIES

    forms = [f"{form.name} ({form.about})" for family in FAMILIES for form in family.forms]
    command: Any = tyro.cli(
        command_type(),
        args=arguments,
        prog="diptych convert",
        description=f"{inspect.getdoc(Convert)}\n\nForms: {'; '.join(forms)}.",
    )
    return run(command, console)


def run(command: Any, console: Console) -> int:
    from diptych.systems.registry import open_system

    family, source = _family(command.source, command.to)
    assert family.convert is not None
    check_new(command.output)
    given = _given(command, family)
    notes = family.convert(source, command.output, command.to, open_system, **given)
    for note in notes:
        console.print(
            f"[yellow]note:[/yellow] {escape(note)}: its code will draw slightly other pictures",
            highlight=False,
        )
    console.print(f"{command.output}: written")
    return 0


def _given(command: Any, family: Family) -> dict[str, Any]:
    """What was given of the family's options. Raises RequestError for one that is another family's."""
    own = {field.name for field in dataclasses.fields(Convert)}
    given = {key: value for key, value in vars(command).items() if key not in own and value is not None}
    taken = {field.name for field in dataclasses.fields(family.options)} if family.options else set()
    if vain := sorted(given.keys() - taken):
        raise RequestError(
            f"--{vain[0].replace('_', '-')} has no effect on a model of the family {family.name}: leave it "
            "out"
        )
    return given


def _family(source: Path, form: str) -> tuple[Family, Path]:
    """The family that writes the form: that of the model, or for a single file the only one that has it; and
    where the model lies."""
    from diptych.files.folder import locate
    from diptych.systems.registry import FAMILIES, recognised

    writers = [family for family in FAMILIES if form in [f.name for f in family.forms]]
    if not writers:
        known = ", ".join(dict.fromkeys(f.name for family in FAMILIES for f in family.forms))
        raise RequestError(f"there is no form {form!r} to write; forms: {known}")
    source = source if source.is_file() else locate(source)
    if source.is_file():
        writers = [f for f in writers if any(x.of_files and x.name == form for x in f.forms)]
    family = recognised(source) if source.is_dir() else None
    if family is None:
        if len(writers) != 1:
            names = ", ".join(f.name for f in writers) or "none from a single file"
            raise RequestError(f"{source} is no model folder; families that write {form!r}: {names}")
        return writers[0], source
    if family not in writers:
        known = ", ".join(f.name for f in family.forms) or "none"
        raise RequestError(
            f"{source} is a model of the family {family.name}, which is not written as {form!r}; its forms: "
            f"{known}"
        )
    return family, source
