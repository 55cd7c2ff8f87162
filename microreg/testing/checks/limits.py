"""watch and all verbs: what is left behind, and what a consumer costs that does not read."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc

from microreg.events import Change
from microreg.model import Node, Service
from microreg.registry import Registry
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.watch import Watch

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
_WATCHES = 500
_AT_ONCE = 50
_POOL = 40
"""Threads that a pool may have kept for later."""
_CHANGES = 120
_TEXT = 900
_ALLOWED = _CHANGES * _TEXT // 3
"""Bytes that what waits for a slow consumer may grow by: a third of what so many changes have."""
_TELLS = 0.01


def _entries(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0  # an operating system without it


def _held() -> tuple[int, int, int]:
    """Tasks, threads and open files."""
    files = _entries("/proc/self/fd") or _entries("/dev/fd")
    return len(asyncio.all_tasks()), _entries("/proc/self/task"), files


async def _back_to(case: Case, before: tuple[int, int, int]) -> None:
    async def held() -> tuple[int, int, int]:
        return _held()

    def as_before(now: tuple[int, int, int]) -> bool:
        return now[0] <= before[0] and now[1] <= before[1] + _POOL and now[2] <= before[2]

    await case.until(held, as_before, f"no more (tasks, threads, files) than the {before} before")


@check(CHECKS, "watch.leaves-nothing", alone=True)
async def _leaves_nothing(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    service = case.service(name, "a")
    await writer.register(service, ttl=case.harness.ttl * 60)
    await case.shows(reader, name, service)
    async with case.listener(reader, name) as warm:
        await warm.start()
    await case.settle()
    before = _held()
    await _many_watches(case, reader, name, reads=True)
    await _back_to(case, before)
    await case.shows(reader, name, service)


@check(CHECKS, "watch.leaves-nothing-when-down", requires=("kill",))
async def _leaves_nothing_when_down(case: Case) -> None:
    reader, name = await case.client(), case.name()
    async with case.listener(reader, name) as warm:
        await warm.start()
    async with case.faults.down():
        before = _held()
        await _many_watches(case, reader, name, reads=False)
        await _back_to(case, before)
    async with case.listener(reader, name) as again:
        await again.start(case.harness.patience + 10)


async def _many_watches(case: Case, reader: Registry, name: str, *, reads: bool) -> None:
    """Opened side by side; some are closed after their Snapshot, some at once, some cancelled at any moment."""

    async def follow(number: int) -> None:
        watch = reader.watch(None if number % 10 == 0 else name)
        if number % 3 == 0:
            await _cancelled(case, watch)
        else:
            async with watch as events:
                if reads and number % 3 == 1:
                    async with asyncio.timeout(case.harness.patience):
                        await anext(events)

    for start in range(0, _WATCHES, _AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for number in range(start, start + _AT_ONCE):
                group.create_task(follow(number))


async def _cancelled(case: Case, watch: Watch) -> None:
    """A consumer that is cancelled at a random moment."""

    async def consume() -> None:
        async with watch as events:
            async for _ in events:
                pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(case.rng.uniform(0, 0.02))
    task.cancel()
    await asyncio.wait([task])


@check(CHECKS, "general.leaves-nothing", alone=True)
async def _registry_leaves_nothing(case: Case) -> None:
    name = case.name()
    before = _held()
    for number in range(5):
        registry = case.harness.connect()
        service = case.service(name, f"n{number}")
        async with registry:
            await registry.register(service)
            async with registry.watch(name) as events:
                await anext(events)
            await case.shows(registry, name, service)
            await registry.list_services()
            await registry.deregister(service)
        if number == 0:
            before = before[0], before[1], max(before[2], _held()[2])  # what is loaded with the first use stays
    abandoned = case.harness.connect()
    async with abandoned:
        watch = abandoned.watch(name)
        await watch.__aenter__()
    await watch.close()
    await _back_to(case, before)


@check(CHECKS, "watch.bounded", alone=True)
async def _bounded(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    await writer.register(case.service(name, "a", "b"))
    slow, quick = await case.watch(reader, name), await case.watch(reader, name)
    began = not tracemalloc.is_tracing()
    if began:
        tracemalloc.start()
    try:
        last = await _changes(case, writer.inner, quick.watch, name, "first")
        before = _memory()
        last = await _changes(case, writer.inner, quick.watch, name, "second")
        grown = await _grown(case, before)
    finally:
        if began:
            tracemalloc.stop()
    what = f"at most {_ALLOWED} bytes more after {_CHANGES} more changes of 2 nodes that nobody has read"
    case.expect(grown <= _ALLOWED, what, f"{grown} bytes")
    await slow.holds(*last)
    case.expect(len(slow.changes) <= 2, "at most one change for each of 2 nodes", slow.changes)


async def _grown(case: Case, before: int) -> int:
    """By how many bytes, once the slow watch has taken in what is on its way to it."""
    deadline = case.time() + case.harness.patience
    while (grown := _memory() - before) > _ALLOWED and case.time() < deadline:
        await case.settle()
    return grown


def _memory() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def _changes(case: Case, writer: Registry, quick: Watch, name: str, round: str) -> list[Service]:
    """Change two nodes again and again, each time when the store has told of it, or had the time to."""
    records = [case.service(name, id) for id in "ab"]
    told: dict[str, Service] = {}
    for number in range(_CHANGES):
        text = f"{round} {number} ".ljust(_TEXT, "x")
        node = Node("127.0.0.1:8000", id="ab"[number % 2], metadata={"text": text})
        records[number % 2] = Service(name, "1.0", nodes=[node])
        await writer.register(records[number % 2], ttl=case.harness.ttl * 60)
        await _hear(quick, told, _TELLS)
    while [told.get(id) for id in "ab"] != records:
        heard = await _hear(quick, told, case.harness.patience)
        case.expect(heard, "a watch that hears of the last changes", f"nothing for {case.harness.patience:g} s")
    await case.settle()
    return records


async def _hear(watch: Watch, told: dict[str, Service], seconds: float) -> bool:
    """Whether something is heard in this time. It is not logged: that would cost the memory in question."""
    try:
        async with asyncio.timeout(seconds):
            event = await anext(watch)
    except TimeoutError:
        return False
    if isinstance(event, Change):
        told[event.node.id] = event.service
    return True
