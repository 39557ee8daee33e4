"""Asking servers: one attempt is bounded in time and bytes, a failure says whether asking again may help."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from diptych.curation.stage import StopRun
from diptych.files.typed import parse

T = TypeVar("T")
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Answers after which asking again may help."""
MAX_WAIT = 60.0
"""Seconds that a server may ask to be waited for."""
MAX_ANSWER = 2**28
"""Bytes of an answer that are read."""
PATIENCE = 16
"""Failures one after the other after which a server counts as down."""


class Watched(http.client.HTTPConnection):
    """A connection that ends at a time of its own: a server that sends a byte now and then never runs into
    the time between two pieces."""

    was_cut = False

    def cut(self) -> None:
        self.was_cut = True
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return


@contextmanager
def watched(connection: Watched, seconds: float) -> Iterator[None]:
    """Cut a connection after so many seconds, and close it when the block ends."""
    watch = threading.Timer(seconds, connection.cut)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        connection.close()


def pieces(response: http.client.HTTPResponse, most: int) -> bytes | None:
    """The whole body of an answer; None where it is longer than `most` bytes."""
    if response.length is not None and response.length > most:
        return None
    whole = bytearray()
    while piece := response.read(2**16):
        whole += piece
        if len(whole) > most:
            return None
    # read in pieces, http.client says nothing of an answer that ends before its length
    if response.length:
        raise http.client.IncompleteRead(bytes(whole), response.length)
    return bytes(whole)


def asked_wait(response: http.client.HTTPResponse) -> float:
    """Seconds of Retry-After; dates in it are not read, as the server's clock may be another."""
    said = response.headers.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0.0


class NoAnswer(Exception):
    """One question got no answer; `again`: another time it may, `soon`: even at once, `down`: nothing listens
    there."""

    def __init__(
        self, reason: str, *, again: bool, soon: bool | None = None, wait: float = 0.0, down: bool = False
    ) -> None:
        super().__init__(reason)
        self.again, self.soon = again, again if soon is None else soon
        self.wait, self.down = wait, down


class Server:
    """A server of the user's with an OpenAI-compatible address, asked from any number of threads.

    Raises StopRun where it will answer nobody: nothing listens, the key or the path is refused, or PATIENCE
    questions one after the other failed.
    """

    def __init__(
        self,
        url: str,
        key_variable: str = "",
        seconds: float = 60.0,
        retries: int = 3,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url, self.seconds, self.retries, self.sleep = url.rstrip("/"), seconds, retries, sleep
        self.parts = checked_url(url)
        self.key = key_of(key_variable)
        self._failed = 0
        self._lock = threading.Lock()

    def ask(self, path: str, question: dict[str, Any], read: Callable[[Any], T]) -> T:
        """What `read` makes of the plain values of the answer. Raises NoAnswer for this question alone, also
        where `read` raises ValueError: an answer of the right form that says nothing."""
        for attempt in range(self.retries + 1):
            try:
                answer = self._read(self._once(path, question), read)
                with self._lock:
                    self._failed = 0
                return answer
            except NoAnswer as error:
                if not error.soon or attempt == self.retries:
                    self._count(error)
                    raise
                # doubled each time, so that a server that is overrun is left alone
                self.sleep(min(MAX_WAIT, max(error.wait, 0.5 * 2**attempt)))
        raise AssertionError("the last attempt returns or raises")

    @staticmethod
    def _read(answer: Any, read: Callable[[Any], T]) -> T:
        try:
            return read(answer)
        except (KeyError, IndexError, TypeError) as error:
            raise NoAnswer("nonsense: an answer of another form", again=True, soon=False) from error
        except ValueError as error:
            # a model that is asked the same says the same, and is paid for it
            raise NoAnswer(f"nonsense: {error}", again=True, soon=False) from error

    def _count(self, error: NoAnswer) -> None:
        if error.down:
            raise StopRun(
                f"{self.url}: the server is down ({error}); what is done is kept, start again later"
            )
        with self._lock:
            # a question that is refused for what it holds says nothing of the server
            self._failed += error.again
            many = self._failed >= PATIENCE
        if many:
            raise StopRun(
                f"{self.url}: {PATIENCE} questions one after the other failed (last: {error}); what is "
                "done is kept, start again when it answers"
            )

    def _once(self, path: str, question: dict[str, Any]) -> Any:
        where = self.parts
        kind = _Secure if where.scheme == "https" else Watched
        connection = kind(where.hostname or "", where.port, timeout=self.seconds)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            with watched(connection, self.seconds):
                target = f"{where.path.rstrip('/')}/{path}"
                connection.request("POST", target, json.dumps(question).encode(), headers)
                response = connection.getresponse()
                status, wait = response.status, asked_wait(response)
                body = pieces(response, MAX_ANSWER)
        except ssl.SSLCertVerificationError as error:
            raise StopRun(f"{self.url}: its certificate is not valid ({error.verify_message})") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if connection.was_cut or isinstance(error, TimeoutError):
                raise NoAnswer(f"no answer within {self.seconds:g} s", again=True) from error
            # refused, no such host, no route: nobody was reached at all
            down = isinstance(error, OSError) and not isinstance(
                error, ConnectionResetError | BrokenPipeError
            )
            raise NoAnswer(f"{type(error).__name__}: {error}", again=True, down=down) from error
        if status in (401, 403, 404):
            hint = {404: "no such address: it should end before /chat/completions, most often in /v1"}
            said = hint.get(status, "the key is refused")
            raise StopRun(f"{self.url}: HTTP {status} ({said})")
        if status != 200 or body is None:
            what = f"HTTP {status}" if body is not None else f"an answer of more than {MAX_ANSWER:,} bytes"
            raise NoAnswer(what, again=status in PASSING, wait=wait)
        try:
            return parse(body, "answer")
        except ValueError as error:
            raise NoAnswer("nonsense: not JSON", again=True, soon=False) from error


class _Secure(Watched, http.client.HTTPSConnection):
    """The same over TLS."""


def checked_url(url: str) -> urllib.parse.SplitResult:
    """Raises ValueError for what is no address of a server."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{url!r} is no address of a server, such as http://localhost:8000/v1")
    if parts.username or parts.password:
        raise ValueError("a key belongs into an environment variable, not into an address")
    return parts


def key_of(variable: str) -> str:
    """The key that an environment variable holds; '' where none is named. Raises ValueError where it is not
    set: a server would refuse every row."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"the environment variable {variable} is not set, and the server's key is to be in it"
        )
    return key
