"""What a run did, on one page that needs nothing else: counts that add up, scores with their thresholds, and
pictures of what was kept, dropped and nearly so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diptych.curation import page
from diptych.curation.decide import DROPPED, FAILED, KEPT, Count, Decisions, totals
from diptych.curation.decode import Seen, bytes_of
from diptych.curation.engine import Run
from diptych.curation.stage import Drop, RowError, WholeStage
from diptych.curation.table import read_rows
from diptych.curation.view import RunView
from diptych.files.typed import to_json
from diptych.files.whole import write_whole

SHOWN = 12
"""Pictures of a sheet."""
MOST = 600
"""Pictures of a page: about 3 MB."""
REASONS, GROUPS, CLUSTERS = 6, 10, 10
"""Reasons of a stage, groups of near-duplicates, and clusters or sources that are shown."""


@dataclass(frozen=True)
class Shown:
    """A picture of a sheet: its row, and what is said below it."""

    row: int
    note: str = ""


@dataclass
class _Sheet:
    title: str
    pictures: list[Shown]


class Findings:
    """A run as a page needs it: decisions, what each stage found, and the rows that are shown."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.view, self.made = run.decisions()

    @cached_property
    def count(self) -> int:
        return len(self.view)

    def before(self, number: int) -> np.ndarray:
        """bool: rows that came to a stage (numbered from 1)."""
        return self.made.kept | (self.made.stage >= number)

    def drops(self, number: int) -> list[Drop]:
        """What a stage asks of its rows, with scores and limits."""
        self.view.alive = self.before(number)
        return self.run.stages[number - 1].judge(self.view).drops

    def measured(self, number: int) -> dict[str, np.ndarray]:
        """Numbers that a stage gave, or derived, by full name."""
        stage = self.run.stages[number - 1]
        if isinstance(stage, WholeStage):
            return {}
        numeric = [
            name
            for name, kind in stage.columns().items()
            if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not pa.types.is_boolean(kind))
        ]
        return {name: self.view[name].astype(np.float64) for name in numeric}

    def rows_of(self, stage: int, reason: int) -> np.ndarray:
        return np.flatnonzero((self.made.stage == stage) & (self.made.reason == reason))


def some(rows: np.ndarray, count: int = SHOWN) -> np.ndarray:
    """So many of the rows, drawn the same way each time, in their order."""
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng([len(rows), int(rows[0])]).choice(rows, count, replace=False))


def write_report(run: Run, path: Path) -> None:
    """Raises ValueError where a run is not through."""
    found = Findings(run)
    view, made = found.view, found.made
    pictures = _Pictures(run)
    sums = totals(made.counts)
    told = run.told
    head = [
        f"<h1>{page.text(Path(told.source).name)}</h1><p class='soft'>recipe {page.text(told.recipe)}, "
        f"{page.text(told.source)}</p>",
        page.figures({"rows": f"{len(view):,}", **{name: f"{count:,}" for name, count in sums.items()}}),
        f"<p>{_sum(len(view), sums)}</p>",
    ]
    parts = {"counts": _funnel(made.counts)}
    parts |= {count.stage: _stage(found, number, pictures) for number, count in enumerate(made.counts)}
    parts |= {"kept": _kept(found, pictures), "duplicates": _duplicates(found, pictures)}
    parts |= {**_groups(found, pictures), "about": _about(found)}
    parts["settings"] = page.section("Settings", [f"<pre>{page.text(to_json(told))}</pre>"], "settings")
    there = {name: part for name, part in parts.items() if part}
    title = f"{Path(told.source).name}: curated"
    write_whole(path, page.document(title, pictures.filled([*head, page.links(there), *there.values()])))


def _sum(rows: int, sums: Mapping[str, int]) -> str:
    right = " + ".join(f"{count:,} {name}" for name, count in sums.items())
    assert sum(sums.values()) == rows
    return page.text(f"{rows:,} rows = {right}")


def _funnel(counts: Sequence[Count]) -> str:
    rows, whole = [], counts[0].rows
    for count in counts:
        dropped, failed = sum(count.dropped.values()), sum(count.failed.values())
        # what a page shows must add up, or nobody should believe it
        assert count.rows == count.kept + dropped + failed
        why = sorted({**count.dropped, **count.failed}.items(), key=lambda item: -item[1])[:REASONS]
        rows.append(
            (
                page.text(count.stage)
                + page.bar({KEPT: count.kept, DROPPED: dropped, FAILED: failed}, whole),
                f"{count.rows:,}",
                f"{count.kept:,}",
                f"{dropped:,}",
                f"{failed:,}",
                "<br>".join(page.text(f"{reason}: {number:,}") for reason, number in why),
            )
        )
    head = ("stage", "came", "kept", "dropped", "failed", "why")
    return page.section("Counts", [page.table(head, rows, (1, 2, 3, 4), "why"), page.LEGEND], "counts")


