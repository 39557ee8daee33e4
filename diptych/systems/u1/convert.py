"""A model from one form on disk to another, tensor by tensor: our folder, and the published one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from diptych.files.lineage import child
from diptych.files.typed import to_json
from diptych.files.weights import Planned
from diptych.files.whole import whole_folder, write_whole
from diptych.systems.u1 import is_published
from diptych.systems.u1.defaults import told_in
from diptych.systems.u1.files import (
    card,
    read_contents,
    stored_weights,
    write_folder,
    write_published,
)
from diptych.systems.u1.lora import Merged, read_adapters
from diptych.systems.u1.published import SHARDS, shards_of
from diptych.systems.u1.settings import read_words


def convert(
    source: Path, out: Path, form: str, lora: Path | None = None, settings: Path | None = None
) -> list[str]:
    """Write the folder `source` as `form` ('diptych' or 'u1'), with the adapters of the file `lora` merged
    into it, and with the settings of a file like `diptych.json` in place of its own.

    `out` appears whole or not at all. Weights keep their types, and what came from a published folder goes
    back into files of the same names. Raises ModelFolderError or ValueError for what cannot be converted.
    """
    contents, tokenizer = read_contents(source)
    weights: Planned = stored_weights(source, contents.model)
    if lora is not None:
        weights = Merged(weights, read_adapters(lora, contents.model), lora)
    if settings is not None:
        native, sampler, conversation = told_in(settings).applied(
            str(settings), contents.native, contents.flow.sampler, contents.conversation
        )
        flow = replace(contents.flow, sampler=sampler)
        contents = replace(contents, native=native, flow=flow, conversation=conversation)
    shards = shards_of(source)

    def ours(folder: Path) -> None:
        if shards:
            write_whole(folder / SHARDS, to_json(shards))
        made = "converted" if lora is None else f"merged with {lora.name}"
        command = f"diptych convert {source} {out} --to {form}" + (f" --lora {lora}" if lora else "")
        about = child(card(source), source.name, out.name, made, command)
        words = None if is_published(source) else read_words(source)
        write_folder(folder, contents, tokenizer, weights, about, None, words)

    def theirs(folder: Path) -> None:
        write_published(folder, contents, tokenizer, weights, shards)

    writers: dict[str, Callable[[Path], None]] = {"diptych": ours, "u1": theirs}
    if form not in writers:
        raise ValueError(f"the form must be one of {', '.join(writers)}, got {form!r}")
    with whole_folder(out) as aside:
        writers[form](aside)
    return []
