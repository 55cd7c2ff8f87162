"""uvicorn's HTTP protocol, with the bounds that it lacks: on headers, and on connections that say nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from microreg.server.problems import Problem

__all__ = ["BoundedProtocol"]

_HEAD_BYTES = 32 * 1024
"""Bytes that the request line and headers may have."""
_HEAD_SECONDS = 10.0
"""Seconds within which they must be there, from the connection or the first byte on."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A client that takes too long to say what it wants is cut off, and so is one that says too much.

    ``max_connections`` is set on a subclass: :func:`bounded`.
    """

    max_connections = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: asyncio.TimerHandle | None = None
        self._head = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(Problem(503, "too_many_connections", "there are too many connections"))
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._heard()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, within bounds."""
        if self.transport.is_closing():
            return
        if self._in_head:
            if self._waiting is None:
                self._wait()
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > _HEAD_BYTES and not self.transport.is_closing():
            text = f"the request line and headers have more than {_HEAD_BYTES} bytes"
            self._refuse(Problem(431, "headers_too_large", text))

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The headers are there."""
        self._in_head, self._head = False, 0
        self._heard()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; another may follow."""
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read gets a problem document."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self._refuse(Problem(400, "bad_request", "this is no HTTP request"))
        else:
            self.transport.abort()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(_HEAD_SECONDS, self._too_slow)

    def _heard(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        self._waiting = None
        if self._head:
            self._refuse(Problem(408, "request_timeout", f"the headers were not there within {_HEAD_SECONDS:g} s"))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        self._heard()
        body = problem.document()
        head = b"content-type: application/problem+json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[problem.status] + head + body)
        self.transport.close()


def bounded(max_connections: int) -> type[BoundedProtocol]:
    """The protocol for a server with at most so many connections at once."""
    return type("Protocol", (BoundedProtocol,), {"max_connections": max_connections})
