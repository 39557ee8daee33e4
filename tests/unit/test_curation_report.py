"""The page of a run: what it says adds up, shows what happened, and holds nothing from elsewhere."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from diptych.curation import page
from diptych.curation.engine import curate
from diptych.curation.page import Limit
from diptych.curation.pool import Here
from diptych.curation.recipes import Recipe
from diptych.curation.report import write_diff, write_report


class Read(html.parser.HTMLParser):
    """A page as a reader of HTML sees it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "br", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("rect", "line", "br"):
            return
        assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data):
        self.words.append(data)


def drawing(seed: int) -> Image.Image:
    """Shapes with edges, different for each seed."""
    random = np.random.default_rng(seed)
    pixels = np.full((96, 128, 3), random.integers(180, 255, 3), np.uint8)
    for _ in range(6):
        top, left = random.integers(0, 70, 2)
        height, width = random.integers(8, 50, 2)
        pixels[top : top + height, left : left + width] = random.integers(0, 255, 3)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def heap(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heap")
    for n in range(24):
        image = drawing(n)
        if n % 6 == 5:
            image = image.filter(ImageFilter.GaussianBlur(6))
        image.save(folder / f"{n:02d}.png")
        (folder / f"{n:02d}.txt").write_text(f"a drawing of <b>{n}</b> & more shapes")
    drawing(3).save(folder / "copy.jpg", quality=95)
    (folder / "copy.txt").write_text("the same drawing again")
    (folder / "broken.png").write_bytes(b"no picture at all")
    return folder


@pytest.fixture(scope="module")
def run(heap, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "run"
    return curate(Recipe.load("broad", {"cap": "20", "clusters": "3"}), heap, out, Here(out))


def written(run, path: Path) -> str:
    write_report(run, path)
    return path.read_text()


def test_the_page_is_whole_and_asks_nothing_of_anybody(run, tmp_path):
    text = written(run, tmp_path / "report.html")
    read = Read(text)
    assert not [tag for tag in read.open if tag != "html"]
    assert "script" not in read.counts
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in read.links)
    assert "<b>3</b>" not in text, "a caption is text, not markup"
    assert "a drawing of &lt;b&gt;" in text


def test_counts_add_up_from_stage_to_stage(run, tmp_path):
    text = "".join(Read(written(run, tmp_path / "report.html")).words)
    whole = re.search(r"26 rows = ([\d,]+) kept \+ ([\d,]+) dropped \+ ([\d,]+) failed", text)
    assert whole
    assert sum(map(int, whole.groups())) == 26
    lines = re.findall(r"(\d+) came = (\d+) kept \+ (\d+) dropped \+ (\d+) failed", text)
    assert len(lines) >= 3
    for line in lines:
        came, *rest = map(int, line)
        assert came == sum(rest)


def test_reasons_thresholds_duplicates_and_captions_are_on_the_page(run, tmp_path):
    text = written(run, tmp_path / "report.html")
    for told in (
        "blurred",
        "only just",
        "Near-duplicates",
        "the same drawing again",
        "Clusters",
        "Languages",
    ):
        assert told in text, told
    assert 'class="limit"' in text
    assert text.count("<img") > 30
    assert "26 rows, median" not in text, "what could not be read has no size"


def test_links_of_the_page_lead_somewhere(run, tmp_path):
    text = written(run, tmp_path / "report.html")
    names = re.findall(r"href=#([^>]+)>", text)
    assert {"counts", "probe", "kept", "duplicates", "clusters", "settings"} <= set(names)
    for name in names:
        assert f'id="{name}"' in text, name


def test_the_same_run_gives_the_same_page(run, tmp_path):
    assert written(run, tmp_path / "one.html") == written(run, tmp_path / "two.html")


def test_the_diff_of_two_runs_counts_what_moved_and_why(run, heap, tmp_path):
    out = tmp_path / "other"
    settings = {"cap": "20", "clusters": "3", "probe.min_sharpness": "0.0"}
    other = curate(Recipe.load("broad", settings), heap, out, Here(out))
    counts = write_diff(run, other, tmp_path / "diff.html")
    blurred = run.decisions()[1].counts[1].dropped["blurred"]
    assert counts["in both"] == 26
    assert counts["decided otherwise"] >= blurred > 0
    assert counts["only before"] == counts["only after"] == 0
    text = (tmp_path / "diff.html").read_text()
    assert "probe: blurred" in text
    assert "probe.min_sharpness" in text
    assert write_diff(run, run, tmp_path / "same.html")["decided otherwise"] == 0


def test_a_histogram_counts_every_number_and_shows_limits_that_lie_outside(tmp_path):
    values = np.array([0.1, 0.2, 0.3, np.nan, 1e6])
    kept = np.array([False, True, True, True, True])
    drawn = page.histogram("score", values, kept, [Limit(-3.0, "too low")])
    assert "4 rows" in drawn
    assert "1 without a number" in drawn
    assert "too low -3" in drawn
    assert "no numbers" in page.histogram("score", np.array([np.nan]), np.array([True]))
    assert "rect" in page.histogram("flat", np.ones(5), np.ones(5, bool))
