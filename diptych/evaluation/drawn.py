"""Pictures that a model drew, labelled by the exact checker: questions and answers that a verifier is trained
on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from diptych.contracts import VERIFY
from diptych.data.pictures import save_picture
from diptych.files import journal
from diptych.inference import Pipeline, draw
from diptych.request import check_seed
from diptych.worlds.emoji import CATEGORIES, Checker, EmojiWorld
from diptych.worlds.emoji.captions import caption, sample_wanted
from diptych.worlds.emoji.claims import spoiled

FILE = "drawn.jsonl"
BATCH = 32
"""Prompts drawn and labelled together; after each batch the file is whole."""
# written as a call: `from` is a word of Python's own
Turn = TypedDict("Turn", {"from": str, "value": str})


class Drawn(TypedDict):
    """A line of drawn.jsonl."""

    conversations: list[Turn]
    image: str


def write_drawn(
    pipeline: Pipeline,
    world: EmojiWorld,
    folder: Path,
    count: int,
    seed: int,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, int]:
    """Draw `count` prompts of the benchmark's six categories, and ask of each picture whether it shows its
    prompt, and whether it shows the prompt changed by one mistake; answers are the checker's. Returns how
    many answers are yes and no.

    Samples go to drawn.jsonl as `data.conversations.readers` takes them, in batches; a run that was stopped
    goes on from the last whole one. Raises ValueError where the file holds something else.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    check_seed(seed)
    checker, path = Checker(world), folder / FILE
    about = {"model": pipeline.system.card.get("sha256", {}), "seed": seed, "batch": BATCH}
    journal.begin(folder, about, "drawings", "model or seed")
    rows = journal.resume(path, Drawn, BATCH)
    for start in range(len(rows), count, BATCH):
        numbers = range(start, min(count, start + BATCH))
        # one stream a batch, and only whole batches are kept, so that a resumed run draws what an unbroken
        # one would have drawn
        rng = np.random.default_rng([seed, start])
        wanted = [sample_wanted(world, CATEGORIES[n % len(CATEGORIES)], rng) for n in numbers]
        plans = [
            pipeline.plan(caption(world, w), seed=seed + n, task="text-to-image", count=1)
            for w, n in zip(wanted, numbers, strict=True)
        ]
        fresh: list[Drawn] = []
        for number, request, frames in zip(numbers, wanted, draw(pipeline.system, plans), strict=True):
            name, pixels = f"{number:06d}.png", frames[0]
            # pictures before their rows: a row stands only for a picture that is there
            save_picture(pixels, folder / name)
            found = checker.detect(pixels)
            turns: list[tuple[str, str]] = []
            for claim in (request, spoiled(world, request, rng)):
                # the picture stands once, before the first question; the second is about the same one
                question = ("" if turns else "<image> ") + VERIFY.format(caption(world, claim))
                turns += [("human", question), ("gpt", "yes" if checker.satisfies(found, claim) else "no")]
            fresh.append(
                {"conversations": [{"from": who, "value": text} for who, text in turns], "image": name}
            )
        journal.append(path, fresh)
        rows += fresh
        if progress:
            progress(len(rows), count)
    answers = [turn["value"] for row in rows for turn in row["conversations"] if turn["from"] == "gpt"]
    return {word: answers.count(word) for word in ("yes", "no")}