def _stage(found: Findings, number: int, pictures: _Pictures) -> str:
    made, count = found.made, found.made.counts[number]
    body: list[str] = []
    sheets: list[_Sheet] = []
    scored: dict[str, list[page.Limit]] = {}
    if number:
        came, drops = found.before(number), found.drops(number)
        passed = found.before(number + 1)
        columns = found.measured(number)
        for drop in drops:
            if drop.column and drop.score is not None:
                columns.setdefault(drop.column, drop.score)
                if drop.limit is not None:
                    scored.setdefault(drop.column, []).append(page.Limit(drop.limit, drop.reason))
                    sheets += _borderline(drop, made, number, passed)
        # first those that decide
        names = sorted(columns, key=lambda name: name not in scored)
        # what failed here has no numbers, and zeros in their place
        there = came & ~((made.stage == number) & made.failed)
        charts = [
            page.histogram(name, columns[name][there], passed[there], scored.get(name, ()))
            for name in names[:16]
        ]
        if charts and there.any():
            body.append(f'<div class="charts">{"".join(charts)}</div>')
    for reason, size in sorted({**count.dropped, **count.failed}.items(), key=lambda item: -item[1])[
        :REASONS
    ]:
        if reason in made.reasons:
            rows = found.rows_of(number, made.reasons.index(reason))
            notes = [f"{made.score[row]:.4g}" if np.isfinite(made.score[row]) else "" for row in some(rows)]
            chosen = [Shown(int(row), note) for row, note in zip(some(rows), notes, strict=True)]
            sheets.append(_Sheet(f"{reason}: {size:,}", chosen))
    body += [f"<h3>{page.text(sheet.title)}</h3>" + pictures.sheet(sheet.pictures) for sheet in sheets]
    if not body:
        return ""
    dropped = sum(count.dropped.values())
    failed = sum(count.failed.values())
    line = page.text(f"{count.rows:,} came = {count.kept:,} kept + {dropped:,} dropped + {failed:,} failed")
    return page.section(count.stage, [f"<p class='soft'>{line}</p>", *body], count.stage)


