"""``fake://``: a registry for tests of programs, that breaks when told.

::

    with FakeStore() as store:
        async with microreg.connect(store.url) as registry:
            with store.faults.down():
                ...                                 # RegistryUnavailable, for everybody who uses store.url

What :func:`microreg.connect` makes of ``store.url`` keeps the contract on every event loop and thread of this process:
that of a web application under a test client, that of ``microreg.sync``. The pytest plugin
(:mod:`microreg.pytest_plugin`) makes one for each test.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from microreg import options as config
from microreg.errors import ConfigError, RegistryClosed, RegistryUnavailable
from microreg.events import Event
from microreg.model import Service
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.testing.faulty import FaultyMemory
from microreg.testing.hub import Hub
from microreg.testing.line import Line
from microreg.testing.switches import FaultSwitches
from microreg.toolkit import end
from microreg.url import RegistryURL
from microreg.watch import Watch

__all__ = ["FakeRegistry", "FakeStore"]

T = TypeVar("T")

_stores: dict[str, FakeStore] = {}
_numbers = itertools.count(1)


class FakeStore:
    """A store in memory that lives from ``with`` to its end; ``faults`` are its switches.

    Its records expire by a loop in a thread of its own, or by ``loop``, which somebody else runs, in virtual time for
    example (:class:`microreg.testing.virtual.VirtualTime`); then it is for that loop only.
    """

    def __init__(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._name = str(next(_numbers))
        self.url = f"fake://{self._name}"
        """The config string by which programs find this store."""
        self.hub = Hub(self.url, loop)
        """The loop on which everything in the store happens."""
        self._line = Line()
        self._keeper = self.client()
        self.faults = FaultSwitches(self.hub, self._line, lambda: self._keeper.store)
        """What can be done to the store."""

    def client(self) -> FaultyMemory:
        """One more client of the store, for the loop of its hub only."""
        return FaultyMemory(RegistryURL(scheme="memory", location=f"fake-{self._name}"), config.Options(), self._line)

    def open(self) -> None:
        """From now on ``connect(store.url)`` is the way to it."""
        self.hub.open()
        self.hub.run(self._keeper.open)
        _stores[self._name] = self

    def close(self) -> None:
        """Forget everything. Who still uses it gets RegistryUnavailable. Closing twice is fine."""
        if _stores.pop(self._name, None) is not None:
            try:
                self.faults.restore()
                self.hub.run(self._keeper.close)
            finally:
                self.hub.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FakeRegistry(Registry):
    """``fake://NUMBER``: the registry of the :class:`FakeStore` whose ``url`` that is, in the same process."""

    capabilities = FaultyMemory.capabilities

    def __init__(self, url: RegistryURL, options: config.Options) -> None:
        super().__init__(url, options)
        self._client: FaultyMemory | None = None
        self._hub: Hub | None = None

    async def open(self) -> None:
        """Find the store. Raises ConfigError where it is not open."""
        store = _stores.get(self.url.location)
        if store is None or self.url.path:
            raise ConfigError(
                f"{self.url}: there is no such store in this process, now; it is as long as the test that the fixture "
                "`registry` is for, or `with microreg.testing.FakeStore() as store`, whose store.url names it"
            )
        client = store.client()
        await store.hub.call(client.open)
        self._client, self._hub = client, store.hub

    async def close(self) -> None:
        """Let go of the store."""
        client, self._client = self._client, None
        if client is not None and self._hub is not None:
            with suppress(RegistryUnavailable):  # the store is gone already
                await self._hub.call(client.close)

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Put the record and set its deadline."""
        await self._call(lambda client: client.register(service, ttl=ttl))

    async def deregister(self, service: Service) -> None:
        """Remove the record."""
        await self._call(lambda client: client.deregister(service))

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """What the store holds."""
        return await self._call(lambda client: client.get_service(name))

    async def list_services(self) -> tuple[str, ...]:
        """The names that the store holds."""
        return await self._call(lambda client: client.list_services())

    def watch(self, name: str | None = None) -> Watch:
        """What happens in the store."""
        return Watch(lambda: self._changes(name))

    def advertised_host(self) -> str | None:
        """Loopback: nobody outside this process can see the store."""
        return "127.0.0.1"

    async def _call(self, verb: Callable[[FaultyMemory], Coroutine[object, object, T]]) -> T:
        client, hub = self._opened()
        return await hub.call(lambda: verb(client))

    async def _changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        client, hub = self._opened()
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Event | Exception] = asyncio.Queue()

        def tell(news: Event | Exception) -> None:
            with suppress(RuntimeError):  # the reader's loop is closed
                loop.call_soon_threadsafe(told.put_nowait, news)

        reading = await hub.call(partial(_start, client, name, tell))
        try:
            while True:
                news = await told.get()
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            with suppress(RegistryUnavailable):  # the store is gone, and its tasks with it
                await hub.call(partial(end, reading))

    def _opened(self) -> tuple[FaultyMemory, Hub]:
        if self._client is None or self._hub is None:
            raise RegistryClosed(f"{self.url} is not open")
        return self._client, self._hub


async def _start(
    client: FaultyMemory, name: str | None, tell: Callable[[Event | Exception], None]
) -> asyncio.Task[None]:
    """On the hub's loop: begin to tell what happens."""

    async def read() -> None:
        try:
            async with aclosing(client.source(name)) as events:
                async for event in events:
                    tell(event)
        except Exception as error:
            tell(error)
        finally:
            tell(RegistryUnavailable(f"the store of {client.url} ended this watch"))

    return asyncio.get_running_loop().create_task(read(), name=f"fake store watch {name or ''}")
