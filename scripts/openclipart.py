"""Some hundred real drawings as training data: public-domain SVGs of Debian's `openclipart-svg`.

Captions are their titles and keywords; edits are exact operations on the drawing itself (mirror, recolour,
remove a part); questions are answered by title and pixels. Written as pictures, JSONL lines and a list of
data sets, as `diptych train u1 --meta` reads them.

    apt-get download openclipart-svg && dpkg-deb -x openclipart-svg_*.deb clipart
    pip install resvg-py
    python scripts/openclipart.py clipart/usr/share/openclipart/svg data/clipart
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (250, 225, 30),
    "green": (40, 160, 60),
    "blue": (40, 80, 210),
    "purple": (130, 50, 170),
    "pink": (245, 150, 190),
    "brown": (130, 80, 40),
    "black": (10, 10, 10),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
}
FILL = re.compile(r"#[0-9a-fA-F]{6}\b")
PART = re.compile(r"<(?:path|polygon|rect|ellipse|circle)\b[^>]*?/>", re.DOTALL)
LARGEST = 60_000
"""Bytes of an SVG: larger ones are drawings of many hundred parts."""
VISIBLE = (0.04, 0.5)
"""Share of the pixels that removing a part may change: fewer nobody would see, more is the drawing itself."""


def render(svg: str, side: int) -> np.ndarray | None:
    """uint8 (height, width, 3) on white, the longer side `side` px; None for what is no drawing."""
    import resvg_py

    try:
        data = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white"))
        image = Image.open(io.BytesIO(data)).convert("RGB")
    # the renderer raises ValueError for what it cannot draw, and so does Pillow for what it gave
    except (ValueError, OSError):
        return None
    shrink = side / max(image.size)
    width, height = (max(1, round(x * shrink)) for x in image.size)
    if min(width, height) * 3 < max(width, height):
        return None
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return pixels if 0.02 < (pixels < 245).any(2).mean() < 0.98 else None


def named(colour: tuple[int, ...]) -> str:
    return min(
        COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], colour, strict=True))
    )


def rgb(fill: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(fill[1:]))


def told(svg: str) -> tuple[str, list[str]] | None:
    """Title and keywords of a public-domain drawing; None where they are not in its metadata."""
    title = re.search(r"<dc:title>([^<]{3,40})</dc:title>", svg)
    words = [word.strip().lower() for word in re.findall(r"<rdf:li>([^<]{3,20})</rdf:li>", svg)]
    if title is None or not words or "PublicDomain" not in svg:
        return None
    name = re.sub(r"[^a-z ]+", " ", title[1].lower()).strip()
    return (re.sub(" +", " ", name), words[:3]) if len(name) > 2 else None


def edits(
    svg: str, pixels: np.ndarray, side: int, chance: random.Random
) -> Iterator[tuple[str, np.ndarray, str]]:
    """(instruction, result, what was done) of what can be done to a drawing."""
    yield "mirror it", np.ascontiguousarray(pixels[:, ::-1]), "it was mirrored"
    fills = {fill: named(rgb(fill)) for fill in FILL.findall(svg)}
    bright = sorted(fill for fill, name in fills.items() if name not in ("white", "black", "gray"))
    if bright:
        old = chance.choice(bright)
        new = chance.choice([name for name in list(COLOURS)[:6] if name not in fills.values()] or ["blue"])
        same = [fill for fill, name in fills.items() if name == fills[old]]
        painted = svg
        for fill in same:
            painted = painted.replace(fill, "#{:02x}{:02x}{:02x}".format(*COLOURS[new]))
        result = render(painted, side)
        if result is not None and result.shape == pixels.shape and changed(result, pixels) > VISIBLE[0]:
            yield f"paint the {fills[old]} parts {new}", result, f"{fills[old]} became {new}"
    parts = list(PART.finditer(svg))
    for part in chance.sample(parts, min(4, len(parts))):
        fill = FILL.search(part[0])
        result = render(svg[: part.start()] + svg[part.end() :], side) if fill else None
        if fill is None or result is None or result.shape != pixels.shape:
            continue
        if VISIBLE[0] < changed(result, pixels) < VISIBLE[1]:
            where = place(result, pixels)
            yield f"remove the {named(rgb(fill[0]))} part {where}", result, f"the part {where} is gone"
            return


def changed(first: np.ndarray, second: np.ndarray) -> float:
    return float((np.abs(first.astype(int) - second).max(2) > 24).mean())


def place(first: np.ndarray, second: np.ndarray) -> str:
    """Where two pictures differ, in words."""
    rows, columns = (np.abs(first.astype(int) - second).max(2) > 24).nonzero()
    x, y = columns.mean() / first.shape[1], rows.mean() / first.shape[0]
    sideways = "left" if x < 0.4 else "right" if x > 0.6 else ""
    upright = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    return (
        f"at the {' '.join(word for word in (upright, sideways) if word)}"
        if sideways or upright
        else "in the middle"
    )


def line(asked: str, answer: str, *pictures: str) -> dict[str, object]:
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, "image": list(pictures)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("svg", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--count", type=int, default=600, help="drawings")
    arguments.add_argument(
        "--sides", type=int, nargs=2, default=(64, 128), help="longer side, px, least and most"
    )
    given = arguments.parse_args()
    chance = random.Random(0)
    files = sorted(given.svg.rglob("*.svg"))
    chance.shuffle(files)
    (given.out / "pictures").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, object]]] = {"draw": [], "edit": [], "ask": []}
    titles: set[str] = set()
    for path in files:
        svg = path.read_text(errors="ignore") if path.stat().st_size <= LARGEST else ""
        about, side = told(svg), chance.randint(*given.sides)
        # one drawing a title: two that are asked for alike cannot both come back
        if about is None or about[0] in titles or (pixels := render(svg, side)) is None:
            continue
        titles.add(about[0])
        stem = f"pictures/{len(titles):04}"
        Image.fromarray(pixels).save(given.out / f"{stem}.png")
        rows["draw"].append(line(f"{about[0]}: {', '.join(about[1])}", "<image>", f"{stem}.png"))
        seen = pixels[(pixels < 245).any(2)]
        colour = named(tuple(int(x) for x in np.median(seen, 0)))
        rows["ask"].append(line("<image>\nwhat is this?", about[0], f"{stem}.png"))
        rows["ask"].append(line("<image>\nwhich colour has it mostly?", colour, f"{stem}.png"))
        for number, (asked, result, done) in enumerate(edits(svg, pixels, side, chance)):
            Image.fromarray(result).save(given.out / f"{stem}-{number}.png")
            both = (f"{stem}.png", f"{stem}-{number}.png")
            rows["edit"].append(line(f"<image>\n{asked}", "<image>", *both))
            rows["ask"].append(line("<image>\n<image>\nwhat was changed?", done, *both))
        if len(titles) == given.count:
            break
    meta = {}
    for name, task in (("draw", "t2i"), ("edit", "it2i"), ("ask", "none")):
        (given.out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        entry = {"root": ".", "annotation": f"{name}.jsonl", "repeat_time": 1, "length": len(rows[name])}
        meta[f"clipart-{name}"] = {**entry, "task": task}
    (given.out / "meta.json").write_text(json.dumps(meta, indent=1))
    print({name: len(found) for name, found in rows.items()}, f"of {len(titles)} drawings in {given.out}")


if __name__ == "__main__":
    main()
