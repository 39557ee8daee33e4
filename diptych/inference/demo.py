"""The main job, shown: requests in plain words, answers and pictures out."""

from __future__ import annotations

import html
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from diptych.files.whole import write_whole
from diptych.inference.pipeline import Pipeline, Result
from diptych.inference.select import best_of
from diptych.inference.sheet import Cell, contact_sheet
from diptych.inference.verifiers import load_verifier
from diptych.request import Media

DRAWINGS = (
    ("single object", "draw a cat"),
    ("two objects", "a dog and a car"),
    ("counting", "three apples"),
    ("colour", "a picture of a purple heart"),
    ("position", "a cat left of a banana"),
    ("attribute binding", "a red circle and a blue square"),
)
CANDIDATES = 4
"""Pictures drawn of each; the one that the model itself finds right is kept."""
LATER = (
    ("question", "how many apples are there?", 2),
    ("edit", "change the background to mint", 2),
    ("caption", "describe the picture", 4),
)
"""(kind, request, index of the drawing that it is about)."""
PAGE, SHEET, TITLE = "index.html", "contact-sheet.png", "<title>Diptych demo</title>"


def left_over(folder: Path) -> tuple[str, ...]:
    """Names of what an earlier demo wrote into a folder, which the next one replaces: told by its page."""
    page = folder / PAGE
    if not page.is_file() or TITLE not in page.read_text(encoding="utf-8", errors="replace")[:1000]:
        return ()
    return (PAGE, SHEET, *(f"{number:02d}.png" for number in range(len(DRAWINGS) + len(LATER))))


def run(pipeline: Pipeline, folder: Path, console: Console) -> list[Result]:
    """Carry out all requests; write the pictures, a contact sheet and index.html under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(kind, request, None) for kind, request in DRAWINGS] + [(k, r, i) for k, r, i in LATER]
    results: list[Result] = []
    shown: list[tuple[str, str, Result, Path]] = []
    for number, (kind, request, about) in enumerate(jobs):
        began = time.monotonic()
        images: list[np.ndarray] = [] if about is None else [results[about].images[0]]
        result = _drawn(pipeline, request, number) if about is None else pipeline.run(request, images, seed=7)
        results.append(result)
        path = folder / f"{number:02d}.png"
        if result.images:
            result.save(path)
        elif about is not None:
            path = folder / f"{about:02d}.png"
        chosen = f", best of {CANDIDATES} by the model itself" if about is None else ""
        plan = ", ".join(
            f"{k} {v}" for k, v in result.plan.shown().items() if k not in ("prompt", "inputs", "confidence")
        )
        console.print(f"[bold]{kind}[/bold]: {escape(request)}", highlight=False)
        console.print(f"  [dim]plan  [/dim] {escape(plan + chosen)}", highlight=False)
        console.print(
            f"  [dim]result[/dim] {escape(result.text or str(path))}  "
            f"[dim]({time.monotonic() - began:.1f} s)[/dim]",
            highlight=False,
        )
        shown.append((kind, request, result, path))
    cells = [
        Cell(
            r.images[0] if r.images else results[LATER[i - len(DRAWINGS)][2]].images[0],
            f"{q} {r.text}".strip(),
        )
        for i, (_, q, r, _) in enumerate(shown)
    ]
    contact_sheet(cells, folder / SHEET, columns=3)
    write_whole(folder / PAGE, _page(shown))
    console.print(f"{folder / 'contact-sheet.png'}\n{folder / 'index.html'}", highlight=False)
    return results


def _drawn(pipeline: Pipeline, request: str, number: int) -> Result:
    """The best of a few by the model's own judgement."""
    # candidates take seeds in a row, so each drawing begins where the one before cannot reach
    plan = pipeline.plan(request, seed=7 + number * CANDIDATES)
    best = best_of(pipeline.system, plan, load_verifier("self", pipeline.system), CANDIDATES)[0]
    return Result(replace(plan, seed=best.seed), media=(Media.picture(best.pixels),))


def _page(shown: list[tuple[str, str, Result, Path]]) -> str:
    cards = "".join(
        f'<figure><img src="{html.escape(path.name)}" width="288" height="288" alt="{html.escape(request)}">'
        f"<figcaption><small>{html.escape(kind)}</small><b>{html.escape(request)}</b>"
        f"{'<p>' + html.escape(result.text) + '</p>' if result.text else ''}"
        f"<details><summary>plan</summary><pre>{html.escape(result.plan.to_json())}</pre></details>"
        "</figcaption></figure>"
        for kind, request, result, path in shown
    )
    style = (
        "body{font:16px/1.45 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 "
        "1rem;color:#222}"
        "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(288px,1fr));gap:1.5rem}"
        "figure{margin:0}"
        "img{display:block;border-radius:8px;image-rendering:auto}"
        "small{display:block;color:#666}b{display:block}"
        "p{margin:.2rem 0;color:#06603a}pre{font-size:12px;white-space:pre-wrap}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{TITLE}<style>{style}</style>'
        "<h1>Diptych demo</h1><p>Drawn, answered and edited by one model, which chose each drawing "
        f"among {CANDIDATES} of its own.</p>"
        f"<main>{cards}</main></html>\n"
    )
