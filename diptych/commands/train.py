"""diptych train: a recipe of any family, and the memory that its run will take."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
import itertools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych.commands import train_planner
from diptych.commands.arguments import Output, flags
from diptych.commands.outputs import CONFIG, check_output
from diptych.files.typed import to_json
from diptych.request import RequestError

if TYPE_CHECKING:
    from diptych.family import Family, Recipe
    from diptych.training.memory import Memory


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a recipe: diptych train RECIPE [-o FOLDER] [overrides]; 'diptych train RECIPE --help' lists
    them."""


def main(arguments: list[str], console: Console) -> int:
    """diptych train RECIPE [-o FOLDER] [dials of the recipe] [overrides of its config]"""
    from diptych.systems.registry import open_system, recipes

    if not arguments or arguments[0].startswith("-"):
        _list(recipes(), console)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    if arguments[0] == train_planner.NAME:
        return train_planner.main(arguments[1:], console)
    family, folder, config = _asked(arguments)

    from diptych.training.identity import check_same
    from diptych.training.run import train

    if not (folder / CONFIG).is_file():
        # a run that was killed before it had a config has its lock
        check_output(folder, left_over=(".lock", CONFIG))
    # before the job, which takes what a model to start from decides over what was given
    check_same(folder, family.name, config)
    train(family, config, folder, open_system)
    return 0


def memory(arguments: list[str], console: Console, as_json: bool) -> int:
    """diptych info --train RECIPE [dials of the recipe] [overrides of its config] [--json]"""
    from diptych.systems.registry import recipes

    if not arguments or arguments[0].startswith("-"):
        raise RequestError(f"--train takes the name of a recipe: {', '.join(recipes())}")
    if arguments[0] == train_planner.NAME:
        raise RequestError("memory cannot be estimated for the planner, which takes little of it")
    family, _, config = _asked(arguments)
    if family.probe is None:
        raise RequestError(f"memory cannot be estimated for runs of the family {family.name}")
    from diptych.training.memory import estimate

    found = estimate(config, family.probe(config))
    if as_json:
        told = {"name": config.name, "family": family.name, "peak": found.total}
        print(to_json({**told, "bytes": dataclasses.asdict(found)}), end="")
    else:
        _print_memory(config.name, found, console)
    return 0


def _asked(arguments: list[str]) -> tuple[Family, Path, Any]:
    """Family, folder and config of the run that arguments ask for, the name of its recipe first."""
    from diptych.systems.registry import recipes

    known = recipes()
    name, given = arguments[0], arguments[1:]
    if name not in known:
        names = [*known, train_planner.NAME]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (nearest: {near[0]!r})" if near else ""
        raise RequestError(f"there is no recipe {name!r}{hint}; recipes: {', '.join(names)}")
    family, recipe = known[name]
    return family, *resolve(name, recipe, given)


def resolve(name: str, recipe: Recipe, arguments: list[str]) -> tuple[Path, Any]:
    """The run's folder and config: the recipe at its dials, or what the run in that folder was begun with,
    under what the arguments say."""
    plain = recipe()
    # a dial makes another config, and the same arguments say what is different from that one
    chosen = _chosen(name, recipe, plain.name, arguments)
    config = recipe(**{key: getattr(chosen, key) for key in inspect.signature(recipe).parameters})
    asks_help = any(argument in ("-h", "--help") for argument in arguments)
    saved = None if asks_help else _saved(chosen.output, type(config), chosen.name)
    if saved is not None:
        config = _under(saved, plain, config, chosen.output)
    _no_flag_empty(arguments, config)
    arguments, config = _spelled_out(arguments, config)
    command: Any = tyro.cli(
        command_type(name, recipe, config),
        args=arguments,
        prog=f"diptych train {name}",
        # an optional part of a config is set in the recipe; as subcommands such parts would swallow flags
        config=(tyro.conf.AvoidSubcommands,),
    )
    return command.output, command.config


def _chosen(name: str, recipe: Recipe, run: str, arguments: list[str]) -> Any:
    """What must be known before the config is: folder, dials, and the run's name."""
    kind = dataclasses.make_dataclass(
        "Chosen",
        [*_own(name, recipe), ("name", str, dataclasses.field(default=run))],
        frozen=True,
        kw_only=True,
    )
    # --help belongs to the whole command, which lists every field of the config
    known = [argument for argument in arguments if argument not in ("-h", "--help")]
    return tyro.cli(kind, args=known, prog=f"diptych train {name}", return_unknown_args=True)[0]


def _spelled_out(arguments: list[str], config: Any) -> tuple[list[str], Any]:
    """Arguments and default that mean the same, with no dictionary in the default: tyro would take one for a
    set of fixed flags, and only an empty one takes any names."""
    said, without = flags(arguments), copy.copy(config)
    for key, value in vars(config).items():
        if isinstance(value, dict) and value:
            # past the checks of the config: they see the whole once it is parsed
            object.__setattr__(without, key, {})
            flag = f"--{key.replace('_', '-')}"
            if flag not in said:
                arguments = [*arguments, flag, *(str(word) for pair in value.items() for word in pair)]
    return arguments, without


