"""Planning data as JSONL: a request and what it means, a line each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diptych.files.whole import whole
from diptych.planning.data.compose import Sample, sample
from diptych.request import MARK, RequestError

MOST = 10**8
"""Samples of one file."""


def row(number: int, found: Sample) -> dict[str, Any]:
    """A line: 'request' and 'intent' as `schema` reads them, and where they come from."""
    return {
        "number": number,
        "category": found.category,
        "family": found.family,
        "request": asdict(found.request),
        "intent": found.intent.plain(),
    }


def write(
    path: Path, count: int, seed: int, reword: Callable[[str], Sequence[str]] | None = None
) -> tuple[int, int]:
    """Write `count` samples of a seed, and behind each its rewordings that still say all that it says;
    returns how many of both. The file is there whole or not at all.

    Raises RequestError for a count of none or of more than MOST, or a negative seed.
    """
    if not 1 <= count <= MOST:
        raise RequestError(f"count must be 1 to {MOST:,}, got {count}")
    if seed < 0:
        raise RequestError(f"seed must be 0 or more, got {seed}")
    reworded = 0
    with whole(path) as aside, aside.open("w", encoding="utf-8") as file:
        for number in range(count):
            found = sample(seed, number)
            for each in (found, *expanded(found, reword)):
                # json escapes lone surrogates and whatever else would end a line
                file.write(json.dumps(row(number, each), ensure_ascii=True) + "\n")
                reworded += each is not found
    return count, reworded


def expanded(found: Sample, reword: Callable[[str], Sequence[str]] | None) -> Iterator[Sample]:
    """The same request in other words, where they keep every value, the prompt and the marks."""
    for text in reword(found.request.text) if reword else ():
        text = " ".join(text.split())
        if text != found.request.text and keeps(found, text):
            yield replace(found, request=replace(found.request, text=text), spans=(), starts=(0,))


def keeps(found: Sample, text: str) -> bool:
    """Whether another wording of a request still says all that was marked in it, to the letter."""
    before, after = found.request.text, text.casefold()
    said = [before[s.start : s.end].replace(MARK, " ").split() for s in found.spans]
    return (
        # where nothing is marked, nothing could be missed
        bool(said)
        and text.count(MARK) == before.count(MARK)
        and all(" ".join(words).casefold() in " ".join(after.split()) for words in said)
    )
