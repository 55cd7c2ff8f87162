"""Nothing is left behind: no task, no thread, no file; and what nobody reads takes no room."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

import microreg
import support
from microreg import Registry, Selector, connect
from microreg.backends.memory import MemoryStore
from microreg.catalog import Catalog
from microreg.checked import Checked
from microreg.errors import RegistryError
from microreg.events import Change
from microreg.model import Service
from strategies import record
from support import store_of
from timeless import run

MANY = 500


def held() -> tuple[int, int, int]:
    """Tasks, threads and open files, without those that other tests have left to the collector."""
    gc.collect()
    return len(asyncio.all_tasks()), threading.active_count(), len(os.listdir("/dev/fd"))


def subscribers(store: MemoryStore) -> int:
    """How many listen to the store: a watch that is gone must be forgotten there too."""
    return sum(map(len, vars(store.catalog)["_subscribers"].values())) + len(vars(store.catalog)["_interrupts"])


def claims(registry: Registry) -> set[tuple[str, str]]:
    """The nodes that announcements hold."""
    checked = registry.unwrap(Checked)
    assert checked is not None
    found: set[tuple[str, str]] = vars(checked)["_claims"]
    return found


@pytest.mark.parametrize("down", [False, True])
def test_five_hundred_watches_leave_nothing(down: bool) -> None:
    async def main() -> None:
        async with connect("memory://leaks") as registry:
            store = store_of(registry)
            await registry.register(record(), ttl=3600)
            before = held()
            store.down = down
            async with AsyncExitStack() as stack:
                watches = [registry.watch(("greeter", None)[number % 2]) for number in range(MANY)]
                for number in range(MANY):
                    await stack.enter_async_context(watches[number])
                    if number % 100 == 0:
                        await asyncio.sleep(1)
                assert len(asyncio.all_tasks()) == before[0] + MANY
                if not down:
                    await asyncio.gather(*map(anext, watches))
            assert held() == before and subscribers(store) == 0
            watches.clear()
            gc.collect()
            assert list(vars(registry)["_watches"]) == []

    run(main())


def test_a_store_that_goes_and_comes_leaves_nothing_under_its_watches() -> None:
    async def main() -> None:
        async with connect("memory://leaks") as registry:
            store = store_of(registry)
            before = held()
            async with AsyncExitStack() as stack:
                watches = [await stack.enter_async_context(registry.watch()) for _ in range(50)]
                for watch in watches:
                    await anext(watch)
                for _ in range(2):
                    store.down = True
                    await asyncio.sleep(20)
                    store.down = False
                    await asyncio.sleep(20)
                    assert {watch.state for watch in watches} == {"live"}
                    assert subscribers(store) == 2 * 50
            assert held() == before and subscribers(store) == 0

    run(main())


@pytest.mark.parametrize("down", [False, True])
def test_five_hundred_announcements_leave_nothing(down: bool) -> None:
    async def main() -> None:
        async with connect("memory://leaks") as registry:
            store = store_of(registry)
            before = held()
            store.down = down
            services = [record(id=f"n{number}") for number in range(MANY)]
            announcements = [microreg.announce(registry, each) for each in services]
            await asyncio.gather(*(each.__aenter__() for each in announcements))
            await asyncio.sleep(11)
            assert len(store.catalog) == (0 if down else MANY)
            await asyncio.gather(*(each.__aexit__(None, None, None) for each in announcements))
            assert held() == before and len(store.catalog) == 0
            assert not claims(registry)

    run(main())


# -- cancellation -------------------------------------------------------------------------------------


async def enter_and_leave(registry: Registry) -> None:
    async with microreg.announce(registry, record(id="mine"), drain_delay=0.01) as announcement:
        await announcement.wait_live()
        await announcement.update(version="2")
        await announcement.drain()


async def watch_a_little(registry: Registry) -> None:
    async with registry.watch("greeter") as events:
        await anext(events)
        await registry.register(record(id="mine"))
        await anext(events)
        await registry.deregister(record(id="mine"))


async def select(registry: Registry) -> None:
    async with Selector(registry) as selector:
        await selector.select("greeter", timeout=1)
        selector.pick("greeter")


async def open_and_close(_: Registry) -> None:
    async with connect("memory://leaks") as other:
        await other.list_services()


WHAT: dict[str, Callable[[Registry], Awaitable[object]]] = {
    "register": lambda registry: registry.register(Service("greeter", nodes=[*record(id="mine").nodes])),
    "deregister": lambda registry: registry.deregister(record(id="mine")),
    "get_service": lambda registry: registry.get_service("greeter"),
    "list_services": lambda registry: registry.list_services(),
    "watch": watch_a_little,
    "announce": enter_and_leave,
    "select": select,
    "open": open_and_close,
}


async def cancelled_at_every_step(registry: Registry, call: Callable[[Registry], Awaitable[object]]) -> int:
    """Play the call again and again, each time cancelled one step of the loop later, until it is done before that."""
    await usable(registry)
    before = held(), subscribers(store_of(registry))
    for step in range(400):
        task = asyncio.ensure_future(call(registry))
        cut = await cancelled_after(task, step)
        await asyncio.wait([task], timeout=30)
        assert task.cancelled() or (task.done() and isinstance(task.exception(), RegistryError | None))
        if not cut:
            assert not task.cancelled()
            return step
        await back_to(before[0], step)
        await usable(registry)
        assert subscribers(store_of(registry)) == before[1], f"cancelled after {step} steps"
    raise AssertionError("it never ends")


async def back_to(before: tuple[int, int, int], step: int) -> None:
    """What was cancelled while it was closing ends by itself, soon."""
    what = f"back to {before} tasks, threads and files after a cancellation at step {step}"
    await support.wait_until(lambda: held() == before, what=what)


async def cancelled_after(task: asyncio.Future[object], turns: int) -> bool:
    """Whether the call was still under way when it was cancelled. After thirty turns it waits: then time passes too."""
    for turn in range(turns):
        if task.done():
            return False
        await asyncio.sleep(0 if turn < 30 else 0.003)
    return task.cancel()


async def usable(registry: Registry) -> None:
    """After it, the registry is as before: nothing half done stays in the way."""
    await registry.register(record(id="stays"), ttl=3600)
    await registry.deregister(record(id="mine"))

    async def found() -> bool:
        return [node.id for each in await registry.get_service("greeter") for node in each.nodes] == ["stays"]

    condition: Callable[[], bool | Awaitable[bool]] = found
    await support.wait_until(condition, what="the one node that stays")
    assert not claims(registry)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("url", ["memory://leaks", "cache+memory://leaks"])
def test_a_call_that_is_cancelled_at_any_step_leaves_nothing(what: str, url: str) -> None:
    async def main() -> None:
        async with connect(url) as registry:
            assert await cancelled_at_every_step(registry, WHAT[what]) > 0
        assert len(asyncio.all_tasks()) == 1

    run(main())


@pytest.mark.parametrize("what", ["announce", "select", "watch"])
def test_nor_does_one_that_is_cancelled_while_the_store_is_down(what: str) -> None:
    async def main() -> None:
        async with connect("memory://leaks") as registry:
            await usable(registry)
            before = held()
            for step in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55):
                store_of(registry).down = True
                task = asyncio.ensure_future(WHAT[what](registry))
                await cancelled_after(task, step)
                await asyncio.wait([task], timeout=30)
                assert task.cancelled() or (task.done() and isinstance(task.exception(), RegistryError | None))
                store_of(registry).down = False
                await back_to(before, step)
                await usable(registry)

    run(main())


# -- limits -------------------------------------------------------------------------------------------


def test_a_consumer_that_sleeps_through_100_000_changes_holds_no_more_than_the_nodes() -> None:
    async def main() -> None:
        async with connect("memory://leaks") as registry, registry.watch() as events:
            store = store_of(registry)
            records = [record(id=f"n{number}", port=80 + version) for version in range(5) for number in range(20)]
            first = await anext(events)
            await _changes(store, records, 20)
            gc.collect()
            before = sys.getallocatedblocks()
            await _changes(store, records, 1000)
            gc.collect()
            grown = sys.getallocatedblocks() - before
            assert grown < 2_000, f"{grown} objects more after 100,000 changes of 20 nodes"
            await asyncio.sleep(1)
            assert len(vars(events)["_backlog"]) <= 20
            catalog = Catalog()
            catalog.apply(first)
            for count in range(21):
                try:
                    async with asyncio.timeout(1):
                        event = await anext(events)
                except TimeoutError:
                    break
                assert isinstance(event, Change) and count < 20
                catalog.apply(event)
            assert catalog.services("greeter") == await registry.get_service("greeter") != ()

    run(main())


async def _changes(store: MemoryStore, records: list[Service], rounds: int) -> None:
    for _ in range(rounds):
        for number, each in enumerate(records):
            store.catalog.put(each)
            if number % 20 == 0:
                await asyncio.sleep(0)
