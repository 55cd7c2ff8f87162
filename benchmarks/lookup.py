"""What a caller pays for each call: the Selector's pick at four sizes, a lookup in the cache."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, repeat
from time import process_time

from data import record
from figures import Aim
from timing import Theme, awaited

from microreg import Node, Registry, Selector, Service, connect
from microreg.backends.memory import MemoryRegistry
from microreg.layers.cache import CacheLayer

PICKS = 20_000
SIZES = (10, 100, 1_000, 10_000)


@asynccontextmanager
async def fleet(size: int, url: str = "memory://") -> AsyncGenerator[Registry]:
    """A registry that knows so many nodes of one service."""
    async with connect(url) as registry:
        memory = registry.unwrap(MemoryRegistry)
        assert memory is not None
        for number in range(size):
            memory.store.catalog.put(record(number))
        yield registry


async def pick(strategy: str, size: int, loops: int) -> float:
    async with fleet(size) as registry, Selector(registry, strategy) as selector:
        await selector.select("greeter")
        choose = selector.pick
        begun = process_time()
        for _ in repeat(None, loops * PICKS):
            choose("greeter")
        return process_time() - begun


def draw(strategy: str, size: int, loops: int) -> float:
    """The same without a Selector, for one list of nodes that never changes."""
    nodes = [record(number).nodes[0] for number in range(size)]
    float_between, following = random.Random().random, cycle(nodes).__next__

    def one() -> Node:
        return nodes[int(float_between() * size)]

    choose = one if strategy == "random" else following
    begun = process_time()
    for _ in repeat(None, loops * PICKS):
        choose()
    return process_time() - begun


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
        for _ in repeat(None, loops * PICKS):
            await get("greeter")
        return process_time() - begun


async def plain(loops: int) -> float:
    known: dict[str, tuple[Service, ...]] = {"greeter": (record(0),)}

    async def get(name: str) -> tuple[Service, ...]:
        return known[name]

    begun = process_time()
    for _ in repeat(None, loops * PICKS):
        await get("greeter")
    return process_time() - begun


def main() -> None:
    theme = Theme("lookup")
    for strategy, floor_is in (("random", "list indexing and random()"), ("round_robin", "itertools.cycle")):
        for size in SIZES:
            theme.pair(
                f"pick, {strategy} of {size:,}",
                awaited(partial(pick, strategy, size)),
                partial(draw, strategy, size),
                floor_is,
                per=PICKS,
                aim=Aim(0.2e-6, "≤ 0.2 µs"),
            )
    theme.pair(
        "get_service of a hot name, cache+",
        awaited(hot),
        awaited(plain),
        "a coroutine that looks up",
        per=PICKS,
    )
    theme.report()


if __name__ == "__main__":
    main()
