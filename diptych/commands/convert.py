"""diptych convert: a model in another form on disk."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    base: Path | None = None
    """Folder whose text encoder and autoencoder go with a native checkpoint, which holds the denoiser
    alone."""
    cross_heads: int | None = None
    """Heads of a native checkpoint's cross-attention, where its width is no published one."""
    lora: Path | None = None
    """LoRA file, of any style, that is merged into the model."""


def main(arguments: list[str], console: Console) -> int:
    from diptych.systems.registry import FAMILIES

    forms = [f"{form.name} ({form.about})" for family in FAMILIES for form in family.forms]
    command = tyro.cli(
        Convert,
        args=arguments,
        prog="diptych convert",
        description=f"{inspect.getdoc(Convert)}\n\nForms: {'; '.join(forms)}.",
    )
    return run(command, console)


def run(command: Convert, console: Console) -> int:
    from diptych.systems.registry import open_system

    convert = _family(command.source, command.to).convert
    assert convert is not None
    check_new(command.output)
    # families take different options: one that was not given is not passed
    options = {"base": command.base, "cross_heads": command.cross_heads, "lora": command.lora}
    notes = convert(
        command.source,
        command.output,
        command.to,
        open_system,
        **{name: value for name, value in options.items() if value is not None},
    )
    for note in notes:
        console.print(
            f"[yellow]note:[/yellow] {escape(note)}: its code will draw slightly other pictures",
            highlight=False,
        )
    console.print(f"{command.output}: written")
    return 0


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
