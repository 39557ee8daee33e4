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
    settings: Path | None = None
    """JSON file of how the model draws and answers, in place of its own settings: {"sampler": {"num_steps":
    8, "guidance_scale": 1.0}} for one distilled to 8 steps; {"conversation": {"system": {"draw": "...",
    "story": "..."}}} for other system texts. A published folder may have such a file itself,
    diptych.json."""


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

    family, source = _family(command.source, command.to)
    assert family.convert is not None
    check_new(command.output)
    options = {name: getattr(command, name) for name in ("base", "cross_heads", "lora", "settings")}
    given = {name: value for name, value in options.items() if value is not None}
    # families take different options
    if vain := sorted(given.keys() - inspect.signature(family.convert).parameters.keys()):
        raise RequestError(
            f"--{vain[0].replace('_', '-')} has no effect on a model of the family {family.name}: leave it "
            "out"
        )
    notes = family.convert(source, command.output, command.to, open_system, **given)
    for note in notes:
        console.print(
            f"[yellow]note:[/yellow] {escape(note)}: its code will draw slightly other pictures",
            highlight=False,
        )
    console.print(f"{command.output}: written")
    return 0


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