def _borderline(drop: Drop, made: Decisions, number: int, passed: np.ndarray) -> Iterator[_Sheet]:
    """Those that only just stayed, and those that only just went."""
    assert drop.score is not None
    assert drop.limit is not None
    went = (made.stage == number) & drop.rows & (made.limit == drop.limit)
    if not went.any():
        return
    distance = np.abs(drop.score - drop.limit)
    for what, rows in (("only just kept", passed), ("only just dropped", went)):
        near = np.flatnonzero(rows & np.isfinite(distance))
        near = near[np.argsort(distance[near], kind="stable")[: SHOWN // 2]]
        if len(near):
            shown = [Shown(int(row), f"{drop.score[row]:.4g}") for row in near]
            yield _Sheet(f"{drop.reason}, {what} ({drop.column} {drop.limit:.4g})", shown)


def _kept(found: Findings, pictures: _Pictures) -> str:
    rows = some(np.flatnonzero(found.made.kept), 2 * SHOWN)
    return page.section("Kept", [pictures.sheet([Shown(int(row)) for row in rows])], "kept")


def _duplicates(found: Findings, pictures: _Pictures) -> str:
    """Copies side by side with what was kept in their place."""
    body: list[str] = []
    for number, stage in enumerate(found.run.stages, 1):
        if (name := f"{stage.name}.of") not in found.view.derived:
            continue
        gone = np.flatnonzero(found.made.stage == number)
        into = found.view.derived[name][gone]
        best, sizes = np.unique(into, return_counts=True)
        for row in best[some(np.argsort(-sizes, kind="stable"), GROUPS)]:
            copies = gone[into == row]
            likes = found.made.score[copies]
            shown = [
                Shown(int(copy), f"{like:.3f}") for copy, like in zip(copies[:5], likes[:5], strict=True)
            ]
            body.append(
                f'<div class="group">{pictures.cells([Shown(int(row), "kept for them"), *shown])}'
                f"<small>{len(copies):,} went for it</small></div>"
            )
    return page.section("Near-duplicates", body, "duplicates") if body else ""


def _groups(found: Findings, pictures: _Pictures) -> dict[str, str]:
    """Sheets by source and by cluster."""
    parts = {}
    sources = found.view.strings("source")
    if (sources != sources[0]).any():
        parts["sources"] = _by("Sources", "sources", sources, found, pictures)
    for stage in found.run.stages:
        if "cluster" in stage.gives():
            numbers = found.view[f"{stage.name}.cluster"].astype(np.int64)
            parts["clusters"] = _by("Clusters", "clusters", numbers, found, pictures)
    return parts


def _by(title: str, name: str, values: np.ndarray, found: Findings, pictures: _Pictures) -> str:
    kept = found.made.kept
    words, which, sizes = np.unique(values, return_inverse=True, return_counts=True)
    body = [f"<p class='soft'>{len(words):,} in all; the largest</p>"]
    for at in np.argsort(-sizes, kind="stable")[:CLUSTERS]:
        rows = np.flatnonzero(which == at)
        good = rows[kept[rows]]
        parts = {KEPT: len(good), DROPPED: len(rows) - len(good)}
        body.append(
            f"<h3>{page.text(str(words[at]))}: {len(rows):,} rows, {len(good):,} kept</h3>"
            + page.bar(parts, int(sizes.max()))
            + pictures.sheet([Shown(int(row)) for row in some(good if len(good) else rows, 6)])
        )
    return page.section(title, body, name)


def _about(found: Findings) -> str:
    """Languages, sizes, words."""
    body, charts = [], []
    kept = found.made.kept
    for stage in found.run.stages:
        gives = stage.gives()
        if {"width", "height"} <= set(gives):
            across, up = (found.view[f"{stage.name}.{side}"] for side in ("width", "height"))
            there = kept & (across > 0)
            charts.append(page.density("Sizes of what was kept", across[there], up[there]))
        if "words" in gives and "language" in gives:
            words = found.view[f"{stage.name}.words"].astype(float)
            charts.append(page.histogram("Words of a caption", words[words > 0], kept[words > 0]))
        if "language" in gives:
            values = found.view.strings(f"{stage.name}.language")
            names, which, sizes = np.unique(values, return_inverse=True, return_counts=True)
            rows = [
                (
                    page.text(str(names[at]) or "none told"),
                    f"{sizes[at]:,}",
                    f"{int((kept & (which == at)).sum()):,}",
                )
                for at in np.argsort(-sizes, kind="stable")[:20]
            ]
            body.append("<h3>Languages</h3>" + page.table(("language", "rows", "kept"), rows, (1, 2)))
    if charts:
        body.insert(0, f'<div class="charts">{"".join(charts)}</div>')
    return page.section("Sizes and words", body, "about") if body else ""


class _Pictures:
    """Places of pictures on a page, filled in the end: rows are read shard by shard, each once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.wanted: dict[str, Shown] = {}

    def cells(self, shown: Iterable[Shown]) -> str:
        marks = []
        for one in shown:
            if len(self.wanted) >= MOST:
                break
            mark = f"<!--{len(self.wanted)}-->"
            self.wanted[mark] = one
            marks.append(mark)
        return "".join(marks)

    def sheet(self, shown: Iterable[Shown]) -> str:
        return page.sheet([self.cells(shown)])

    def filled(self, parts: Iterable[str]) -> Iterator[str]:
        about = facts(self.run, sorted({one.row for one in self.wanted.values()}))
        drawn: dict[int, np.ndarray | None] = {row: thumb(about[row]) for row in about}
        for part in parts:
            pieces = part.split("<!--")
            yield pieces[0] + "".join(self._piece(piece, about, drawn) for piece in pieces[1:])

    def _piece(self, piece: str, about: Mapping[int, Any], drawn: Mapping[int, Any]) -> str:
        number, _, rest = piece.partition("-->")
        one = self.wanted[f"<!--{number}-->"]
        row = about[one.row]
        captions = row["captions"] or ()
        more = f" (+{len(captions) - 1})" if len(captions) > 1 else ""
        said = f"{captions[0][:160]}{more}" if captions else "no caption"
        note = f"<b>{page.text(one.note)}</b> " if one.note else ""
        caption = f"{note}{page.text(said)}<br><small>{page.text(row['id'][-60:])}</small>"
        outcome = self._outcome(one.row)
        return page.picture(drawn[one.row], caption, outcome, row["problem"][:120] or "no picture") + rest

    @cached_property
    def _made(self) -> Decisions:
        return self.run.decisions()[1]

    def _outcome(self, row: int) -> str:
        return self._made.outcome(row)[0]


def facts(run: Run, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What the source says of some rows."""
    found: dict[int, dict[str, Any]] = {}
    wanted = np.array(rows, dtype=np.int64)
    for shard, start in zip(run.plan.shards, run.plan.starts, strict=True):
        here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + shard.count)]
        if len(here):
            table = read_rows(run.out, shard).take(here - start)
            found |= dict(zip(here.tolist(), table.to_pylist(), strict=True))
    return found


