"""Pictures from addresses: what is asked, what is refused, and what a failure is called."""

from __future__ import annotations

import http.server
import io
import json
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diptych.curation.address import AddressError, FetchLimits, fetch, public_address, refused
from diptych.curation.engine import curate
from diptych.curation.fetched import AddressSource
from diptych.curation.pool import Here
from diptych.curation.probe import Probe
from diptych.curation.recipes import Recipe

HOME = ("127.0.0.0/8", "::1/128")
QUICK = FetchLimits(networks=HOME, seconds=0.5, whole_seconds=1.0, retries=1, max_bytes=20_000)


def picture(seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Answers by path, and counts."""

    daemon_threads = True
    asked: dict[str, int]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        return

    def do_GET(self):
        name = self.path.strip("/")
        count = self.server.asked[name] = self.server.asked.get(name, 0) + 1
        kind, _, value = name.partition("-")
        try:
            getattr(self, f"on_{kind}")(value, count)
        except OSError:
            # whoever asked has gone
            return

    def answer(self, body=b"", status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, text in headers.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def on_good(self, value, count):
        self.answer(picture(int(value or 0)))

    def on_status(self, value, count):
        self.answer(b"sorry", int(value))

    def on_second(self, value, count):
        self.answer(picture(), 503 if count == 1 else 200)

    def on_large(self, value, count):
        self.answer(bytes(30_000))

    def on_endless(self, value, count):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(4096))

    def on_slow(self, value, count):
        time.sleep(2)

    def on_drip(self, value, count):
        self.send_response(200)
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def on_short(self, value, count):
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b"x" * 100)

    def on_loop(self, value, count):
        self.answer(status=302, Location="/loop")

    def on_to(self, value, count):
        places = {"good": "/good", "file": "file:///etc/passwd", "inside": "http://169.254.169.254/keys"}
        self.answer(status=301, Location=places[value])

    def on_unwanted(self, value, count):
        self.answer(picture(), X_Robots_Tag="otherbot: all, noai")

    def on_packed(self, value, count):
        self.answer(picture(), Content_Encoding="gzip")

    def on_empty(self, value, count):
        self.answer(b"")

    def on_nonsense(self, value, count):
        self.wfile.write(b"\x00\x01 what?\r\n\r\n")


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), _Handler)
    made.asked = {}
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def url(server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "a local address"),
        ("::1", "a local address"),
        ("0.0.0.0", "a local address"),
        ("10.2.3.4", "a private address"),
        ("192.168.0.1", "a private address"),
        ("100.64.0.1", "a private address"),
        ("fd00::1", "a private address"),
        ("169.254.169.254", "a link-local address"),
        ("fe80::1%eth0", "a link-local address"),
        ("224.0.0.1", "an address of many machines"),
        ("255.255.255.255", "a private address"),
        ("::ffff:127.0.0.1", "a local address"),
        ("64:ff9b::7f00:1", "a local address"),
        ("2002:7f00:1::", "a local address"),
        ("what", "no address"),
        ("93.184.216.34", ""),
        ("2606:2800:220:1:248:1893:25c8:1946", ""),
    ],
)
def test_only_public_addresses_are_asked(address, kind):
    assert refused(address) == kind


def test_a_network_of_ones_own_is_asked_only_where_it_is_named():
    assert refused("10.1.2.3", ("10.1.0.0/16",)) == ""
    assert refused("10.2.2.3", ("10.1.0.0/16",)) == "a private address"
    with pytest.raises(ValueError, match="'home' is no network"):
        FetchLimits(networks=("home",))


def answers(*addresses: str):
    return lambda host, port, type: [(0, type, 0, "", (address, port)) for address in addresses]


def test_a_name_that_leads_inside_is_refused_whichever_of_its_addresses_would_be_asked():
    with pytest.raises(AddressError, match="refused: a private address"):
        public_address("pictures.example", 80, resolve=answers("93.184.216.34", "10.0.0.1"))
    assert public_address("pictures.example", 80, resolve=answers("93.184.216.34")) == ("93.184.216.34", 80)


def test_the_connection_goes_to_the_address_that_was_checked(server):
    """A name that answers otherwise a moment later leads nowhere else: it is resolved once."""
    asked = []

    def resolve(host, port, type):
        asked.append(host)
        return answers("127.0.0.1")(host, port, type)

    assert fetch(f"http://pictures.example:{server.server_port}/good", QUICK, resolve) == picture()
    assert asked == ["pictures.example"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_ways_to_write_this_machine_are_refused_without_a_connection(server, host):
    with pytest.raises(AddressError, match=r"refused: a local address|no such host"):
        fetch(f"http://{host}:{server.server_port}/good", FetchLimits(retries=0))
    assert not server.asked


@pytest.mark.parametrize(
    ("path", "reason", "times"),
    [
        ("status-404", "HTTP 404", 1),
        ("status-500", "HTTP 500", 2),
        ("large", "more than 20,000 bytes", 1),
        ("endless", "more than 20,000 bytes", 1),
        ("slow", "timed out", 2),
        ("drip", "timed out", 2),
        ("short", "the connection broke", 2),
        ("loop", "more than 4 redirects", 5),
        ("to-file", "not http or https", 1),
        ("to-inside", "refused: a link-local address", 1),
        ("unwanted", "its server asks that it is not collected", 1),
        ("packed", "sent packed", 1),
        ("empty", "nothing was sent", 1),
        ("nonsense", "the connection broke", 2),
    ],
)
def test_each_failure_has_its_name_and_is_asked_again_only_where_that_may_help(server, path, reason, times):
    with pytest.raises(AddressError, match=f"^{reason}"):
        fetch(url(server, path), QUICK, sleep=lambda seconds: None)
    assert server.asked[path] == times


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ftp://example.org/cat.png", "not http or https"),
        ("file:///etc/passwd", "not http or https"),
        ("http://", "no address"),
        ("http://[::1", "no address"),
        ("http://example.org:99999/", "no address"),
        ("http://name:secret@example.org/", "a name or password in the address"),
        ("http://example.org/" + "a" * 9000, "an address of more than 8,192 characters"),
        ("", "not http or https"),
        ("cat.png", "not http or https"),
    ],
)
def test_what_is_no_address_is_told_without_asking_anybody(address, reason):
    def resolve(*_, **__):
        raise AssertionError("somebody was asked")

    with pytest.raises(AddressError, match=f"^{reason}"):
        fetch(address, FetchLimits(), resolve)


def test_a_name_that_nobody_knows_is_no_such_host():
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    with pytest.raises(AddressError, match="no such host") as error:
        fetch("http://nowhere.example/", FetchLimits(), unknown)
    assert not error.value.passing


def test_a_server_that_is_busy_is_waited_for(server):
    waited = []
    assert fetch(url(server, "second"), QUICK, sleep=waited.append) == picture()
    assert waited == [0.5]
    assert fetch(url(server, "to-good"), QUICK) == picture()


def rows(server) -> list[dict]:
    good = [{"url": url(server, f"good-{n}"), "caption": f"picture {n}"} for n in range(5)]
    bad = [{"url": url(server, "status-404"), "caption": "gone"}, {"url": "ftp://a/b", "caption": "old"}]
    return [*good, *bad, {"url": url(server, "second"), "caption": "late"}, {"caption": "no address"}]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_list_of_addresses_becomes_rows_each_with_its_outcome(server, kind, tmp_path):
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows(server)), path, row_group_size=4)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(server)))
    limits = FetchLimits(networks=HOME, retries=0)
    source = AddressSource(path, limits)
    recipe = Recipe("test", {}, [Probe(min_side=1, min_sharpness=None)])
    run = curate(recipe, path, tmp_path / "out", Here(), opened=source)
    problems = run.view().strings("problem").tolist()
    assert [problem.partition(" (")[0] for problem in problems] == [
        *[""] * 5,
        "HTTP 404",
        "not http or https",
        "HTTP 503",
        "no address: one of url, URL, image_url is needed",
    ]
    before = dict(server.asked)
    again = curate(recipe, path, tmp_path / "out", Here(), opened=AddressSource(path, limits))
    asked = {name: count - before[name] for name, count in server.asked.items()}
    assert asked == {**dict.fromkeys(before, 0), "second": 1}, (
        "only what may have come back is asked for again"
    )
    assert again.decisions()[1].counts[-1].kept == 6


def test_a_list_without_addresses_and_one_that_is_none_are_refused(tmp_path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"link": ["http://a/"]}), path)
    with pytest.raises(ValueError, match="no column of addresses: one of url, URL, image_url"):
        AddressSource(path).units()
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="no whole Parquet file"):
        AddressSource(path).units()


def test_a_kill_while_pictures_are_fetched_leaves_nothing_that_counts_as_fetched(
    server, tmp_path, monkeypatch
):
    from diptych.curation import fetched

    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(server)))
    unit = AddressSource(path, FetchLimits(networks=HOME, retries=0)).units()[0]
    store = tmp_path / "store"

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetched, "_add", killed)
    with pytest.raises(KeyboardInterrupt):
        list(unit.read(store))
    assert not list(store.iterdir())
    monkeypatch.undo()
    assert sum(not place.problem for place in unit.read(store)) == 6
    assert [p.suffix for p in Path(store).iterdir()] == [".tar"]
