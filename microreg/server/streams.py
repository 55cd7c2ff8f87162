"""One client's stream of events: what it has yet to hear, and whether it listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from starlette.types import Scope, Send

__all__ = ["HEARTBEAT", "Names", "Source", "Stream"]

HEARTBEAT = 5.0
"""Seconds after which a stream on which nothing happens gives a sign of life, and at most one second more."""
_STUCK = 30.0
"""Seconds that a client may take to read what was sent, before its stream is ended."""
_PENDING = 1_000
"""Changes that one client may be behind, before it is given a snapshot in their place."""
_CHUNK = 64 * 1024

Names = frozenset[str] | None
"""The names that a client follows; None for all."""


class Source(Protocol):
    """What a stream asks of who tells it of changes."""

    @property
    def id(self) -> bytes:
        """The id of the latest change."""
        ...

    def snapshot(self, names: Names) -> AsyncGenerator[bytes, None]:
        """What there is of these names now, as events in pieces of some size."""
        ...


class Stream:
    """What one client has yet to hear. Belongs to the task that makes it.

    ``source`` tells it of changes (``put``), and has what there is. It has no timer of its own, since there may be
    thousands: somebody calls ``look`` every second. ``stuck`` says that its task was cancelled because the client reads
    nothing. ``scope`` is of the client's request.
    """

    __slots__ = (
        "_due", "_news", "_over", "_pending", "_send", "_sending", "_source", "_task", "_wake",
        "names", "scope", "stuck",
    )  # fmt: skip

    def __init__(self, source: Source, names: Names, scope: Scope, send: Send) -> None:
        self.names = names
        self.scope = scope
        self.stuck = False
        self._source = source
        self._send = send
        self._task = asyncio.current_task()
        self._pending: list[bytes] | None = []
        self._news = False
        self._wake: asyncio.Future[None] | None = None
        self._over = False
        self._due = asyncio.get_running_loop().time() + HEARTBEAT
        self._sending = 0.0  # since when, 0 while nothing is being sent

    # -- what happens ----------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Have the client hear this. One that is too far behind hears a snapshot, one that was ended nothing."""
        if self._over:
            return
        if self._pending is not None:
            if len(self._pending) >= _PENDING:
                self._pending = None
            else:
                self._pending.append(data)
        self._notify()

    def end(self) -> None:
        """Let the client hear what is waiting, and nothing more."""
        self._over = True
        self._notify()

    def look(self, now: float) -> None:
        """Give a sign of life, or give a client up that reads nothing, if it is time."""
        if self._sending:
            if now - self._sending > _STUCK and self._task is not None and not self.stuck:
                self.stuck = True
                self._task.cancel()
        elif now >= self._due:
            self._notify()

    def _notify(self) -> None:
        self._news = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- what is sent ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what comes, until the stream is ended; the client may then be gone."""
        loop = asyncio.get_running_loop()
        while not self._over or self._pending:
            if not self._news:
                self._wake = loop.create_future()
                await self._wake
            self._news = False
            pending, self._pending = self._pending, []
            if pending is None:
                await self.send_all(self._source.snapshot(self.names))
            elif pending:
                await self.send(b"".join(pending))
            elif not self._over:
                await self.send(b":\nid: " + self._source.id + b"\n\n")

    async def send_all(self, pieces: AsyncGenerator[bytes, None]) -> None:
        """Send a snapshot in chunks of some size: one for each name would be many small ones."""
        waiting: list[bytes] = []
        size = 0
        async with aclosing(pieces):
            async for piece in pieces:
                waiting.append(piece)
                size += len(piece)
                if size >= _CHUNK:
                    await self.send(b"".join(waiting))
                    waiting, size = [], 0
        await self.send(b"".join(waiting))

    async def send(self, data: bytes) -> None:
        """Send this, which takes as long as the client takes to read what was sent before."""
        time = asyncio.get_running_loop().time
        self._sending = time()
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            self._sending = 0.0
        self._due = time() + HEARTBEAT
