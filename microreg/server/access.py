"""Who may do what: tokens, hosts and origins, request rates, and the headers that every answer has."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from microreg.server.page import PATHS
from microreg.server.problems import Problem, problem
from microreg.server.settings import Settings

__all__ = ["OPEN", "SECURITY", "Access", "note", "origin_of"]

log = logging.getLogger("microreg.server.access")

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no token: they say nothing of what is registered."""

SECURITY = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
"""Headers that every answer has."""
_SEEN = frozenset({b"authorization", b"host", b"origin", b"sec-fetch-site"})
_HOSTS = 1_000
_BUCKETS = 10_000
"""So many origins are counted; then the one that has been silent for longest is forgotten."""
_LONGEST_TOKEN = 4096


class Access:
    """Stands before an application. What is refused never reaches it, and what it raises becomes a problem document.

    - With tokens, every request needs one (``Authorization: Bearer …``), but for the paths in ``OPEN``. Methods that
      write need one for writing, except for a POST to one of ``reading``.
    - Without, nobody can be told from another, so web pages are kept out: a request must call the server by an IP
      address, ``localhost`` or one of ``hosts``, or else a page could point a name of its own at it (DNS rebinding).
    - A request that a browser makes for a page of another origin is refused in any case. There is no CORS.
    """

    def __init__(self, app: ASGIApp, settings: Settings, reading: frozenset[str]) -> None:
        self.answered: Counter[int] = Counter()
        """How many requests were answered, by status code."""
        self.changed: Callable[[], None] = lambda: None
        """Called when what was let through before may be refused from now on."""
        self.logs = settings.access_log
        """Whether each request is noted in the log."""
        self._app = app
        self._settings = settings
        self._reading = reading
        self._hosts = frozenset({"localhost", *(host.lower().rstrip(".") for host in settings.hosts)})
        self._good_hosts = set[bytes]()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # the latest at the end
        self.trust(settings.tokens, settings.read_tokens)

    def trust(self, tokens: Iterable[str], read_tokens: Iterable[str]) -> None:
        """Know these tokens from now on, and no others."""
        self._writers = [_digest(token.encode()) for token in tokens]
        self._readers = [_digest(token.encode()) for token in read_tokens]
        self.changed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outer = _logged(scope, send) if self.logs else send
        begun = False

        async def send_secured(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.answered[message["status"]] += 1
                given = message.get("headers", ())
                own = {name for name, _ in given}  # a route's own policy stands
                message["headers"] = [*given, *(field for field in SECURITY if field[0] not in own)]
            await outer(message)

        try:
            if scope["path"] not in PATHS:  # the page's files are the same for everybody
                self.check_rate(_address(scope))
                self.check(scope["method"], scope["path"], scope["headers"])
            await self._app(scope, receive, send_secured)
        except Exception as error:
            found = problem(error)
            if not begun:  # or else the server ends the connection, since the answer is not complete
                await found.send(send_secured)

    def admits(self, scope: Scope) -> bool:
        """Whether this request would be let through now: the server may not know its token any more."""
        try:
            self.check(scope["method"], scope["path"], scope["headers"])
        except Problem:
            return False
        return True

    def writes(self, method: str, path: str) -> bool:
        """Whether such a request changes something. ``check`` asks no more of method and path, but for ``OPEN``."""
        return method not in ("GET", "HEAD") and path not in self._reading

    def check(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise Problem for what is to be refused. For equal arguments it says the same, until ``changed``."""
        given = {key: value for key, value in headers if key in _SEEN}
        _check_origin(given)
        if path in OPEN:
            return
        if self._writers:
            self._check_token(self.writes(method, path), given.get(b"authorization", b""))
        else:
            self._check_host(given.get(b"host", b""))

    def _check_token(self, writing: bool, given: bytes) -> None:
        kind, _, token = given.partition(b" ")
        if kind.lower() != b"bearer" or not token or len(token) > _LONGEST_TOKEN:
            raise _unauthorized("this server wants a token: Authorization: Bearer …")
        digest = _digest(token.strip())
        # Every token is compared, also after a match: the time tells nothing.
        writes = sum([compare_digest(digest, known) for known in self._writers])
        reads = sum([compare_digest(digest, known) for known in self._readers])
        if not writes and not reads:
            raise _unauthorized("this server does not know the token")
        if writing and not writes:
            raise Problem(403, "permission_denied", "this token is for reading only")

    def _check_host(self, host: bytes) -> None:
        if host in self._good_hosts:
            return
        name = _host_name(host.decode("latin-1"))
        if name in self._hosts or name.endswith(".localhost") or _is_address(name):
            if len(self._good_hosts) < _HOSTS:
                self._good_hosts.add(host)
        else:
            raise Problem(
                421,
                "misdirected_request",
                f"this server is not known as {name[:80]!r}; without tokens it answers to IP addresses, localhost, "
                "and names that it was started with: --allow-host",
            )

    def check_rate(self, address: str) -> None:
        """Count one request from an address. Raises Problem for one too many.

        There is a bucket for each origin (:func:`origin_of`), which fills with ``rate`` and holds what comes in two
        seconds. One that is full again is forgotten.
        """
        rate = self._settings.rate
        if not rate:
            return
        now = time.monotonic()
        full = max(1.0, 2 * rate)
        buckets, origin = self._buckets, origin_of(address)
        left, since = buckets.get(origin, (full, now))
        left = min(full, left + (now - since) * rate)
        buckets[origin] = max(0.0, left - 1.0), now
        buckets.move_to_end(origin)
        _, since = buckets[next(iter(buckets))]
        if len(buckets) > _BUCKETS or (now - since) * rate >= full:
            buckets.popitem(last=False)
        if left < 1.0:
            wait = math.ceil((1.0 - left) / rate)
            detail = f"more than {rate:g} requests a second from your address"
            raise Problem(429, "too_many_requests", detail, headers={b"retry-after": b"%d" % wait})


def _check_origin(headers: dict[bytes, bytes]) -> None:
    """Refuse what a browser sends for a page of another origin; other programs send neither of these headers."""
    origin, host = headers.get(b"origin"), headers.get(b"host", b"")
    foreign = origin is not None and origin.partition(b"://")[2].lower() != host.lower()
    if foreign or headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        raise Problem(403, "foreign_origin", "a web page of another origin may neither read nor write here")


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "permission_denied", detail, headers={b"www-authenticate": b"Bearer"})


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()


def _host_name(host: str) -> str:
    """The host of a Host header, without its port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _logged(scope: Scope, send: Send) -> Send:
    """Notes the request when its answer is complete."""
    began = time.monotonic()
    status = size = 0

    async def sending(message: Any) -> None:
        nonlocal status, size
        await send(message)
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                note(_address(scope), scope["method"], scope["path"], status, size, time.monotonic() - began)

    return sending


def note(client: str, method: str, path: str, status: int, size: int, seconds: float) -> None:
    """Write one line for a request that was answered with so many bytes."""
    fields: dict[str, object] = {"client": client, "method": method, "path": path, "status": status, "bytes": size}
    fields["ms"] = round(seconds * 1e3, 3)
    text = "%(client)s %(method)s %(path)s %(status)d %(bytes)d bytes %(ms)g ms"
    log.info(text, fields, extra={"request": fields})


@lru_cache(maxsize=1024)
def origin_of(address: str) -> str:
    """What is counted as one client: an IPv4 address, or the /64 of an IPv6 address, in which anybody has all others.

    What is no IP address is counted as it is.
    """
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else str(ipaddress.IPv6Address(int(ip) >> 64 << 64))


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""
