"""diptych info: what a model is, and what memory a run will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych.commands import train
from diptych.commands.arguments import Json, Positional
from diptych.files.typed import to_json

if TYPE_CHECKING:
    from torch import nn

    from diptych.contracts import BlockModel

_TOLD = (
    "licence",
    "data",
    "made",
    "command",
    "hardware",
    "torch",
    "seed",
    "steps",
    "seconds",
    "documents",
    "weights",
)
"""Fields of a card that are shown, in this order."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Parts, parameters, memory, origin and licence of a model; `info --train RECIPE [overrides]`: memory
    that a run will take."""

    model: Positional[str] = "default"
    """'default', a model folder, 'hf:owner/name' of the hub, or the name of a published size."""
    json: Json = False
    """Print one JSON object."""


def main(arguments: list[str], console: Console) -> int:
    if arguments[:1] == ["--train"]:
        return train.main(arguments[1:], console, estimate=True)
    return run(tyro.cli(Info, args=arguments, prog="diptych info"), console)


def run(command: Info, console: Console) -> int:
    about = _preset(command.model) or _model(command.model)
    if command.json:
        print(to_json(about), end="")
    else:
        _print(about, console)
    return 0


def _preset(name: str) -> dict[str, Any] | None:
    """What is known of a published size before it has weights; None where there is none of that name."""
    import torch

    from diptych.systems.registry import FAMILIES

    for family in FAMILIES:
        # a folder of that name is meant as a folder
        if name in (presets := family.presets()) and not Path(name).exists():
            # shapes alone: the largest would take tens of GB
            with torch.device("meta"):
                model = presets[name]()
            about = {"made": "a published size: these are its numbers, without weights"}
            return _about(name, family.name, model, {"model": model}, about, [], None)
    return None


def _model(name: str) -> dict[str, Any]:
    import diptych
    from diptych.files.lineage import lines

    system = diptych.load(name).system
    card = system.card or {"name": name, "made": "no card: where it comes from is not known"}
    draws = {
        "side": system.native,
        "steps": system.sampler.num_steps,
        "guidance_scale": system.sampler.guidance_scale,
    }
    tree = ["   " * generation + line for generation, line in lines(card)]
    told = {key: system.card[key] for key in _TOLD if key in system.card}
    return _about(str(card.get("name", name)), system.family, system.model, system.parts(), told, tree, draws)


def _about(
    name: str,
    family: str,
    model: BlockModel,
    parts: Mapping[str, nn.Module],
    card: dict[str, Any],
    tree: list[str],
    draws: dict[str, Any] | None,
) -> dict[str, Any]:
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    total = sum(counts.values())
    return {
        "name": name,
        "family": family,
        "depth": model.config.depth,
        "width": model.config.width,
        "heads": model.config.heads,
        "parts": counts,
        "parameters": total,
        "bytes": {"float32": total * 4, "bfloat16": total * 2},
        "card": card,
        "family_tree": tree,
        "draws": draws,
    }


def _print(about: dict[str, Any], console: Console) -> None:
    table = Table(
        "part",
        "parameters",
        "MiB in float32",
        "in bfloat16",
        title=escape(f"{about['name']} (family {about['family']})"),
    )
    for name, count in {**about["parts"], "all": about["parameters"]}.items():
        style = "bold" if name == "all" else None
        table.add_row(
            name, f"{count:,}", f"{count * 4 / 2**20:,.1f}", f"{count * 2 / 2**20:,.1f}", style=style
        )
    console.print(table)

    def tell(what: str, text: str) -> None:
        console.print(f"  [dim]{what:<12}[/dim]{escape(text)}", highlight=False, soft_wrap=True)

    tell("shape", f"{about['depth']} blocks, {about['width']} channels, {about['heads']} heads")
    for key, value in about["card"].items():
        tell(key, str(value))
    for number, line in enumerate(about["family_tree"]):
        tell("" if number else "family tree", line)
    if draws := about["draws"]:
        tell("draws", f"{draws['side']} px, {draws['steps']} steps, guidance {draws['guidance_scale']}")
