"""``/v1/watch``: server-sent events of a set of names, which can be resumed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from microreg.errors import InvalidService
from microreg.rules import check_name
from microreg.server.access import origin_of
from microreg.server.bodies import read_json
from microreg.server.hub import Hub
from microreg.server.problems import Problem
from microreg.server.settings import Settings
from microreg.server.streams import Names, Stream
from microreg.toolkit import end

__all__ = ["Watching"]

log = logging.getLogger("microreg.server")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events
]


_MAX_NAMES = 10_000
"""Names that one stream may follow; each takes memory, for as long as the stream is open."""
_NAMES_EACH = 50
"""How many streams may follow on average, at least where each of those allowed is open."""


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
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
        client = origin_of(scope["client"][0]) if scope.get("client") else ""
        await self._hub.ready()
        self._check_room(client, len(names or ()))
        stream = Stream(self._hub, names, scope, send)
        self._hub.subscribe(stream)
        self._open[client] += 1
        leaving = asyncio.get_running_loop().create_task(_gone(receive, stream), name="microreg server stream")
        try:
            await self._begin(scope, stream, snapshot, send)
            await stream.run()
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not stream.stuck or task is None or task.uncancel():
                raise
            self._hub.stuck += 1
            log.info("a client reads nothing, and its stream is ended", extra={"client": client})
        finally:
            self._hub.unsubscribe(stream)
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
            await end(leaving)

    async def _begin(self, scope: Scope, stream: Stream, snapshot: frozenset[str], send: Send) -> None:
        """Send what the client has missed, or what there is: as of the moment in which the stream was subscribed."""
        missed = self._hub.since(_last_id(scope), stream.names)
        fresh = stream.names if missed is None else snapshot
        whole = self._hub.snapshot(fresh) if fresh is None or fresh else None
        resumed = "false" if missed is None else "true"
        self._hub.opened[resumed] += 1
        headers = [*_HEADERS, (b"microreg-resumed", resumed.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if missed:
            await stream.send(b"".join(missed))
        if whole is not None:
            await stream.send_all(whole)

    def _check_room(self, client: str, names: int) -> None:
        settings = self._settings
        full = self._hub.followed + names > settings.max_streams * _NAMES_EACH
        if full or len(self._hub.streams) >= settings.max_streams:
            there = f"{len(self._hub.streams)} streams, which follow {self._hub.followed} names"
            detail = f"there are {there}, and no more are opened; see --max-streams"
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
        count = max(len(wanted.names or ()), len(wanted.snapshot))
        if count > _MAX_NAMES:
            detail = f"{count} names; at most {_MAX_NAMES} in one stream, or none at all for everything"
            raise Problem(413, "too_many", detail)
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


async def _gone(receive: Receive, stream: Stream) -> None:
    """Ends the stream when its client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end()
