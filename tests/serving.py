"""The HTTP registry in this process, called as an ASGI server calls it: no socket, no server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from microreg import Registry, connect
from microreg.backends.http.eventstream import Parser, Received
from microreg.server import Application, Settings, application
from support import wait_until

__all__ = ["BASE", "Listening", "Serving", "record", "serving"]

BASE = "http://127.0.0.1:4214"


def record(name: str, id: str, address: str = "10.0.0.1:80", **more: object) -> dict[str, object]:
    """A service of one node, as JSON has it."""
    return {"name": name, "nodes": [{"id": id, "address": address}], **more}


@dataclass
class Serving:
    """A server and what is behind it."""

    registry: Registry
    app: Application
    http: httpx.AsyncClient

    async def put(self, name: str, id: str, address: str = "10.0.0.1:80", **headers: str) -> httpx.Response:
        """Register a node, and wait until the server's own watch has told it."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        path = f"/v1/services/{name}/nodes/{id}"
        answer = await self.http.put(path, json=record(name, id, address), headers=named)
        await wait_until(lambda: not self.app.hub._unheard)
        return answer

    async def delete(self, name: str, id: str, **headers: str) -> httpx.Response:
        """Deregister a node, and wait likewise."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        answer = await self.http.delete(f"/v1/services/{name}/nodes/{id}", headers=named)
        await wait_until(lambda: not self.app.hub._unheard)
        return answer

    def watch(self, query: str = "", *, body: object = None, **headers: str) -> Listening:
        """A client of the stream of events."""
        named = {key.replace("_", "-").lower(): value for key, value in headers.items()}
        return Listening(self.app, query, body, named)


@asynccontextmanager
async def serving(settings: Settings | None = None, url: str = "memory://", **headers: str) -> AsyncGenerator[Serving]:
    """A registry, the server for it, and a client that sends these headers."""
    async with connect(url) as registry, application(registry, settings) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers) as http:
            yield Serving(registry, app, http)


@dataclass
class Listening:
    """One stream of events, from when it is entered until it is left. ``stuck`` makes it read nothing."""

    app: Application
    query: str
    body: object
    headers: dict[str, str]
    client: str = "127.0.0.1"
    status: int = 0
    answer: dict[str, str] = field(default_factory=dict[str, str])
    events: list[Received] = field(default_factory=list[Received])
    chunks: list[bytes] = field(default_factory=list[bytes])
    ended: bool = False

    async def __aenter__(self) -> Self:
        self._gone, self._flowing = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        self._parser = Parser()
        self._sent = False
        self._task = asyncio.create_task(self._run())
        await wait_until(lambda: self.status or self._task.done())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gone.set()
        self._flowing.set()
        async with asyncio.timeout(30):
            await self._task

    def stick(self, stuck: bool) -> None:
        """Read nothing more, or go on."""
        (self._flowing.clear if stuck else self._flowing.set)()

    async def until(self, count: int) -> list[tuple[str, Any]]:
        """The kinds and data of so many events."""
        await wait_until(lambda: len(self.told) >= count, what=lambda: f"{count} events, not {self.told}")
        return self.told

    @property
    def told(self) -> list[tuple[str, Any]]:
        """What was heard: each event's kind and JSON."""
        return [(event.kind.decode(), json.loads(event.data)) for event in self.events if event.data]

    @property
    def last(self) -> str:
        """The last id that was heard."""
        return next((event.id.decode() for event in reversed(self.events) if event.id), "")

    async def _run(self) -> None:
        scope = {
            "type": "http",
            "method": "GET" if self.body is None else "POST",
            "path": "/v1/watch",
            "raw_path": b"/v1/watch",
            "query_string": self.query.encode(),
            "headers": [(b"host", b"127.0.0.1"), *((k.encode(), v.encode()) for k, v in self.headers.items())],
            "client": (self.client, 1),
        }
        await self.app(scope, self._receive, self._send)
        self.ended = True

    async def _receive(self) -> dict[str, object]:
        if not self._sent:
            self._sent = True
            body = b"" if self.body is None else json.dumps(self.body).encode()
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self._flowing.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answer = {key.decode(): value.decode() for key, value in message["headers"]}
        elif message["body"]:
            self.chunks.append(message["body"])
            self.events += self._parser.feed(message["body"])
