"""How requests are typed: letters swapped and left out, no capitals, no points, accents forgotten."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Sequence

from diptych.planning.data.grammar import Piece

_NEAR = dict(
    zip(
        "qwertyuiopasdfghjklzxcvbnm",
        "wertyuioplsdfghjkkxcvbnmnb",
        strict=True,
    )
)
_UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}
_WIDE = str.maketrans("0123456789:", "０１２３４５６７８９：")


def typed(pieces: Sequence[Piece], rng: random.Random, language: str) -> list[Piece]:
    """The pieces as somebody types them. What a piece says stays; numbers keep their figures."""
    found = list(pieces)
    if rng.random() < 0.45:
        found = _first(found)
    changes: list[tuple[float, Callable[[str], str]]] = [
        (0.2, str.lower),
        (0.025, str.upper),
        (0.02, lambda text: text.replace(" ", "  ")),
        (0.01, lambda text: text.replace(" ", "\n")),
    ]
    if language in ("es", "de"):
        changes.append((0.18, without_accents if language == "es" or rng.random() < 0.4 else _spelt))
    if language == "es":
        changes.append((0.25, lambda text: text.replace("¿", "").replace("¡", "")))
    if language == "zh":
        changes.append((0.05, lambda text: text.translate(_WIDE)))
        changes.append((0.05, lambda text: text.replace("，", ",").replace("。", ".").replace("？", "?")))
    for share, change in changes:
        if rng.random() < share:
            found = [
                p if p.medium is not None or "<" in p.text else p._replace(text=change(p.text)) for p in found
            ]
    if rng.random() < 0.15 and found:
        found[-1] = found[-1]._replace(text=found[-1].text.rstrip("?!.？。"))
    if rng.random() < 0.2:
        for _ in range(rng.choice((1, 1, 2, 3))):
            found = _slip(found, rng)
    return found


def _first(pieces: list[Piece]) -> list[Piece]:
    for n, piece in enumerate(pieces):
        if piece.text.strip():
            if piece.medium is None and piece.text[0].islower() and "<" not in piece.text:
                pieces[n] = piece._replace(text=piece.text[0].upper() + piece.text[1:])
            break
    return pieces


def without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def _spelt(text: str) -> str:
    return "".join(_UMLAUTS.get(c, c) for c in text)


def _slip(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """One letter swapped, left out, doubled or mistyped, in words of four Latin letters or more."""
    places = [
        (n, at)
        for n, piece in enumerate(pieces)
        if piece.medium is None and "<" not in piece.text and "{" not in piece.text
        for at in range(1, len(piece.text) - 2)
        if all(c.isalpha() and c < "\u0250" for c in piece.text[at - 1 : at + 3])
    ]
    if not places:
        return pieces
    n, at = rng.choice(places)
    text = pieces[n].text
    slipped = rng.choice(
        (
            text[:at] + text[at + 1] + text[at] + text[at + 2 :],
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[:at] + _NEAR.get(text[at].lower(), text[at]) + text[at + 1 :],
        )
    )
    return [*pieces[:n], pieces[n]._replace(text=slipped), *pieces[n + 1 :]]
