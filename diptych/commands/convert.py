"""diptych convert: a model in another form on disk."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from diptych.commands.arguments import Positional
from diptych.commands.outputs import check_new
from diptych.request import RequestError

if TYPE_CHECKING:
    from diptych.contracts import Family


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

    return dataclasses.make_dataclass(
        "ConvertCommand",
        [
            (
                family.name,
                Annotated[family.options, tyro.conf.arg(name="")],
                dataclasses.field(default_factory=family.options),
            )
            for family in FAMILIES
            if family.options is not None
        ],
        bases=(Convert,),
        frozen=True,
        kw_only=True,
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

    family = _family(command.source, command.to)
    assert family.convert is not None
    options = _options(command, family)
    check_new(command.output)
    notes = family.convert(command.source, command.output, command.to, open_system, **options)
    for note in notes:
        console.print(
            f"[yellow]note:[/yellow] {escape(note)}: its code will draw slightly other pictures",
            highlight=False,
        )
    console.print(f"{command.output}: written")
    return 0


def _options(command: Any, chosen: Family) -> dict[str, Any]:
    """What was given of the chosen family's options. Raises RequestError for one of another's."""
    from diptych.systems.registry import FAMILIES

    taken: dict[str, Any] = {}
    for family in (family for family in FAMILIES if family.options is not None):
        values = vars(getattr(command, family.name))
        given = {key: value for key, value in values.items() if value is not None}
        if family.name == chosen.name:
            taken = given
        elif given:
            flag = next(iter(given)).replace("_", "-")
            raise RequestError(f"--{flag} is for models of the family {family.name}, not of {chosen.name}")
    return taken


def _family(source: Path, form: str) -> Family:
    """The family that writes the form: that of the model, or for a single file the only one that has it."""
    from diptych.systems.registry import FAMILIES, recognised

    writers = [family for family in FAMILIES if form in [f.name for f in family.forms]]
    if not writers:
        known = ", ".join(dict.fromkeys(f.name for family in FAMILIES for f in family.forms))
        raise RequestError(f"there is no form {form!r} to write; forms: {known}")
    family = recognised(source) if source.is_dir() else None
    if family is None:
        if len(writers) > 1:
            names = ", ".join(f.name for f in writers)
            raise RequestError(f"{source} is no model folder, and several families write {form!r} ({names})")
        return writers[0]
    if family not in writers:
        known = ", ".join(f.name for f in family.forms) or "none"
        raise RequestError(
            f"{source} is a model of the family {family.name}, which is not written as {form!r}; its forms: "
            f"{known}"
        )
    return family
