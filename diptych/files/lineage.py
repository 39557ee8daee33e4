"""Where a model comes from: its card holds the cards of its parents, and so on back to those trained from
scratch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_OWN = ("sha256", "recipe")
"""What a parent's card leaves behind: checksums of files that are elsewhere, and the whole recipe, which is
long."""
SEPARATOR = "; "
_INHERITED = ("family", "licence", "data", "recipe", "weights")


def as_parent(card: dict[str, Any], name: str) -> dict[str, Any]:
    """A model's card as it is kept in the cards of its children; `name` stands for a model without a card."""
    return (
        {key: value for key, value in card.items() if key not in _OWN}
        if card
        else {"name": name, "made": "unknown: it had no card"}
    )


def child(card: dict[str, Any], parent: str, name: str, made: str, command: str) -> dict[str, Any]:
    """The card of a model that was made from another by surgery: `made` in words, and the command that
    repeats it."""
    inherited = {key: card[key] for key in _INHERITED if key in card}
    return {"name": name, **inherited, "made": made, "command": command, "parents": [as_parent(card, parent)]}


def data_of(parents: Sequence[Any], own: Sequence[str]) -> str:
    """What a model learned from, as its card says it: the data of the models that it comes from, then its
    own, each named once."""
    told = [parent.get("data") for parent in parents if isinstance(parent, dict)]
    every = [part for data in told if isinstance(data, str) for part in data.split(SEPARATOR)]
    return SEPARATOR.join(part for part in dict.fromkeys([*every, *own]) if part)


def lines(card: dict[str, Any], depth: int = 0) -> Iterator[tuple[int, str]]:
    """(generation, one line) of a model and its ancestors, the model first."""
    steps = f"trained {card['steps']:,} steps" if isinstance(card.get("steps"), int) else ""
    told = [str(card.get("name", "unnamed")), str(card.get("made") or steps), str(card.get("command", ""))]
    yield (
        depth,
        ": ".join(part for part in (told[0], told[1]) if part) + (f"  [{told[2]}]" if told[2] else ""),
    )
    parents = card.get("parents")
    # a card may be anybody's; the first ones hold names alone
    for parent in parents if isinstance(parents, list) else ():
        yield from lines(parent if isinstance(parent, dict) else {"name": parent}, depth + 1)
