"""A thousand cached clients while their registry restarts: what they ask of it is at most three times the usual.

In virtual time: what counts is when each client asks, and no machine is as quiet as that.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress

import pytest

import microreg
from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.errors import ServiceNotFound
from microreg.events import Event
from microreg.layers.cache import CacheLayer
from microreg.model import Service
from microreg.options import Options
from microreg.testing.virtual import run
from microreg.url import RegistryURL
from microreg.watch import Watch

CLIENTS, NAMES = 1000, 100
SETTLE, CALM = 30, 30
"""Seconds until all clients do as usual, and for which that is measured."""


class Counting(MemoryRegistry):
    """Counts the requests of each second, of all registries of its name."""

    def __init__(self, asked: Counter[int], rng: random.Random) -> None:
        super().__init__(RegistryURL.parse("memory://herd"), Options())
        self._asked = asked
        self._rng = rng

    def _count(self) -> None:
        self._asked[int(asyncio.get_running_loop().time())] += 1

    async def register(self, service: Service, *, ttl: float = 15.0) -> None:
        self._count()
        await super().register(service, ttl=ttl)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        self._count()
        return await super().get_service(name)

    def watch(self, name: str | None = None) -> Watch:
        watch = super().watch(name)
        watch.rng = self._rng
        return watch

    def _changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        self._count()
        return super()._changes(name)


async def client(number: int, asked: Counter[int], stack: AsyncExitStack, rng: random.Random) -> None:
    """Announces one node and calls another service, from some moment on."""
    await asyncio.sleep(rng.uniform(0, 10))
    registry = await stack.enter_async_context(Checked(Counting(asked, rng)))
    address = f"10.0.{number // 250}.{number % 250 + 1}:80"
    announced = microreg.announce(registry, f"service-{number % NAMES}", address=address, drain_delay=0, rng=rng)
    await stack.enter_async_context(announced)
    cache = await stack.enter_async_context(CacheLayer(registry, registry.url, CacheLayer.Options(), rng=rng))
    with suppress(ServiceNotFound):  # it follows the name all the same
        await cache.get_service(f"service-{(number + 1) % NAMES}")


@pytest.mark.parametrize(("outage", "wiped"), [(10.0, True), (20.0, False)], ids=["empty", "with its data"])
def test_a_restart_is_no_stampede(outage: float, wiped: bool) -> None:
    asked: Counter[int] = Counter()
    rng = random.Random(outage)

    async def main() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(Counting(asked, rng))
            async with asyncio.TaskGroup() as group:
                for number in range(CLIENTS):
                    group.create_task(client(number, asked, stack, rng))
            await asyncio.sleep(SETTLE)
            start = int(loop.time())
            await asyncio.sleep(CALM)
            steady = sum(asked[second] for second in range(start, start + CALM)) / CALM
            first.store.down = True
            if wiped:
                first.store.wipe()
            await asyncio.sleep(outage)
            first.store.down = False
            back = int(loop.time())
            await asyncio.sleep(CALM)
            assert len(first.store.catalog) == CLIENTS, "all are back"
            return steady, max(asked[second] for second in range(back, back + CALM))

    steady, peak = run(main())
    assert steady == pytest.approx(CLIENTS / 5, rel=0.1), "a renewal each five seconds, and nothing else"
    assert peak <= 3 * steady, f"{peak} requests in a second, {steady:.0f} as a rule"
