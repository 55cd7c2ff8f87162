"""What a Selector costs: a pick by four strategies at four sizes, from its loop's thread and from another; a change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import cycle, repeat
from time import process_time, thread_time

from data import record
from figures import Aim, Figure
from timing import Theme, awaited

from microreg import Node, Registry, Selector, Service, connect
from microreg.backends.memory import MemoryRegistry, MemoryStore

PICKS = 20_000
SIZES = (10, 100, 1_000, 10_000)
NAMES, NODES, CHANGES = 10_000, 10, 2_000
SECONDS, PER_SECOND = 5, 100

FLOORS = {
    "random": "list indexing and random()",
    "round_robin": "itertools.cycle",
    "weighted": "random.choices, summed weights",
    "p2c": "two indices, two floats compared",
}
AIMS = {"random": 0.2e-6, "round_robin": 0.2e-6, "weighted": 0.5e-6, "p2c": 0.5e-6}


def weighing(number: int) -> Service:
    """A record whose weight is one of four."""
    plain = record(number)
    (node,) = plain.nodes
    return plain.with_nodes(node.replace(metadata={**node.metadata, "weight": str(number % 4 + 1)}))


@asynccontextmanager
async def filled(services: list[Service]) -> AsyncGenerator[tuple[Registry, MemoryStore]]:
    """A registry that knows these, and its store."""
    async with connect("memory://") as registry:
        memory = registry.unwrap(MemoryRegistry)
        assert memory is not None
        for service in services:
            memory.store.catalog.put(service)
        yield registry, memory.store


def timed(choose: Callable[[str], Node], count: int) -> float:
    begun = thread_time()
    for _ in repeat(None, count):
        choose("greeter")
    return thread_time() - begun


async def pick(strategy: str, size: int, loops: int, *, thread: bool = False) -> float:
    make = weighing if strategy == "weighted" else record
    async with filled([make(number) for number in range(size)]) as (registry, _):
        async with Selector(registry, strategy) as selector:
            await selector.select("greeter")
            for node in selector.explain("greeter").selected:
                selector.report(node, latency=random.uniform(0.01, 0.02))
            if thread:
                return await asyncio.to_thread(timed, selector.pick, loops * PICKS)
            return timed(selector.pick, loops * PICKS)


def draw(strategy: str, size: int, loops: int) -> float:
    """The same without a Selector, for one list of nodes that never changes."""
    nodes = [record(number).nodes[0] for number in range(size)]
    loads = [random.uniform(0.01, 0.02) for _ in nodes]
    summed = [sum(range(number % 4 + 1)) + number for number in range(size)]
    source = random.Random()
    between, choices, following = source.random, source.choices, cycle(nodes).__next__

    def one(_: str) -> Node:
        return nodes[int(between() * size)]

    def lesser(_: str) -> Node:
        first, second = int(between() * size), int(between() * size)
        return nodes[first] if loads[first] <= loads[second] else nodes[second]

    ways: dict[str, Callable[[str], Node]] = {
        "random": one,
        "round_robin": lambda _: following(),
        "weighted": lambda _: choices(nodes, cum_weights=summed)[0],
        "p2c": lesser,
    }
    return timed(ways[strategy], loops * PICKS)


async def changing(select: bool) -> float:
    """Seconds of processor time for one change among 10,000 names, each watched, or each selected from."""
    services = [record(number, name=f"name-{number // NODES}") for number in range(NAMES * NODES)]
    async with filled(services) as (registry, store), AsyncExitStack() as stack:
        names = [f"name-{number}" for number in range(NAMES)]
        tasks: list[asyncio.Task[None]] = []
        if select:
            selector = await stack.enter_async_context(Selector(registry))
            for name in names:
                await selector.select(name)
        else:
            tasks = [asyncio.create_task(follow(registry, name)) for name in names]
        await asyncio.sleep(1)
        begun = process_time()
        for change in range(CHANGES):
            number = change * 37 % len(services)
            store.catalog.put(record(number, name=f"name-{number // NODES}", port=change + 1000))
            if change % 100 == 99:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        taken = process_time() - begun
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return taken / CHANGES


async def follow(registry: Registry, name: str) -> None:
    async with registry.watch(name) as events:
        async for _ in events:
            pass


def change() -> Figure:
    turns = [(asyncio.run(changing(True)), asyncio.run(changing(False))) for _ in range(3)]
    both, watching = min(turns)[0], min(other for _, other in turns)
    return Figure(
        f"a change in cache and Selector, {NAMES:,} names × {NODES} nodes",
        "s",
        both - watching,
        watching,
        "the watch that brings it",
        Aim(20e-6, "≤ 20 µs"),
    )


async def storm(select: bool) -> float:
    """The share of a core, in %, while one of 10,000 nodes of one name changes 100 times a second."""
    async with filled([record(number) for number in range(10_000)]) as (registry, store), AsyncExitStack() as stack:
        if select:
            selector = await stack.enter_async_context(Selector(registry))
            await selector.select("greeter")
        else:
            following = asyncio.create_task(follow(registry, "greeter"))
            stack.callback(following.cancel)
        await asyncio.sleep(1)
        begun = process_time()
        for number in range(SECONDS * PER_SECOND):
            store.catalog.put(record(number, port=number + 1000))
            await asyncio.sleep(1 / PER_SECOND)
        return 100 * (process_time() - begun) / SECONDS


def storms() -> Figure:
    ours, floor = asyncio.run(storm(True)), asyncio.run(storm(False))
    return Figure("10,000 nodes of one name, 100 changes a second, of a core", "%", ours, floor, "a watch alone")


def main() -> None:
    theme = Theme("selector")
    for strategy, floor_is in FLOORS.items():
        aim = Aim(AIMS[strategy], f"≤ {AIMS[strategy] * 1e6:g} µs")
        for size in SIZES:
            floor = partial(draw, strategy, size)
            ours = partial(pick, strategy, size)
            theme.pair(f"pick, {strategy} of {size:,}", awaited(ours), floor, floor_is, per=PICKS, aim=aim)
            theme.pair(
                f"pick, {strategy} of {size:,}, another thread",
                awaited(partial(ours, thread=True)),
                floor,
                floor_is,
                per=PICKS,
                aim=aim,
            )
    theme.plain(change)
    theme.plain(storms)
    theme.report()


if __name__ == "__main__":
    main()
