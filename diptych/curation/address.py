"""Pictures fetched from addresses that strangers wrote down: bounded in bytes and time, from public machines.

A name is resolved once, every address that it has is checked, and the connection goes to a checked address: a
name that answers otherwise a moment later leads nowhere else. The same holds for each redirect.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from diptych.curation.wire import MAX_WAIT, PASSING, Watched, asked_wait, pieces, watched

AGENT = "diptych"
MAX_URL = 8192
"""Characters of an address that is asked."""
UNWANTED = ("noai", "noimageai", "noindex", "noimageindex")
"""Words of X-Robots-Tag by which a server asks that its pictures are not collected."""
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
"""IPv6 addresses that a translator turns into the IPv4 address at their end."""

Resolve = Callable[..., list[Any]]


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    max_bytes: int = 2**25
    seconds: float = 10.0
    """To connect, and between two pieces of an answer."""
    whole_seconds: float = 60.0
    """For one attempt from its first to its last byte."""
    retries: int = 2
    """Further attempts where the failure may pass."""
    redirects: int = 4
    networks: tuple[str, ...] = ()
    """Networks that may be asked besides public ones, such as "10.1.0.0/16"."""

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.seconds, self.whole_seconds) <= 0:
            raise ValueError(
                f"max_bytes and seconds must be above 0, got {self.max_bytes}, {self.seconds}, "
                f"{self.whole_seconds}"
            )
        if min(self.retries, self.redirects) < 0:
            raise ValueError(f"retries and redirects must be 0 or more, got {self.retries}, {self.redirects}")
        for network in self.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"networks: {network!r} is no network such as '10.1.0.0/16'") from error


class AddressError(ValueError):
    """Why an address gave no picture. `passing`: whether asking again may help; `wait`: seconds before."""

    def __init__(self, reason: str, *, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.passing, self.wait = passing, wait


def fetch(
    url: str,
    limits: FetchLimits = FetchLimits(),
    resolve: Resolve = socket.getaddrinfo,
    sleep: Callable[[float], None] = time.sleep,
) -> bytes:
    """Bytes behind an address. Raises AddressError with the reason, short and the same for all of its
    kind."""
    for attempt in range(limits.retries + 1):
        try:
            return _followed(url, limits, resolve)
        except AddressError as error:
            if not error.passing or attempt == limits.retries:
                raise
            # doubled each time, so that a server that is overrun is left alone
            sleep(min(MAX_WAIT, max(error.wait, 0.5 * 2**attempt)))
    raise AssertionError("the last attempt returns or raises")


def _followed(url: str, limits: FetchLimits, resolve: Resolve) -> bytes:
    for _ in range(limits.redirects + 1):
        answer = _asked(url, limits, resolve)
        if isinstance(answer, bytes):
            return answer
        url = urllib.parse.urljoin(url, answer)
    raise AddressError(f"more than {limits.redirects} redirects")


def _asked(url: str, limits: FetchLimits, resolve: Resolve) -> bytes | str:
    """What one address answers: its bytes, or the address that it redirects to."""
    target = _parted(url)
    address, port = public_address(target.host, target.port, limits.networks, resolve)
    connection = _Checked(target, address, port, limits.seconds)
    headers = {"Host": target.named, "User-Agent": AGENT, "Accept": "image/*", "Accept-Encoding": "identity"}
    try:
        with watched(connection, limits.whole_seconds):
            connection.request("GET", target.path, headers=headers)
            response = connection.getresponse()
            place = response.headers.get("Location")
            if response.status in (301, 302, 303, 307, 308) and place:
                return place
            body = _body(response, limits)
    except AddressError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise AddressError("its certificate is not valid") from error
    # http.client meets answers that are none with errors of many kinds
    except (OSError, http.client.HTTPException, ValueError) as error:
        if connection.was_cut or isinstance(error, TimeoutError):
            raise AddressError("timed out", passing=True) from error
        kind = "connection refused" if isinstance(error, ConnectionRefusedError) else "the connection broke"
        raise AddressError(kind, passing=True) from error
    # an answer that tells no length ends where it is cut
    if connection.was_cut:
        raise AddressError("timed out", passing=True)
    return body


def _body(response: http.client.HTTPResponse, limits: FetchLimits) -> bytes:
    if response.status != 200:
        passing = response.status in PASSING
        raise AddressError(f"HTTP {response.status}", passing=passing, wait=asked_wait(response))
    said = ",".join(response.headers.get_all("X-Robots-Tag") or ()).lower()
    if any(word.strip() in UNWANTED for word in said.replace(":", ",").split(",")):
        raise AddressError("its server asks that it is not collected (X-Robots-Tag)")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise AddressError("sent packed, although asked for plain")
    body = pieces(response, limits.max_bytes)
    if body is None:
        raise AddressError(f"more than {limits.max_bytes:,} bytes")
    if not body:
        raise AddressError("nothing was sent")
    return body


@dataclass(frozen=True)
class _Target:
    secure: bool
    host: str
    port: int
    path: str
    named: str
    """Host as the request names it, with its port where it is no usual one."""


def _parted(url: str) -> _Target:
    if len(url) > MAX_URL:
        raise AddressError(f"an address of more than {MAX_URL:,} characters")
    try:
        parts = urllib.parse.urlsplit(url.strip())
        port, host = parts.port, parts.hostname
        if host is not None and ":" not in host:
            host = host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise AddressError("no address") from error
    if parts.scheme not in ("http", "https"):
        raise AddressError("not http or https")
    if not host:
        raise AddressError("no address")
    if parts.username is not None or parts.password is not None:
        raise AddressError("a name or password in the address")
    secure = parts.scheme == "https"
    usual = 443 if secure else 80
    path = urllib.parse.quote(parts.path or "/", safe="/%:=&~+!$,;'@()*")
    query = urllib.parse.quote(parts.query, safe="/%:=&~+!$,;'@()*?[]")
    bare = f"[{host}]" if ":" in host else host
    named = bare if port in (None, usual) else f"{bare}:{port}"
    return _Target(
        secure, host, usual if port is None else port, path + (f"?{query}" if query else ""), named
    )


def public_address(
    host: str, port: int, networks: Sequence[str] = (), resolve: Resolve = socket.getaddrinfo
) -> tuple[str, int]:
    """The address that a connection to `host` goes to. Raises AddressError where the name is unknown, and
    where any of its addresses is private, local, or of no single machine."""
    try:
        found = resolve(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        unknown = getattr(error, "errno", None) == socket.EAI_NONAME
        raise AddressError("no such host", passing=not unknown) from error
    if not found:
        raise AddressError("no such host")
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        # any, not only the one that would be asked: a name that mixes both is made to lead inside
        if kind := refused(address, networks):
            raise AddressError(f"refused: {kind}")
    return addresses[0], port


def refused(address: str, networks: Sequence[str] = ()) -> str:
    """Why no connection is made to an address, or ''."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no address"
    if any(ip.version == network.version and ip in network for network in _networks(tuple(networks))):
        return ""
    if isinstance(ip, ipaddress.IPv6Address) and (inner := _inner(ip)) is not None:
        return refused(str(inner), networks)
    for kind, holds in (
        ("a local address", ip.is_loopback or ip.is_unspecified),
        ("a link-local address", ip.is_link_local),
        ("an address of many machines", ip.is_multicast),
        ("a private address", not ip.is_global or ip.is_reserved),
    ):
        if holds:
            return kind
    return ""


def _inner(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if any(ip in network for network in _TRANSLATED):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


@lru_cache
def _networks(names: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(name) for name in names)


class _Checked(Watched):
    """A connection to an address that was checked, whatever its host's name answers by now."""

    def __init__(self, target: _Target, address: str, port: int, seconds: float) -> None:
        super().__init__(target.host, port, timeout=seconds)
        self.target, self.address = target, address

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), self.timeout)
        if self.target.secure:
            # the certificate is held against the name, the connection against the address
            self.sock = _context().wrap_socket(self.sock, server_hostname=self.target.host)


@lru_cache
def _context() -> ssl.SSLContext:
    # made once: reading the system's certificates takes longer than a picture
    return ssl.create_default_context()
