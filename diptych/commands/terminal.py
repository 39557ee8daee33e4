"""What commands say, and where: answers on stdout, all else on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from diptych.files.visible import visible

EVERY = 5.0
"""Seconds between two lines of progress where nobody's terminal can show a bar."""


class Terminal(Console):
    """A console that strangers' text (cards, names of files, prompts) cannot command."""

    # every string that is printed, a table's cells and titles included, is rendered here
    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(text), **how)

    def on_broken_pipe(self) -> NoReturn:
        # rich would leave with status 1; the command line decides
        raise BrokenPipeError


aside = Terminal(stderr=True)
"""For plans, progress, notes and errors: stdout holds the answer alone."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that goes when the block ends, or off a terminal a line every few seconds; yields advance(done,
    total)."""
    if not aside.is_terminal:
        yield _lines(what)
        return
    from rich.progress import Progress

    with Progress(console=aside, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            aside.print(f"{what}: {done} of {total}", highlight=False, markup=False)

    return advance
