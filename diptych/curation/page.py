"""Pieces of a self-contained page: figures, bars, histograms, pictures, one style for light and dark."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.files.visible import visible

THUMB = 132
"""Longest side of a picture on a page, px."""
BINS = 48
WIDTH, HEIGHT = 336, 104
"""Of a histogram, in units of its own."""

STYLE = """
:root{--back:#fff;--ink:#1c2330;--soft:#5d6677;--line:#dfe3ea;--card:#f6f7f9;--kept:#2f7d5b;--dropped:#c9702b;
--failed:#a33a4a;--limit:#1f5fbf}
@media(prefers-color-scheme:dark){:root{--back:#14171c;--ink:#e4e7ec;--soft:#98a1b0;--line:#2c323c;
--card:#1c2027;--kept:#58b88e;--dropped:#e09a5c;--failed:#e07a88;--limit:#7fb0f5}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:1120px;
margin:0 auto;padding:1.2rem 1rem 4rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2.4rem 0 .6rem;padding-top:.6rem;
border-top:1px solid var(--line)}h3{font-size:.95rem;margin:1.2rem 0 .4rem}
p{margin:.3rem 0}small,.soft{color:var(--soft);font-size:.82rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem .9rem;margin:.8rem 0;font-size:.88rem}a{color:var(--limit)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:1rem 0}
.figures div{background:var(--card);border-radius:8px;padding:.6rem .8rem}
.figures b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{text-align:left;padding:.32rem .6rem .32rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:500}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{display:flex;height:.7rem;min-width:7rem;border-radius:3px;overflow:hidden;background:var(--line);
margin-top:.4rem}
.bar i{display:block;height:100%}.kept{background:var(--kept);fill:var(--kept)}
.dropped{background:var(--dropped);fill:var(--dropped)}.failed{background:var(--failed);fill:var(--failed)}
.tint-kept{border-top:3px solid var(--kept)}.tint-dropped{border-top:3px solid var(--dropped)}
.tint-failed{border-top:3px solid var(--failed)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:1rem}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:10px system-ui,sans-serif}
.limit{stroke:var(--limit);stroke-width:1.5;stroke-dasharray:4 3}svg text.mark{fill:var(--limit)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.4rem,1fr));gap:.7rem}
figure{margin:0;background:var(--card);border-radius:6px;padding:.35rem;min-width:0}
figure img{display:block;width:100%;height:7.2rem;object-fit:contain;
background:repeating-conic-gradient(#d5d9e0 0 25%,#eceff3 0 50%) 0/14px 14px;border-radius:3px}
figure .none{height:7.2rem;display:grid;place-items:center;text-align:center;color:var(--soft);
font-size:.78rem;border:1px dashed var(--line);border-radius:3px;padding:.3rem}
figcaption{font-size:.76rem;line-height:1.35;margin-top:.3rem;display:-webkit-box;-webkit-line-clamp:5;
-webkit-box-orient:vertical;overflow:hidden}
.group{display:flex;flex-wrap:wrap;gap:.5rem;padding:.6rem 0;border-bottom:1px solid var(--line)}
.group figure{width:8.4rem}.legend span{display:inline-block;margin-right:1rem}
.legend i{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.3rem}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--soft)}pre{font-size:.78rem;white-space:pre-wrap}
@media(max-width:480px){.sheet{grid-template-columns:repeat(2,1fr)}.group figure{width:calc(50% - .25rem)}
.bar{min-width:4rem}body{padding:.8rem .7rem 3rem}
.why tr{display:grid;grid-template-columns:1.7fr repeat(4,1fr);border-bottom:1px solid var(--line)}
.why td,.why th{border:0}.why td:last-child{grid-column:1/-1}.why th:last-child{display:none}}
"""


def text(value: str) -> str:
    """Anybody's text, to be read and nothing more."""
    return html.escape(visible(value))


def document(title: str, body: Iterable[str]) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "</html>\n"
    )


def section(title: str, body: Iterable[str], name: str = "") -> str:
    return f'<section id="{text(name)}"><h2>{text(title)}</h2>' + "\n".join(body) + "</section>"


def links(names: Iterable[str]) -> str:
    """To the sections of a page."""
    return f"<nav>{''.join(f'<a href=#{text(name)}>{text(name)}</a>' for name in names)}</nav>"


def figures(told: Mapping[str, str]) -> str:
    cells = "".join(f"<div><b>{text(value)}</b>{text(name)}</div>" for name, value in told.items())
    return f'<div class="figures">{cells}</div>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), kind: str = ""
) -> str:
    """`rows` of HTML; columns of `numbers` are set to the right. Of the kind 'why', the last column has a
    line of its own on narrow screens."""

    def cells(kind: str, values: Sequence[str]) -> str:
        return "".join(
            f'<{kind} class="n">{value}</{kind}>' if at in numbers else f"<{kind}>{value}</{kind}>"
            for at, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}"><tr>{cells("th", head)}</tr>{body}</table></div>'


def bar(parts: Mapping[str, int], whole: int) -> str:
    """A row of shares; names are those of outcomes."""
    pieces = "".join(
        f'<i class="{name}" style="width:{100 * count / max(whole, 1):.2f}%"></i>'
        for name, count in parts.items()
    )
    return f'<div class="bar">{pieces}</div>'


