"""Captions by models and servers: what is asked, what is kept, and servers that are down, slow or mad."""

from __future__ import annotations

import base64
import http.server
import io
import json
import threading
import time
from pathlib import Path

import judges
import numpy as np
import pytest
from PIL import Image

from diptych.curation import wire
from diptych.curation.caption import Answers, Caption, Ledger, Said, caption_of
from diptych.curation.engine import Run, curate
from diptych.curation.pool import Here, ProcessPool
from diptych.curation.probe import Probe
from diptych.curation.recipes import Recipe
from diptych.curation.wire import NoAnswer, Server

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


class Teller(http.server.ThreadingHTTPServer):
    """A server with an OpenAI-compatible address that names a picture's colour."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.mood = "well"
        self.failing = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Teller

    def log_message(self, *_):
        return

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(question)
        self.server.headers.append(dict(self.headers))
        status, body = 200, getattr(self, f"is_{self.server.mood}")(question)
        if self.server.failing > 0:
            self.server.failing -= 1
            status, body = 503, b"busy"
        if isinstance(body, int):
            status, body = body, b"no"
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            # whoever asked has gone
            return

    def is_well(self, question):
        shown = question["messages"][0]["content"][1]["image_url"]["url"]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).convert("RGB"))
        mean = pixels.reshape(-1, 3).mean(0)
        colour = min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())
        return said(f"<think>hm</think> a plain {colour}\npicture")

    def is_gone(self, question):
        return 404

    def is_locked(self, question):
        return 401

    def is_picky(self, question):
        return 400

    def is_broken(self, question):
        return 500

    def is_slow(self, question):
        time.sleep(1)
        return said("late")

    def is_html(self, question):
        return b"<html>Welcome</html>"

    def is_other(self, question):
        return json.dumps({"answer": "a cat"}).encode()

    def is_list(self, question):
        return b"[1, 2]"

    def is_empty(self, question):
        return said(" .. ")

    def is_stuck(self, question):
        return said("cat " * 400)


def said(text: str, tokens: int = 10) -> bytes:
    return json.dumps(
        {"choices": [{"message": {"content": text}}], "usage": {"total_tokens": tokens}}
    ).encode()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(wire, "PATIENCE", 4)
    made = Teller()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "heap"
    folder.mkdir()
    for n, colour in enumerate([*COLOURS.values()] * 2):
        pixels = np.full((64, 64 + n, 3), colour, np.uint8)
        pixels[:8, :8] = n * 20
        Image.fromarray(pixels).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(f"given {n}")
    return folder


def stage(server: Teller, **changes) -> Caption:
    return Caption(**{"url": server.url, "served": "seer", "seconds": 5.0, "retries": 1, **changes})


def done(source: Path, out: Path, *stages, executor=None) -> Run:
    recipe = Recipe("test", {}, [Probe(min_side=1, min_sharpness=None, max_solid=None), *stages])
    # captions need a place for what was paid for
    return curate(recipe, source, out, executor or Here(out))


def captions(run: Run, name: str = "caption") -> list[list[str]]:
    column = run.view()._column(f"{name}.captions")
    return column.to_pylist()


def test_each_picture_gets_one_more_caption_with_what_made_it(server, source, tmp_path, monkeypatch):
    monkeypatch.setenv("SEER", "secret")
    run = done(source, tmp_path / "out", stage(server, key="SEER"))
    assert captions(run) == [
        [f"given {n}", f"a plain {colour} picture"] for n, colour in enumerate([*COLOURS] * 2)
    ]
    assert all(told["Authorization"] == "Bearer secret" for told in server.headers)
    view = run.view()
    assert set(view.strings("caption.by")) == {"seer"}
    assert view["caption.words"].tolist() == [4] * 6
    assert view["caption.tokens"].tolist() == [10] * 6
    assert "secret" not in "".join(p.read_text(errors="ignore") for p in (tmp_path / "out").rglob("*.json*"))


def test_several_models_and_prompts_each_leave_their_caption(server, source, tmp_path):
    short = stage(server, name="short", prompt="In three words.")
    long = stage(server, name="long", captions="short.captions", served="other")
    run = done(source, tmp_path / "out", short, long)
    assert [len(found) for found in captions(run, "long")] == [3] * 6
    assert len(set(run.view().strings("short.prompt")) | set(run.view().strings("long.prompt"))) == 2
    assert [len(found) for found in captions(done(source, tmp_path / "o2", stage(server, alone=True)))] == [
        1
    ] * 6


def test_only_rows_that_are_left_are_asked_about_and_none_twice(server, source, tmp_path):
    out = tmp_path / "out"
    narrow = Recipe("test", {}, [Probe(max_aspect=1.04, min_sharpness=None, max_solid=None), stage(server)])
    curate(narrow, source, out, Here(out))
    assert len(server.asked) == 3
    done(source, out, stage(server))
    assert len(server.asked) == 6
    done(source, out, stage(server, retries=3, url=server.url + "/"))
    assert len(server.asked) == 6, "how a server is asked is not what is asked"


def test_an_answer_that_was_paid_for_survives_a_kill(server, source, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Caption, "prompt_hash", property(lambda self: "x"))
        patch.setattr("diptych.curation.work._Running.write", killed)
        with pytest.raises(KeyboardInterrupt):
            done(source, out, stage(server))
    monkeypatch.setattr(Caption, "prompt_hash", property(lambda self: "x"))
    asked = len(server.asked)
    run = done(source, out, stage(server))
    assert (asked, len(server.asked)) in {(0, 6), (6, 6)}
    assert captions(run)[0] == ["given 0", "a plain red picture"]


def test_a_busy_server_is_asked_again(server, source, tmp_path, monkeypatch):
    monkeypatch.setattr(wire.time, "sleep", lambda seconds: None)
    server.failing = 2
    run = done(source, tmp_path / "out", stage(server, retries=3, connections=1))
    assert len(captions(run)) == 6
    assert len(server.asked) == 8


@pytest.mark.parametrize(
    ("mood", "sentence"),
    [
        ("gone", "HTTP 404 .*most often in /v1"),
        ("locked", "HTTP 401 .the key is refused"),
        ("broken", "4 questions one after the other failed .last: HTTP 500"),
        ("slow", "one after the other failed .last: no answer within 0.2 s"),
        ("html", "one after the other failed .last: nonsense: not JSON"),
        ("other", "one after the other failed .last: nonsense: an answer of another form"),
        ("list", "one after the other failed .last: nonsense: an answer of another form"),
        ("empty", "one after the other failed .last: nonsense: an answer without a word"),
        ("stuck", "one after the other failed .last: nonsense: an answer that repeats itself"),
    ],
)
def test_a_server_that_answers_nobody_ends_the_run_with_a_sentence_and_the_next_goes_on(
    server, source, tmp_path, mood, sentence, monkeypatch
):
    server.mood = mood
    with pytest.raises(ValueError, match=sentence):
        done(source, tmp_path / "out", stage(server, seconds=0.2 if mood == "slow" else 5.0, retries=0))
    server.mood = "well"
    assert len(captions(done(source, tmp_path / "out", stage(server)))) == 6


def test_a_server_that_is_down_ends_the_run_at_once(source, tmp_path):
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9: the server is down .*start again later"):
        done(source, tmp_path / "out", Caption(url="http://127.0.0.1:9", served="x", retries=0))


def test_a_question_that_is_refused_is_its_rows_outcome_and_no_other_rows(server, source, tmp_path):
    server.mood = "picky"
    with pytest.raises(ValueError, match=r"6 go at caption \(no caption: HTTP 400\)"):
        done(source, tmp_path / "out", stage(server))


def test_rows_without_an_answer_are_asked_once_more_by_a_later_run(server, source, tmp_path, monkeypatch):
    monkeypatch.setattr(wire.time, "sleep", lambda seconds: None)
    server.failing = 2
    run = done(source, tmp_path / "out", stage(server, retries=0, connections=1))
    assert run.decisions()[1].counts[-1].failed == {"no caption: HTTP 503": 2}
    assert run.decisions()[1].counts[-1].kept == 4
    again = done(source, tmp_path / "out", stage(server, retries=0))
    assert again.decisions()[1].counts[-1].kept == 6
    assert len(server.asked) == 8


def test_a_budget_that_is_spent_stops_and_a_larger_one_goes_on(server, source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"30 tokens are spent, and the budget is 30"):
        done(source, out, stage(server, budget=30, connections=1))
    assert len(server.asked) == 3
    assert len(captions(done(source, out, stage(server, budget=1000)))) == 6
    assert len(server.asked) == 6


def test_workers_of_a_pool_count_their_tokens_together(tmp_path):
    ledger = Ledger(tmp_path / "tokens", 40)
    threads = [
        threading.Thread(target=lambda: [Ledger(tmp_path / "tokens", 40).add(1) for _ in range(20)])
    ] * 1
    threads += [threading.Thread(target=lambda: [Ledger(tmp_path / "tokens", 40).add(1) for _ in range(20)])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.spent() == 40
    with pytest.raises(ValueError, match="40 tokens are spent"):
        ledger.check()


def test_a_pool_asks_like_one_process_does(server, source, tmp_path):
    pool = ProcessPool(2, out=tmp_path / "pool")
    try:
        many = done(source, tmp_path / "pool", stage(server), executor=pool)
    finally:
        pool.close()
    assert captions(many) == captions(done(source, tmp_path / "one", stage(server)))


def test_half_a_line_that_a_kill_left_is_no_answer(tmp_path):
    first = Answers(tmp_path)
    first.add("a", Said("a cat", 3))
    first.path.write_bytes(first.path.read_bytes() + b'{"key": "b", "te')
    again = Answers(tmp_path)
    again.add("c", Said("a dog", 4))
    assert Answers(tmp_path).known == {"a": Said("a cat", 3), "c": Said("a dog", 4)}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "give either folder or url"),
        ({"url": "localhost:8000", "served": "x"}, "'localhost:8000' is no address of a server"),
        ({"url": "http://me:key@host/v1", "served": "x"}, "a key belongs into an environment variable"),
        ({"url": "http://host/v1"}, "--set caption.served=NAME"),
        ({"url": "http://host/v1", "served": "x", "key": "NOT_SET_HERE"}, "variable NOT_SET_HERE is not set"),
        ({"url": "http://host/v1", "served": "x", "prompt": " "}, "a prompt"),
        ({"folder": "nowhere"}, "nowhere is neither a folder"),
    ],
)
def test_settings_that_cannot_be_are_told_before_anything_is_done(settings, sentence, source, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        done(source, tmp_path / "out", Caption(**settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ('"A cat."', "A cat."),
        ("<think>what\nis it?</think>\nA  cat\n on a mat", "A cat on a mat"),
        ("“eine Katze”", "eine Katze"),
        ("猫", "猫"),
    ],
)
def test_an_answer_becomes_a_caption_on_one_line(text, caption):
    assert caption_of(text) == caption


@pytest.mark.parametrize(
    "text", [None, 3, "", "...", "<think>only", "a\x00b", "x" * 200_000, "no " * 50, "a\ufffd"]
)
def test_nonsense_is_no_caption(text):
    if text == "<think>only":
        assert caption_of(text) == text
        return
    with pytest.raises(ValueError, match="answer"):
        caption_of(text)


def test_an_answer_that_is_too_long_is_not_read(server, monkeypatch):
    monkeypatch.setattr(wire, "MAX_ANSWER", 10)
    with pytest.raises(NoAnswer, match="an answer of more than 10 bytes"):
        Server(server.url, retries=0).ask("chat/completions", {"messages": [{"content": ["", shown()]}]}, str)


def shown() -> dict:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return {"image_url": {"url": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}}


def test_a_folder_of_transformers_captions_the_same_in_any_order(source, tmp_path):
    folder = judges.vlm(tmp_path / "vlm")
    told = Caption(folder=str(folder), max_tokens=6, side=64, temperature=1.0)
    from diptych.curation.stage import Shared

    teller = told.load(Shared(tmp_path / "one"))
    pictures = [(f"{n:064x}", np.full((40, 40, 3), n * 60, np.uint8)) for n in range(1, 4)]
    there = teller.tell(pictures)
    back = told.load(Shared(tmp_path / "two")).tell(pictures[::-1])[::-1]
    assert [str(one) for one in there] == [str(one) for one in back]
    assert teller.tell(pictures)[0] == there[0] or isinstance(there[0], NoAnswer)


def test_the_judged_recipe_holds_new_captions_against_pictures_also_after_a_threshold_moved(
    server, source, tmp_path
):
    encoder, out = str(judges.clip(tmp_path / "clip")), tmp_path / "out"
    dials = {"encoder": encoder, "url": server.url, "served": "seer", "clusters": "1"}
    loose = {"probe.max_solid": "1.0", "probe.min_sharpness": "0.0", "duplicates.min": "1.0"}
    narrow = Recipe.load("judged", {**dials, **loose, "probe.max_aspect": "1.04"})
    curate(narrow, source, out, Here(out))
    assert len(server.asked) == 3
    run = curate(Recipe.load("judged", {**dials, **loose}), source, out, Here(out))
    assert len(server.asked) == 6
    offsets, _ = run.view().lists("realigned.scores")
    assert np.diff(offsets).tolist() == [2] * 6
    written = [path for path in (out / "data").rglob("*") if path.is_file()]
    assert any("plain" in path.read_text(errors="ignore") for path in written)
