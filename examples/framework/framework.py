"""A service framework in about a hundred lines: how microreg is embedded.

The framework's own part is small: calls are one line of JSON each way over TCP. That a program is found as long as
it answers, and that a call finds one that does, is microreg's.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Self

import microreg

Hook = Callable[[], Awaitable[None]]
Endpoint = Callable[..., Awaitable[object]]


class Server:
    """One program of the fleet: answers calls by name of an endpoint, and is announced while it does."""

    def __init__(
        self, name: str, *, registry: str | None = None, version: str = "", ttl: float = 15, interval: float = 5
    ) -> None:
        self.name, self.version, self.ttl, self.interval = name, version, ttl, interval
        self.registry = microreg.connect(registry)
        self.endpoints: dict[str, Endpoint] = {}
        self.before_start: list[Hook] = []
        self.after_start: list[Hook] = []
        self.before_stop: list[Hook] = []
        self.after_stop: list[Hook] = []
        self.stopping = asyncio.Event()
        self._calls: set[asyncio.Task[object]] = set()

    def endpoint(self, function: Endpoint) -> Endpoint:
        """A decorator: the coroutine function is called by its name, with keyword arguments that JSON can carry."""
        self.endpoints[function.__name__] = function
        return function

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or ``stopping``. Leaves the registry before it stops to answer."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(RuntimeError, ValueError):  # only a main thread gets signals
                loop.add_signal_handler(number, self.stopping.set)
        async with AsyncExitStack() as stack:
            await _each(self.before_start)
            stack.push_async_callback(_each, self.after_stop)
            listening = await asyncio.start_server(self._serve, port=0, host="127.0.0.1")
            stack.push_async_callback(self._finish, listening)
            await stack.enter_async_context(self.registry)
            announcement = microreg.announce(
                self.registry,
                self.name,
                address="127.0.0.1",
                port=listening.sockets[0].getsockname()[1],
                version=self.version,
                endpoints=[microreg.Endpoint(name) for name in self.endpoints],
                ttl=self.ttl,
                interval=self.interval,
            )
            await stack.enter_async_context(announcement)
            await _each(self.after_start)
            stack.push_async_callback(_each, self.before_stop)
            await self.stopping.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            writer.write(json.dumps(await self._answer(await reader.readline())).encode() + b"\n")
            await writer.drain()
        except OSError:
            pass  # the caller is gone
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
            return {"result": await self.endpoints[request["endpoint"]](**request["arguments"])}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    async def _finish(self, listening: asyncio.Server) -> None:
        listening.close()
        if self._calls:
            await asyncio.wait(self._calls)


class Unreachable(ConnectionError):
    """Nobody answers at the address of the node: the call was not made, and another node can be asked."""


class CallError(Exception):
    """The endpoint raised this, or broke off."""


class Client:
    """Calls services by name; to be used with ``async with``."""

    def __init__(self, registry: str | None = None) -> None:
        self.registry = microreg.connect(registry)
        self.selector = microreg.Selector(self.registry)
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Begin; for a server's hooks, where there is no ``async with``."""
        await self._stack.enter_async_context(self.registry)
        await self._stack.enter_async_context(self.selector)

    async def close(self) -> None:
        """End."""
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(self, service: str, endpoint: str, **arguments: object) -> object:
        """What the endpoint of one node answers. Raises CallError, or microreg.NoNodeAvailable after 5 seconds."""

        async def ask(node: microreg.Node) -> object:
            try:
                reader, writer = await asyncio.open_connection(node.host, node.port)
            except OSError as error:
                raise Unreachable(f"{node.address}: {error}") from error
            try:
                writer.write(json.dumps({"endpoint": endpoint, "arguments": arguments}).encode() + b"\n")
                answer = json.loads(await reader.readline() or b'{"error": "the connection was closed"}')
            finally:
                writer.close()
            if "error" in answer:
                raise CallError(answer["error"])
            return answer["result"]

        return await self.selector.call(service, ask, retry_on=Unreachable)


async def _each(hooks: list[Hook]) -> None:
    for hook in hooks:
        await hook()