LEGEND = (
    '<p class="legend soft"><span><i class="kept"></i>kept</span><span><i class="dropped"></i>dropped</span>'
    '<span><i class="failed"></i>failed</span></p>'
)


@dataclass(frozen=True)
class Limit:
    value: float
    reason: str


def histogram(title: str, values: np.ndarray, kept: np.ndarray, limits: Sequence[Limit] = ()) -> str:
    """How a score lies over the rows that came to its stage; `kept` (bool) went on. The outer 0.2 % on either
    side are in the outermost bars, thresholds are always in sight."""
    there = np.isfinite(values)
    values, kept, absent = values[there], kept[there], int((~there).sum())
    if not len(values):
        return f"<div><h3>{text(title)}</h3><p class='soft'>no numbers</p></div>"
    low, high = (float(v) for v in np.quantile(values, (0.002, 0.998)))
    drawn = [limit for limit in limits if np.isfinite(limit.value) and abs(limit.value) < 1e8]
    low, high = min([low, *(limit.value for limit in drawn)]), max([high, *(limit.value for limit in drawn)])
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    inside = np.clip(values, low, high)
    parts = [np.histogram(inside[rows], edges)[0] for rows in (kept, ~kept)]
    top = max(1, int((parts[0] + parts[1]).max()))
    step, floor = WIDTH / BINS, HEIGHT - 14
    shapes = []
    for at in range(BINS):
        y = float(floor)
        for name, counts in (("kept", parts[0]), ("dropped", parts[1])):
            size = floor * 0.92 * counts[at] / top
            if counts[at]:
                y -= size
                shapes.append(
                    f'<rect class="{name}" x="{at * step:.1f}" y="{y:.1f}" width="{step - 0.6:.1f}" '
                    f'height="{size:.1f}"/>'
                )
    for limit in drawn:
        x = (limit.value - low) / (high - low) * WIDTH
        side = ("start", 4) if x < WIDTH / 2 else ("end", -4)
        shapes.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{floor}"/>')
        shapes.append(
            f'<text class="mark" x="{x + side[1]:.1f}" y="9" text-anchor="{side[0]}">'
            f"{text(limit.reason)} {limit.value:.4g}</text>"
        )
    shapes.append(f'<text x="0" y="{HEIGHT - 2}">{low:.4g}</text>')
    shapes.append(f'<text x="{WIDTH}" y="{HEIGHT - 2}" text-anchor="end">{high:.4g}</text>')
    more = f", {absent:,} without a number" if absent else ""
    return (
        f"<div><h3>{text(title)}</h3><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>{''.join(shapes)}</svg>"
        f"<small>{len(values):,} rows, median {np.median(values):.4g}{more}</small></div>"
    )


def density(title: str, across: np.ndarray, up: np.ndarray) -> str:
    """Where sizes lie: squares as dark as there are many, on logarithmic axes."""
    if not len(across):
        return ""
    logs = np.log2(np.maximum(np.stack([across, up]), 1))
    low, high = float(logs.min()), float(logs.max())
    edges = np.linspace(low, max(high, low + 1), 33)
    counts, _, _ = np.histogram2d(logs[0], logs[1], bins=(edges, edges))
    side, shapes, most = 6, [], np.log1p(counts.max())
    for x, y in np.argwhere(counts):
        shade = 0.15 + 0.85 * np.log1p(counts[x, y]) / most
        shapes.append(
            f'<rect class="kept" x="{24 + x * side}" y="{(31 - y) * side}" width="{side}" height="{side}" '
            f'opacity="{shade:.2f}"/>'
        )
    ticks = [round(2**v) for v in (edges[0], edges[16], edges[-1])]
    for at, value in zip((0, 96, 192), ticks, strict=True):
        anchor = {0: "start", 96: "middle", 192: "end"}[at]
        shapes.append(f'<text x="{24 + at}" y="204" text-anchor="{anchor}">{value}</text>')
        shapes.append(f'<text x="20" y="{198 - at if at else 192}" text-anchor="end">{value}</text>')
    return (
        f"<div><h3>{text(title)}</h3><svg viewBox='-6 -8 330 216' role='img'>{''.join(shapes)}</svg>"
        "<small>width to the right, height upwards, px</small></div>"
    )


def picture(pixels: np.ndarray | None, caption: str, tint: str = "", instead: str = "") -> str:
    """A picture with lines of HTML below it; `tint` is an outcome."""
    shown = f'<div class="none">{text(instead)}</div>'
    if pixels is not None:
        shown = f'<img alt="" loading="lazy" src="{data(pixels)}">'
    return f'<figure class="tint-{tint}">{shown}<figcaption>{caption}</figcaption></figure>'


def data(pixels: np.ndarray) -> str:
    """A small picture as an address that holds it."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMB, THUMB))
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=72)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def sheet(cells: Iterable[str]) -> str:
    return f'<div class="sheet">{"".join(cells)}</div>'


def folded(title: str, body: str) -> str:
    return f"<details><summary>{text(title)}</summary>{body}</details>"
