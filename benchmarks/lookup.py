"""What a caller pays for a lookup in the cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import repeat
from time import process_time

from data import record
from figures import Aim
from timing import Theme, awaited

from microreg import Registry, Service, connect
from microreg.backends.memory import MemoryRegistry
from microreg.layers.cache import CacheLayer

LOOKUPS = 20_000


@asynccontextmanager
async def fleet(size: int, url: str = "memory://") -> AsyncGenerator[Registry]:
    """A registry that knows so many nodes of one service."""
    async with connect(url) as registry:
        memory = registry.unwrap(MemoryRegistry)
        assert memory is not None
        for number in range(size):
            memory.store.catalog.put(record(number))
        yield registry


async def hot(loops: int) -> float:
    async with fleet(100, "cache+memory://") as registry:
        cache = registry.unwrap(CacheLayer)
        assert cache is not None
        await registry.get_service("greeter")
        for _ in range(1000):
            if cache.services("greeter"):
                break
            await asyncio.sleep(0)
        get = registry.get_service
        begun = process_time()
        for _ in repeat(None, loops * LOOKUPS):
            await get("greeter")
        return process_time() - begun


async def plain(loops: int) -> float:
    known: dict[str, tuple[Service, ...]] = {"greeter": (record(0),)}

    async def get(name: str) -> tuple[Service, ...]:
        return known[name]

    begun = process_time()
    for _ in repeat(None, loops * LOOKUPS):
        await get("greeter")
    return process_time() - begun


def main() -> None:
    theme = Theme("lookup")
    theme.pair(
        "get_service of a hot name, cache+",
        awaited(hot),
        awaited(plain),
        "a coroutine that looks up",
        per=LOOKUPS,
        aim=Aim(1e-6, "≤ 1 µs"),
    )
    theme.report()


if __name__ == "__main__":
    main()
