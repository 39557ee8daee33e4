"""Strangers' text as it may be printed: names of files, captions, cards, prompts."""

from __future__ import annotations

import unicodedata

BREAKS = "\n\t"
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Signs that turn the direction of writing: what stands behind them is read as something else."""


def visible(text: str, breaks: str = BREAKS) -> str:
    """Text with everything that would command a terminal, rather than be read on it, spelled out; `breaks`
    are let through."""
    return "".join(_spelled(c) if _commands(c) and c not in breaks else c for c in text)


def one_line(text: str) -> str:
    """Text as `visible`, on one line: a name with a line's end in it must not look like another line."""
    return visible(text, breaks="")


def _commands(character: str) -> bool:
    # a surrogate alone cannot be encoded: printing it would raise; Zl and Zp end lines as well
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNS


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()
