"""The live page at ``/``: files of HTML, CSS and JavaScript that follow ``/v1/watch``, and since when nodes are there.

The files are the same for everybody, and say nothing of what is registered. They come from this folder as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from microreg.events import Action, Change
from microreg.server.problems import Problem, reply
from microreg.server.views import Endpoint, Server

__all__ = ["PATHS", "routes"]

_FOLDER: Final = Path(__file__).parent
_KINDS: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        ".html": b"text/html; charset=utf-8",
        ".css": b"text/css; charset=utf-8",
        ".js": b"text/javascript; charset=utf-8",
        ".svg": b"image/svg+xml",
    }
)
_POLICY: Final = b"; ".join(
    [
        b"default-src 'none'",
        b"script-src 'self'",
        b"style-src 'self'",
        b"connect-src 'self'",
        b"img-src 'self'",
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
        b"require-trusted-types-for 'script'",
    ]
)
_SLICE: Final = 1_000


def _path(file: Path) -> str:
    return "/" if file.name == "index.html" else f"/page/{file.name}"


_FILES: Final = MappingProxyType(
    {_path(file): file for file in sorted(_FOLDER.iterdir()) if file.suffix in _KINDS and file.is_file()}
)
PATHS: Final = frozenset(_FILES)
"""Where the files are: anybody may have them, from anywhere."""


def routes(server: Server) -> list[Route]:
    """The routes: the files, and ``/page/ages``, which needs a token where the server wants one."""
    files = [Route(path, _File(file)) for path, file in _FILES.items()]
    ages = Endpoint(server.settings.max_body, {"GET": _Ages(server).answer})
    return [*files, Route("/page/ages", ages)]


class _File:
    """One file, as an ASGI application. Browsers keep it, and ask each time whether it is still the same."""

    def __init__(self, file: Path) -> None:
        self._data = file.read_bytes()
        self._tag = b'"%s"' % sha256(self._data).hexdigest()[:20].encode()
        self._kind = _KINDS[file.suffix]
        self._headers = {b"etag": self._tag, b"cache-control": b"no-cache", b"content-security-policy": _POLICY}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] not in ("GET", "HEAD"):
            raise Problem(405, "method_not_allowed", "this path takes GET, HEAD", headers={b"allow": b"GET, HEAD"})
        if self._is_known(scope):
            await send({"type": "http.response.start", "status": 304, "headers": list(self._headers.items())})
            await send({"type": "http.response.body", "body": b""})
        else:
            await reply(send, self._data, kind=self._kind, headers=self._headers)

    def _is_known(self, scope: Scope) -> bool:
        """Whether the client has this very file (RFC 9110, 13.1.2)."""
        asked = [value for key, value in scope["headers"] if key == b"if-none-match"]
        tags = {tag.strip().removeprefix(b"W/") for value in asked for tag in value.split(b",")}
        return self._tag in tags or b"*" in tags


class _Ages:
    """Since when this server has seen each node; None for those that were there before it.

    A registry keeps no such time, and a page sees no more than what comes while it is open.
    """

    def __init__(self, server: Server) -> None:
        self._hub = server.hub
        self._began = time.monotonic()
        self._seen: dict[str, dict[str, float | None]] = {}
        server.hub.catalog.subscribe(None, self._heard)

    def _heard(self, change: Change) -> None:
        name, node = change.service.name, change.node.id
        if change.action is Action.CREATE:
            self._seen.setdefault(name, {})[node] = time.monotonic() if self._hub.live else None
        elif change.action is Action.DELETE:
            nodes = self._seen.get(name, {})
            nodes.pop(node, None)
            if not nodes:
                self._seen.pop(name, None)

    async def answer(self, _: Scope, __: bytes) -> tuple[int, bytes]:
        """``{"up": …, "ages": {name: {id: …}}}``: seconds for which the server has run, and has seen each node.

        Of a node that was there before it the age is null.
        """
        await self._hub.ready()
        now = time.monotonic()
        parts: list[bytes] = []
        for number, (name, nodes) in enumerate(tuple(self._seen.items()), 1):
            ages = {node: None if since is None else round(now - since, 1) for node, since in nodes.items()}
            parts.append(b"%s:%s" % (msgspec.json.encode(name), msgspec.json.encode(ages)))
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        return 200, b'{"up":%.1f,"ages":{%s}}' % (now - self._began, b",".join(parts))
