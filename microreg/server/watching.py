"""``/v1/watch``: server-sent events of a set of names, which can be resumed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from microreg.errors import InvalidService
from microreg.rules import check_name
from microreg.server.bodies import read_json
from microreg.server.hub import Hub, Names, Stream
from microreg.server.problems import Problem
from microreg.server.settings import Settings

__all__ = ["HEARTBEAT", "Watching"]

log = logging.getLogger("microreg.server")

HEARTBEAT = 5.0
"""Seconds after which a stream on which nothing happens gives a sign of life."""
_STUCK = 30.0
"""Seconds that a client may take to read what was sent, before its stream is ended."""
_CHUNK = 64 * 1024
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events
]


class _Wanted(msgspec.Struct):
    names: list[str] | None = None
    snapshot: list[str] = []


class Watching:
    """Answers ``/v1/watch``, within the limits of the settings."""

    def __init__(self, hub: Hub, settings: Settings) -> None:
        self._hub = hub
        self._settings = settings
        self._open: Counter[str] = Counter()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream events until the client goes, the server drains, or the registry is lost."""
        names, snapshot = await self._wanted(scope, receive)
        client = scope["client"][0] if scope.get("client") else ""
        self._check_room(client)
        await self._hub.ready()
        stream = self._hub.subscribe(names)
        self._open[client] += 1
        try:
            missed = self._hub.since(_last_id(scope), names)
            fresh = names if missed is None else snapshot
            whole = self._hub.snapshot(fresh) if fresh is None or fresh else None
            headers = [*_HEADERS, (b"microreg-resumed", b"false" if missed is None else b"true")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _until_gone(receive, send, stream, b"".join(missed or ()), whole)
        finally:
            stream.close()
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def _check_room(self, client: str) -> None:
        settings = self._settings
        if len(self._hub.streams) >= settings.max_streams:
            detail = f"there are {settings.max_streams} streams, and no more are opened; see --max-streams"
            raise Problem(503, "too_many_streams", detail, headers={b"retry-after": b"10"})
        if self._open[client] >= settings.max_per_client:
            detail = f"there are {settings.max_per_client} streams from your address; one can follow many names"
            raise Problem(429, "too_many_streams", detail, headers={b"retry-after": b"10"})

    async def _wanted(self, scope: Scope, receive: Receive) -> tuple[Names, frozenset[str]]:
        """The names to follow, and those of them that begin with a snapshot in any case."""
        if scope["method"] == "POST":
            wanted = await read_json(scope, receive, self._settings.max_body, _Wanted)
        else:
            wanted = _from_query(scope["query_string"])
        for name in [*(wanted.names or ()), *wanted.snapshot]:
            check_name(name)
        names = None if wanted.names is None else frozenset(wanted.names)
        snapshot = frozenset(wanted.snapshot)
        if names is not None and not snapshot <= names:
            raise InvalidService("a name in snapshot is not among the names to watch")
        if names is not None and not names:
            raise InvalidService("names is empty: expected one name or more, or none at all for everything")
        return names, snapshot


def _from_query(text: bytes) -> _Wanted:
    names: list[str] = []
    snapshot: list[str] = []
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=2000, errors="strict")
    except ValueError:
        raise Problem(400, "bad_request", "the query is not name=value&name=value in UTF-8") from None
    for key, value in pairs:
        if key not in ("name", "snapshot"):
            raise Problem(400, "bad_request", f"query parameter {key[:80]!r}: known here: name, snapshot")
        (names if key == "name" else snapshot).append(value)
    return _Wanted(names or None, snapshot)


def _last_id(scope: Scope) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == b"last-event-id"), "")


async def _until_gone(
    receive: Receive, send: Send, stream: Stream, missed: bytes, whole: AsyncGenerator[bytes, None] | None
) -> None:
    """Send what was missed, the snapshots and then everything new, until the client hangs up or the stream ends."""
    leaving = asyncio.get_running_loop().create_task(_gone(receive, stream), name="microreg server stream")
    try:
        if missed:
            await _send(send, missed)
        if whole is not None:
            await _send_all(send, whole)
        async with aclosing(stream.take(HEARTBEAT)) as pieces:
            async for piece in pieces:
                if leaving.done():
                    return
                await _send(send, piece)
        await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        log.info("a client has read nothing for %g s, and its stream is ended", _STUCK)
    finally:
        leaving.cancel()
        await asyncio.wait([leaving])


async def _gone(receive: Receive, stream: Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end()


async def _send_all(send: Send, pieces: AsyncGenerator[bytes, None]) -> None:
    """Send a snapshot in chunks of some size: one for each name would be many small ones."""
    waiting: list[bytes] = []
    size = 0
    async with aclosing(pieces):
        async for piece in pieces:
            waiting.append(piece)
            size += len(piece)
            if size >= _CHUNK:
                await _send(send, b"".join(waiting))
                waiting, size = [], 0
    await _send(send, b"".join(waiting))


async def _send(send: Send, data: bytes) -> None:
    async with asyncio.timeout(_STUCK):
        await send({"type": "http.response.body", "body": data, "more_body": True})
