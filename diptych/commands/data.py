"""diptych data: index, inspect and cache pictures with captions; and the emoji world as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from diptych.commands.arguments import Output, Positional
from diptych.commands.outputs import check_new, check_output
from diptych.commands.terminal import progress
from diptych.files.visible import one_line, visible
from diptych.request import RequestError, check_seed

MAX_TEXTS = 100_000
"""Samples of each task that are written out."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Pictures with captions: diptych data {index,inspect,cache,emoji,words,drawn}."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """Index a folder of pictures with captions: sidecar .txt, JSONL, Hugging Face image folders, tar
    shards."""

    folder: Positional[Path]
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The index; inside the folder unless given."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Print and draw what an index holds: counts, buckets, caption lengths, problems, a contact sheet."""

    folder: Positional[Path]
    output: Output = Path("inspection")
    resolutions: tuple[int, ...] = (512,)
    multiple: int = 32
    """Sides of pictures, px: the autoencoder's factor times the model's patch."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Compute latents and text of an index once; a run with --cache reads them instead of pictures."""

    folder: Positional[Path]
    output: Output
    model: str | None = None
    """Model whose autoencoder and text encoder are used."""
    space: Path | None = None
    """Or an autoencoder's folder alone, for runs from scratch, whose text encoder learns."""
    resolutions: tuple[int, ...] = (128,)
    multiple: int = 16
    """Sides of pictures, px: the autoencoder's factor times the model's patch."""
    batch: int = 32
    """Pictures a step of the run that will use it."""
    validation: float = 0.02
    control: Literal["", "edges"] = ""
    """What a control run draws along, cached too."""
    part: int = 0
    parts: int = 1
    """Several processes share the work: this one does share `part` of `parts`."""


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """Write every emoji of the installed font as a folder of pictures with captions."""

    folder: Positional[Path]
    size: int = 128
    tones: bool = False
    """The 1,890 skin-tone variants too."""
    only: str = ""
    """Only emoji whose name holds this, e.g. 'flag'."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Write what is said in the emoji world in wide words, one text a line: what a vocabulary grows by. Into
    words.json: the table by which a model's folder puts anyone's words into those that it was trained on."""

    output: Output
    count: int = 6000
    """Samples of each task."""
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Let a model draw emoji prompts and label them with the exact checker: samples to train a verifier
    on."""

    folder: Positional[Path]
    model: str = "default"
    count: int = 3000
    seed: int = 7


def main(arguments: list[str], console: Console) -> int:
    """diptych data COMMAND ..."""
    commands: dict[str, tuple[type, Callable[[Any, Console], int]]] = {
        "index": (Index, index),
        "inspect": (Inspect, inspect),
        "cache": (Cache, cache),
        "emoji": (Emoji, emoji),
        "words": (Words, words),
        "drawn": (Drawn, drawn),
    }
    chosen = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in commands.items()},
        # a word that is no command is only repeated
        args=arguments if arguments[:1] and arguments[0] in commands else [visible(w) for w in arguments],
        prog="diptych data",
        description="Pictures with captions.",
    )  # type: ignore[call-overload]
    run = dict(commands.values())[type(chosen)]
    return run(chosen, console)


def index(command: Index, console: Console) -> int:
    from diptych.data.captioned.index import Index as Opened
    from diptych.data.captioned.index import build

    with progress("indexing") as advance:
        path = build(command.folder, command.output, advance)
    opened = Opened(path)
    console.print(f"{path}: {len(opened)} pictures, {len(opened.problems)} problems")
    for row in opened.problems[:10]:
        console.print(f"  {escape(one_line(f'{row.id}: {row.problem}'))}", highlight=False, soft_wrap=True)
    return 0


def inspect(command: Inspect, console: Console) -> int:
    from diptych.data.captioned.index import Index as Opened
    from diptych.data.captioned.report import inspect as run

    check_output(command.output)
    for path in run(Opened(command.folder), command.output, command.resolutions, command.multiple, console):
        console.print(str(path), highlight=False)
    return 0


def cache(command: Cache, console: Console) -> int:
    from diptych.data.captioned.index import Index as Opened
    from diptych.data.captioned.precompute import precompute
    from diptych.spaces import load_space
    from diptych.systems.registry import open_system

    encoder = None
    if command.model is not None and command.space is None:
        # a native system has no text encoder; then pictures alone are cached
        system = open_system(command.model)
        space, encoder = system.space, system.text
        if encoder is not None and encoder.identity() is None:
            # it learns with the denoiser, so what it says today is worth nothing tomorrow
            encoder = None
    elif command.space is not None and command.model is None:
        space = load_space(command.space)
    else:
        raise RequestError("name either --model, or --space with the autoencoder alone")
    with progress("caching") as advance:
        precompute(
            Opened(command.folder),
            space,
            encoder,
            command.output,
            command.resolutions,
            command.multiple,
            command.batch,
            command.validation,
            command.control,
            command.part,
            command.parts,
            advance,
        )
    console.print(f"{command.output}: written")
    return 0


def emoji(command: Emoji, console: Console) -> int:
    from diptych.worlds.emoji.collection import write_collection

    with progress("drawing") as advance:
        count = write_collection(command.folder, command.size, command.tones, command.only, advance)
    console.print(f"{command.folder}: {count} pictures; index them with: diptych data index {command.folder}")
    return 0


def words(command: Words, console: Console) -> int:
    from diptych.files.whole import write_whole
    from diptych.planning.rewording import FILE, Rewording
    from diptych.worlds.emoji import EmojiWorld, WorldConfig
    from diptych.worlds.emoji.source import world_texts
    from diptych.worlds.emoji.table import word_table

    check_new(command.output)
    check_seed(command.seed)
    if command.output.name == FILE:
        Rewording.of(word_table(WorldConfig())).save(command.output.parent)
        console.print(f"{command.output}: written", highlight=False)
        return 0
    if not 1 <= command.count <= MAX_TEXTS:
        raise RequestError(f"--count must be 1 to {MAX_TEXTS:,}, got {command.count}")
    texts = world_texts(EmojiWorld(WorldConfig(words="wide")), command.seed, command.count)
    write_whole(command.output, "".join(f"{text}\n" for text in texts))
    console.print(f"{command.output}: {len(texts):,} texts", highlight=False)
    return 0


def drawn(command: Drawn, console: Console) -> int:
    import diptych
    from diptych.evaluation.drawn import FILE, write_drawn
    from diptych.worlds.emoji import EmojiWorld, world_of

    pipeline = diptych.load(command.model)
    world = EmojiWorld(world_of(pipeline.system.card))
    with progress("drawing") as advance:
        answers = write_drawn(pipeline, world, command.folder, command.count, command.seed, advance)
    said = ", ".join(f"{number} {word}" for word, number in answers.items())
    console.print(f"{command.folder / FILE}: {command.count} pictures, answers {said}", highlight=False)
    return 0