def command_type(name: str, recipe: Recipe, config: Any) -> type:
    """What `diptych train NAME` takes: a folder, the recipe's dials, and every field of the config."""
    under = Annotated[type(config), tyro.conf.arg(name="")]  # type: ignore[valid-type]
    fields = {field.name for field in dataclasses.fields(config)}
    made = dataclasses.make_dataclass(
        "TrainRecipe",
        # a dial that is a field as well, such as the model to start from, is asked for once
        [
            *(own for own in _own(name, recipe) if own[0] not in fields),
            ("config", under, dataclasses.field(default=config)),
        ],
        frozen=True,
        kw_only=True,
    )
    made.__doc__ = (
        f"{inspect.cleandoc(recipe.__doc__ or name)}\n\n"
        "A run that was stopped goes on in the same folder, with the settings that it was begun with. Of "
        f"these, what may be given anew: {', '.join(sorted(config.changeable))}; all else is refused."
    )
    return made


def _own(name: str, recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """Fields of the command that are not the config's."""
    hints = typing.get_type_hints(recipe)
    told = tyro.conf.arg(help="A dial of the recipe: fields of the config follow.")
    return [
        ("output", Output, dataclasses.field(default=Path("runs") / name)),
        *(
            (key, Annotated[hints[key], told], dataclasses.field(default=parameter.default))
            for key, parameter in inspect.signature(recipe).parameters.items()
        ),
    ]


def _no_flag_empty(arguments: list[str], config: Any) -> None:
    """Raises RequestError for a flag of many values without any: it would take all away in silence."""
    many = dict(_many(config))
    for word, behind in itertools.pairwise([*arguments, "--"]):
        flag = word.replace("_", "-")
        if flag in many and behind.startswith("--"):
            takes = "names, each with a number" if many[flag] is dict else "one value or more"
            raise RequestError(f"{flag} is given without values: it takes {takes}, or is left out")


def _many(value: Any, flag: str = "-") -> Iterator[tuple[str, type]]:
    """Flags of a config that take many values, each with tuple or dict."""
    if dataclasses.is_dataclass(value):
        for name, part in vars(value).items():
            yield from _many(part, f"{flag}{'-' if flag == '-' else '.'}{name.replace('_', '-')}")
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        for number, part in enumerate(value):
            yield from _many(part, f"{flag}.{number}")
    elif isinstance(value, (tuple, dict)):
        yield flag, type(value)


def _saved(folder: Path, kind: type, name: str) -> Any:
    """The config of the run in a folder; None where there is none. Raises RequestError for a run of another
    name or kind, which this one must not take over."""
    from diptych.systems.registry import read_run

    if not (folder / "config.json").is_file():
        return None
    family, config = read_run(folder)
    if config.name != name or type(config) is not kind:
        raise RequestError(
            f"{folder} holds the run {config.name!r} of the family {family.name}, not {name!r}: go on with "
            "that one, or choose another folder with -o"
        )
    return config


def _under(saved: Any, plain: Any, dialled: Any, folder: Path) -> Any:
    """A run's config with what its recipe's dials change. Raises RequestError where they would change a part,
    such as the model, that the run keeps."""
    changed = {}
    for name, value in _differences(plain, dialled).items():
        if not dataclasses.is_dataclass(value):
            changed[name] = value
            continue
        # besides what dials change, a part has what the run learnt of its data, such as a vocabulary
        kept = getattr(saved, name)
        for key, wanted in _differences(getattr(plain, name), value).items():
            if getattr(kept, key) != wanted:
                raise RequestError(
                    f"{folder} holds a run whose {name} has {key} {getattr(kept, key)!r}, not {wanted!r} as "
                    "these dials make it; choose another folder with -o"
                )
    return dataclasses.replace(saved, **changed)


def _differences(before: Any, after: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(after)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


def _list(known: Mapping[str, tuple[Family, Recipe]], console: Console) -> None:
    console.print(escape("usage: diptych train RECIPE [-o FOLDER] [overrides]"), highlight=False)
    table = Table.grid(padding=(0, 2))
    for name, (_, recipe) in known.items():
        # the lines of a docstring are those of its file, not of this terminal
        told = " ".join(inspect.cleandoc(recipe.__doc__ or "").partition("\n\n")[0].split())
        table.add_row(name, escape(told))
    # no system's: it reads requests for all of them
    table.add_row(train_planner.NAME, escape(train_planner.told()))
    console.print(table)


def _print_memory(name: str, memory: Memory, console: Console) -> None:
    table = Table("memory of one process", "MiB", title=escape(name))
    for part, size in dataclasses.asdict(memory).items():
        if size:
            table.add_row(part, f"{size / 2**20:,.0f}")
    table.add_row("peak", f"{memory.total / 2**20:,.0f}", style="bold")
    console.print(table)
    console.print(
        "Frozen parts (text encoder, autoencoder) come on top. Gradients replace activations as the backward "
        "pass goes."
    )
