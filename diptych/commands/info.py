"""diptych info: what a model is, and what memory a run will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    from diptych.flow import SamplerConfig

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
    """Parts, parameters, memory to load, origin and licence of a model; `info --train RECIPE [overrides]`:
    memory that a run will take."""

    model: Positional[str] = "default"
    """'default', a model folder, 'hf:owner/name' of the hub, or the name of a published size."""
    json: Json = False
    """Print one JSON object."""


def main(arguments: list[str], console: Console) -> int:
    others = [word for word in arguments if word != "--json"]
    if others[:1] == ["--train"]:
        return train.memory(others[1:], console, as_json=others != arguments)
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
            card = {"name": name, "made": "a published size: these are its numbers, without weights"}
            return _about(name, family.name, model, _children(model), card, None)
    return None


def _model(name: str) -> dict[str, Any]:
    from diptych.systems.registry import outlined

    # before anything is loaded, where the family can tell by names and headers
    if found := outlined(name):
        family, told = found
        draws = _draws(told.native, told.sampler)
        return _about(name, family.name, told.model, _children(told.model), told.card, draws)
    import diptych

    system = diptych.load(name).system
    draws = _draws(system.native, system.sampler)
    return _about(name, system.family, system.model, system.parts(), system.card, draws)


def _children(model: BlockModel) -> dict[str, nn.Module]:
    # a BlockModel is an nn.Module, which a protocol cannot say
    return dict(cast("nn.Module", model).named_children())


def _draws(side: int, sampler: SamplerConfig) -> dict[str, Any]:
    return {"side": side, "steps": sampler.num_steps, "guidance_scale": sampler.guidance_scale}


def _about(
    name: str,
    family: str,
    model: BlockModel,
    parts: Mapping[str, nn.Module],
    card: dict[str, Any],
    draws: dict[str, Any] | None,
) -> dict[str, Any]:
    from diptych.files.lineage import lines

    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    total = sum(counts.values())
    card = card or {"name": name, "made": "no card: where it comes from is not known"}
    cached = model.facts.cached
    return {
        "name": str(card.get("name", name)),
        "family": family,
        "depth": model.config.depth,
        "width": model.config.width,
        "heads": model.config.heads,
        "parts": counts,
        "streams": _streams(model),
        "parameters": total,
        "bytes": {"float32": total * 4, "bfloat16": total * 2},
        # of one conversation; guidance reads it in two or three ways
        "cache_bytes": (
            {"float32": 4000 * cached(model.config), "bfloat16": 2000 * cached(model.config)}
            if cached
            else {}
        ),
        "card": {key: card[key] for key in _TOLD if key in card},
        "family_tree": ["   " * generation + line for generation, line in lines(card)],
        "draws": draws,
    }


def _streams(model: BlockModel) -> dict[str, int]:
    """Parameters of the parts that the model counts by themselves, and of what they share."""
    counts = dict.fromkeys(model.facts.streams, 0)
    shared = 0
    for name, parameter in cast("nn.Module", model).named_parameters():
        of = [part for part, pieces in model.facts.streams.items() if any(piece in name for piece in pieces)]
        if of:
            counts[of[0]] += parameter.numel()
        else:
            shared += parameter.numel()
    return {**counts, "shared": shared} if counts else {}


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

    if streams := about["streams"]:
        tell("streams", ", ".join(f"{name} {count:,}" for name, count in streams.items()))
    if cache := about["cache_bytes"]:
        tell("cache", " and ".join(f"{size / 2**20:,.1f} MiB in {kind}" for kind, size in cache.items()))
        tell("", "for 1,000 tokens of a conversation; guidance reads it in two or three ways")
    tell("shape", f"{about['depth']} blocks, {about['width']} channels, {about['heads']} heads")
    for key, value in about["card"].items():
        tell(key, str(value))
    for number, line in enumerate(about["family_tree"]):
        tell("" if number else "family tree", line)
    if draws := about["draws"]:
        tell("draws", f"{draws['side']} px, {draws['steps']} steps, guidance {draws['guidance_scale']}")
