"""Who may do what: tokens, hosts and origins, request rates, and the headers that every answer has."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from microreg.server.problems import Problem, problem
from microreg.server.settings import Settings

__all__ = ["OPEN", "Access"]

log = logging.getLogger("microreg.server.access")

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no token: they say nothing of what is registered."""

_SECURITY = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_SEEN = frozenset({b"authorization", b"host", b"origin", b"sec-fetch-site"})
_ADDRESSES = 1_000
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
        self._app = app
        self._settings = settings
        self._reading = reading
        self._writers = [_digest(token.encode()) for token in settings.tokens]
        self._readers = [_digest(token.encode()) for token in settings.read_tokens]
        self._hosts = frozenset({"localhost", *(host.lower().rstrip(".") for host in settings.hosts)})
        self._good_hosts = set[bytes]()
        self._buckets: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outer = _logged(scope, send) if self._settings.access_log else send
        begun = False

        async def send_secured(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", ()), *_SECURITY]
            await outer(message)

        try:
            self._check(scope)
            await self._app(scope, receive, send_secured)
        except Exception as error:
            found = problem(error)
            if not begun:  # or else the server ends the connection, since the answer is not complete
                await found.send(send_secured)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = {key: value for key, value in scope["headers"] if key in _SEEN}
        self._check_rate(scope)
        _check_origin(headers)
        if scope["path"] in OPEN:
            return
        if self._writers:
            self._check_token(scope, headers.get(b"authorization", b""))
        else:
            self._check_host(headers.get(b"host", b""))

    def _check_token(self, scope: Scope, given: bytes) -> None:
        kind, _, token = given.partition(b" ")
        if kind.lower() != b"bearer" or not token or len(token) > _LONGEST_TOKEN:
            raise _unauthorized("this server wants a token: Authorization: Bearer …")
        digest = _digest(token.strip())
        # Every token is compared, also after a match: the time tells nothing.
        writes = sum([compare_digest(digest, known) for known in self._writers])
        reads = sum([compare_digest(digest, known) for known in self._readers])
        if not writes and not reads:
            raise _unauthorized("this server does not know the token")
        writing = scope["method"] not in ("GET", "HEAD") and scope["path"] not in self._reading
        if writing and not writes:
            raise Problem(403, "permission_denied", "this token is for reading only")

    def _check_host(self, host: bytes) -> None:
        if host in self._good_hosts:
            return
        name = _host_name(host.decode("latin-1"))
        if name in self._hosts or name.endswith(".localhost") or _is_address(name):
            if len(self._good_hosts) < _ADDRESSES:
                self._good_hosts.add(host)
        else:
            raise Problem(
                421,
                "misdirected_request",
                f"this server is not known as {name[:80]!r}; without tokens it answers to IP addresses, localhost, "
                "and names that it was started with: --allow-host",
            )

    def _check_rate(self, scope: Scope) -> None:
        """A bucket for each address, which fills with ``rate`` and holds what comes in two seconds."""
        rate = self._settings.rate
        if not rate:
            return
        address = scope["client"][0] if scope.get("client") else ""
        now = time.monotonic()
        full = max(1.0, 2 * rate)
        left, since = self._buckets.get(address, (full, now))
        left = min(full, left + (now - since) * rate)
        if len(self._buckets) >= _ADDRESSES and address not in self._buckets:
            self._buckets.clear()
        self._buckets[address] = max(0.0, left - 1.0), now
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
    """Notes one line for the request when its answer is complete."""
    began = time.monotonic()
    noted: dict[str, Any] = {"status": 0, "bytes": 0}

    async def sending(message: Any) -> None:
        await send(message)
        if message["type"] == "http.response.start":
            noted["status"] = message["status"]
        elif message["type"] == "http.response.body":
            noted["bytes"] += len(message.get("body", b""))
            if not message.get("more_body"):
                _write(scope, noted, time.monotonic() - began)

    return sending


def _write(scope: Scope, noted: dict[str, Any], seconds: float) -> None:
    client = scope["client"][0] if scope.get("client") else ""
    what = {"client": client, "method": scope["method"], "path": scope["path"]}
    fields = what | noted | {"ms": round(seconds * 1e3, 3)}
    text = "%(client)s %(method)s %(path)s %(status)d %(bytes)d bytes %(ms)g ms"
    log.info(text, fields, extra={"request": fields})
