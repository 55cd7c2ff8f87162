"""uvicorn's HTTP protocol, with the bounds that it lacks: on headers, and on who says nothing or says it slowly."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from microreg.server.app import Application
from microreg.server.problems import Problem

__all__ = ["BoundedProtocol", "bounded"]

_HEAD_BYTES = 32 * 1024
"""Bytes that the request line and headers may have."""
_PATIENCE = 10.0
"""Seconds within which they must be there, from the connection or the first byte on; and then the body."""

_TOO_LARGE = Problem(431, "headers_too_large", f"the request line and headers have more than {_HEAD_BYTES} bytes")


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A client that takes too long to say what it wants is cut off, and so is one that says too much.

    ``max_connections`` is set on a subclass: :func:`bounded`.
    """

    max_connections = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False
        self._read = 0  # bytes since the last headers were complete
        self._refused = False
        # Behind a proxy that is believed, the application is within another one, and nothing is answered directly.
        app = cast(object, self.app)  # pyright: ignore[reportUnknownMemberType]
        self._direct = app.direct if isinstance(app, Application) else None
        self._answered = 0.0  # when a request was answered directly

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it where there are too many."""
        super().connection_made(transport)
        self._writer = _Writer(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(Problem(503, "too_many_connections", "there are too many connections"))
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._heard()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, within bounds."""
        if self._refused or self._answers(data):
            return
        self._read += len(data)
        super().data_received(data)
        if self._in_head and self._read > _HEAD_BYTES and not self._refused:
            self._refuse(_TOO_LARGE)
        if (self._in_head or self._in_body) and self._waiting is None and not self._refused:
            self._wait()

    def _answers(self, data: bytes) -> bool:
        """Answer a whole request at once, where nothing else is going on and it is one of the hot ones."""
        busy = self._in_head or self._in_body or not (self.cycle is None or self.cycle.response_complete)
        if self._direct is None or busy or self.flow.write_paused or self.transport.is_closing():
            return False
        answer = self._direct.answer(data, self.client, self.server_state.default_headers)
        if answer is None:
            return False
        self._heard()
        self.transport.write(answer)
        self._answered = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._keep_alive(self.timeout_keep_alive)
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing was asked for too long. A direct answer does not move the timer."""
        left = self._answered + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._keep_alive(left)
        else:
            super().timeout_keep_alive_handler()

    def _keep_alive(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is there. A trailer, behind the body, is nobody's."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are there."""
        self._in_head, self._in_body = False, True
        self._heard()
        if self._read > _HEAD_BYTES and self._head_size() > _HEAD_BYTES:  # all in one piece, or with a body
            self._refuse(_TOO_LARGE)
        self._read = 0
        if not self._refused:
            super().on_headers_complete()
            self.cycle.transport = self._writer

    def on_body(self, body: bytes) -> None:
        """A part of the body is there."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there; another may follow."""
        self._read, self._in_body = 0, False
        self._heard()
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read gets a problem document."""
        self._refuse(Problem(400, "bad_request", "this is no HTTP request"))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(_PATIENCE, self._too_slow)

    def _heard(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        if self._in_head or self._in_body:
            what = "headers were" if self._in_head else "body was"
            self._refuse(Problem(408, "request_timeout", f"the {what} not there within {_PATIENCE:g} s"))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        self._refused = True
        self._heard()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (cycle.response_started or not self._in_body):
            self.transport.abort()  # another answer is due first
            return
        body = problem.document()
        head = b"content-type: application/problem+json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[problem.status] + head + body)
        self.transport.close()


class _Writer(asyncio.Transport):
    """A transport for answers. After the client has gone uvloop's raises, until ``connection_lost`` is called."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write what somebody may still read."""
        if not self._transport.is_closing():
            self._transport.write(data)


def bounded(max_connections: int) -> type[BoundedProtocol]:
    """The protocol for a server with at most so many connections at once."""
    return type("Protocol", (BoundedProtocol,), {"max_connections": max_connections})
