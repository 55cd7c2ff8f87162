"""Watch: one change to a thousand watchers, what a second watch costs, how long it holds up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from time import process_time, thread_time

from data import MANY, bytes_kept, record, records
from figures import Aim, Figure
from timing import Theme, awaited

from microreg.catalog import Catalog
from microreg.events import Event, Snapshot
from microreg.model import Service
from microreg.watch import Watch

WATCHERS, CHANGES = 1_000, 10


class Round:
    """Counts who has heard; ``wait`` returns when all have."""

    def __init__(self) -> None:
        self._heard = 0
        self._done = asyncio.Event()

    def hear(self) -> None:
        self._heard += 1
        if self._heard == WATCHERS:
            self._done.set()

    async def wait(self) -> None:
        await self._done.wait()
        self._heard = 0
        self._done.clear()


async def fan_out(loops: int) -> float:
    catalog, told = Catalog(), Round()

    async def follow() -> None:
        async with Watch(lambda: catalog.changes("greeter"), "greeter") as events:
            async for _ in events:
                told.hear()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow()) for _ in range(WATCHERS)]
        await told.wait()
        begun = process_time()
        for number in range(loops * CHANGES):
            catalog.put(record(0, port=number + 1))
            await told.wait()
        taken = process_time() - begun
        for task in tasks:
            task.cancel()
    return taken


async def hand_over(loops: int) -> float:
    queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(WATCHERS)]
    told = Round()

    async def follow(queue: asyncio.Queue[int]) -> None:
        while True:
            await queue.get()
            told.hear()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow(queue)) for queue in queues]
        await asyncio.sleep(0)
        begun = process_time()
        for number in range(loops * CHANGES):
            for queue in queues:
                queue.put_nowait(number)
            await told.wait()
        taken = process_time() - begun
        for task in tasks:
            task.cancel()
    return taken


def filled(names: int) -> Catalog:
    catalog = Catalog()
    catalog.replace(Snapshot.of(records(MANY, endpoints=(), names=names)))
    return catalog


def second_watch() -> Figure:
    """What a watch keeps of nodes that are in memory already; the floor is a dict with an entry for each."""
    catalog = filled(1)
    runner = asyncio.Runner()

    async def opened() -> Watch:
        watch = Watch(catalog.changes)
        await watch.__aenter__()
        await anext(watch)
        return watch

    watches: list[Watch] = []
    ours = bytes_kept(lambda: watches.append(runner.run(opened()))) / MANY
    runner.run(watches[0].close())
    runner.close()
    floor = bytes_kept(lambda: {each.nodes[0].id: each for each in catalog.records()}) / MANY
    return Figure("memory of a second watch, a node", "B", ours, floor, "a dict of the nodes", Aim(100, "≤ 100 B"))


async def longest_step(work: Coroutine[object, object, object]) -> float:
    """How long the event loop was held up at most while ``work`` ran, in milliseconds of processor time."""
    loop = asyncio.get_running_loop()
    moments = [thread_time()]
    over = False

    def tick() -> None:
        moments.append(thread_time())
        if not over:
            loop.call_soon(tick)

    loop.call_soon(tick)
    await work
    over = True
    moments.append(thread_time())
    return max(after - before for before, after in pairwise(moments)) * 1000


def reading(names: int) -> Figure:
    catalog = filled(names)

    async def read() -> Event:
        async with Watch(catalog.changes) as watch:
            return await anext(watch)

    async def copy() -> tuple[Service, ...]:
        return tuple(catalog.records())

    floor = min(asyncio.run(longest_step(copy())) for _ in range(3))
    ours = min(asyncio.run(longest_step(read())) for _ in range(3))
    what = f"longest step, {MANY:,} nodes of {names:,}"
    return Figure(what, "ms", ours, floor, "a tuple of them, at once", Aim(50, "≤ 50 ms"))


def main() -> None:
    theme = Theme("watch")
    theme.pair(
        "a change to one of 1,000 watchers",
        awaited(fan_out),
        awaited(hand_over),
        "asyncio.Queue",
        per=WATCHERS * CHANGES,
    )
    theme.plain(second_watch)
    theme.plain(lambda: reading(1))
    theme.plain(lambda: reading(1_000))
    theme.report()


if __name__ == "__main__":
    main()