def thumb(row: Mapping[str, Any]) -> np.ndarray | None:
    """A picture, small; None where it cannot be read."""
    if row["problem"]:
        return None
    try:
        return Seen(bytes_of(row["file"], row["offset"], row["size"], row["modified"]), row["id"]).small
    except RowError:
        return None


def write_diff(before: Run, after: Run, path: Path) -> dict[str, int]:
    """A page of what two runs decided otherwise about the same rows; returns the counts."""
    runs = (before, after)
    decided = [run.decisions() for run in runs]
    keys = [_keys(view) for view, _ in decided]
    common, left, right = np.intersect1d(keys[0], keys[1], return_indices=True)
    outcomes = [_outcomes(made) for _, made in decided]
    pairs = np.stack([outcomes[0][1][left], outcomes[1][1][right]])
    changed = np.flatnonzero(
        np.array(outcomes[0][0], object)[pairs[0]] != np.array(outcomes[1][0], object)[pairs[1]]
    )
    counts = {
        "in both": len(common),
        "decided otherwise": len(changed),
        "only before": len(np.unique(keys[0])) - len(common),
        "only after": len(np.unique(keys[1])) - len(common),
    }
    pictures = _Pictures(after)
    ways, which, sizes = np.unique(pairs[:, changed], axis=1, return_inverse=True, return_counts=True)
    body: list[str] = []
    rows: list[tuple[str, ...]] = []
    for at in np.argsort(-sizes, kind="stable"):
        was, now = outcomes[0][0][ways[0, at]], outcomes[1][0][ways[1, at]]
        rows.append((page.text(was), page.text(now), f"{sizes[at]:,}"))
        if len(body) < 2 * REASONS:
            chosen = some(np.sort(right[changed[which.ravel() == at]]))
            shown = pictures.sheet([Shown(int(row)) for row in chosen])
            body.append(f"<h3>{page.text(f'{was} → {now}: {sizes[at]:,}')}</h3>{shown}")
    title = f"{before.out.name} and {after.out.name}"
    parts = [
        f"<h1>{page.text(title)}</h1>",
        page.figures({name: f"{count:,}" for name, count in counts.items()}),
        page.section("What changed", [page.table(("before", "after", "rows"), rows, (2,))], "changes"),
        page.section("Settings", [_settings(before, after)], "settings"),
        page.section("Pictures", body, "pictures"),
    ]
    write_whole(path, page.document(title, pictures.filled(parts)))
    return counts


def _keys(view: RunView) -> np.ndarray:
    """What a row is, in whichever run: its bytes and its name."""
    hashes, names = view.digests("sha256"), view.strings("id")
    return np.array([f"{bytes(h).hex()} {name}" for h, name in zip(hashes, names, strict=True)], dtype=object)


def _outcomes(made: Decisions) -> tuple[list[str], np.ndarray]:
    """Outcomes in words, and which of them each row has."""
    pairs = np.stack([made.stage.astype(np.int64), made.reason.astype(np.int64)])
    ways, which = np.unique(pairs, axis=1, return_inverse=True)
    words = [
        KEPT if stage < 0 else f"{made.stages[stage]}: {made.reasons[reason]}"
        for stage, reason in ways.T.tolist()
    ]
    return words, which.ravel()


def _settings(before: Run, after: Run) -> str:
    told = [{**run.told.settings, "recipe": run.told.recipe} for run in (before, after)]
    names = sorted({*told[0], *told[1]})
    rows = [
        (page.text(name), page.text(str(told[0].get(name, "–"))), page.text(str(told[1].get(name, "–"))))
        for name in names
        if told[0].get(name) != told[1].get(name)
    ]
    return page.table(("setting", "before", "after"), rows) if rows else "<p>the same</p>"
