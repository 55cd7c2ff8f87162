"""What the tests of the cache share: a store that counts and can be held up, and a cache around it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.events import Change, Snapshot
from microreg.layers.cache import CacheLayer, CacheOptions
from microreg.model import Node, Service
from microreg.options import Options
from microreg.url import RegistryURL, parse_options
from microreg.watch import Watch
from support import wait_until

T = TypeVar("T")


class Store(MemoryRegistry):
    """Counts what it is asked; lookups wait for ``answer``, watches for ``watches``."""

    def __init__(self) -> None:
        super().__init__(RegistryURL.parse("memory://"), Options())
        self.gets = 0
        self.opened = 0
        self.answer = asyncio.Event()
        self.answer.set()
        self.watches = asyncio.Event()
        self.watches.set()

    async def get_service(self, name: str) -> tuple[Service, ...]:
        self.gets += 1
        await self.answer.wait()
        return await super().get_service(name)

    def watch(self, name: str | None = None) -> Watch:
        inner = super().watch(name).source

        async def source() -> AsyncGenerator[Snapshot | Change, None]:
            self.opened += 1
            await self.watches.wait()
            async for event in inner():
                yield event

        return Watch(source, rng=random.Random(1))


class Vague(Store):
    """Cannot know that a name does not exist, as mDNS."""

    capabilities = MemoryRegistry.capabilities - {"authoritative"}


def options(**given: str) -> CacheOptions:
    """The options of a config string with these: ``max_stale="5m"``."""
    query = "&".join(f"cache.{name}={value}" for name, value in given.items())
    return parse_options(CacheOptions, RegistryURL.parse(f"cache+memory://?{query}"), layer="cache")


@asynccontextmanager
async def opened(
    store: Store | None = None, clock: Callable[[], float] | None = None, url: str = "cache+memory://", **given: str
) -> AsyncGenerator[tuple[CacheLayer, Store]]:
    """A cache with these options, open, and the store in it. Its clock is the loop's, a million seconds on."""
    store = store or Store()
    loop = asyncio.get_running_loop()
    cache = CacheLayer(
        Checked(store),
        RegistryURL.parse(url),
        options(**given),
        rng=random.Random(1),
        clock=clock or (lambda: 1e6 + loop.time()),
    )
    async with cache:
        yield cache, store


def one(port: int = 80, name: str = "greeter", **more: str) -> Service:
    return Service(name, nodes=[Node(f"10.0.0.1:{port}", id=f"n{port}", metadata=more)])


def several(*ports: int, name: str = "greeter") -> Service:
    return Service(name, nodes=[node for port in ports for node in one(port).nodes])


def at_once(call: Coroutine[object, object, T]) -> T:
    """What a coroutine returns that never suspends."""
    with pytest.raises(StopIteration) as stopped:
        call.send(None)
    value: T = stopped.value.value
    return value


async def hot(cache: CacheLayer, name: str = "greeter") -> None:
    """The name is known by its watch."""
    await cache.get_service(name)
    await wait_until(lambda: cache.follow(name).live)


def ports(cache: CacheLayer, name: str = "greeter") -> list[int]:
    """The ports of the nodes that are known."""
    return [node.port for service in cache.services(name) for node in service.nodes]
