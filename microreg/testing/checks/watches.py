"""watch: its life. How it ends, what it leaves behind, and that watches are independent."""

from __future__ import annotations

import asyncio

from microreg.errors import RegistryClosed, RegistryError
from microreg.events import Action, Event
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.watch import Watch

__all__ = ["CHECKS"]

CHECKS: list[Check] = []


@check(CHECKS, "watch.independent")
async def _independent(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    service, later = case.service(name, "a"), case.service(name, "b", port=9000)
    first, second = await case.watch(reader, name), await case.watch(reader, name)
    async with case.listener(reader, name) as brief:
        await brief.start()
        await writer.register(service)
        for listener in (brief, first, second):
            await listener.expect(Action.CREATE, service)
    await first.watch.close()
    await writer.register(later)
    await second.expect(Action.CREATE, later)
    again = await case.watch(reader, name)
    await again.holds(service, later)


@check(CHECKS, "watch.closes")
async def _closes(case: Case) -> None:
    reader, name = await case.client(), case.name()
    listener = await case.watch(reader, name)
    waiting = asyncio.create_task(_drain(listener.watch))
    await case.settle()
    case.expect(not waiting.done(), "a watch that goes on while it is open", "its iteration ended")
    await listener.watch.close()
    await _ends(case, waiting, "an iteration that ends when the watch is closed")
    await listener.watch.close()
    events = await _drain(listener.watch)
    case.expect(not events, "no event after close", tuple(events))
    async with reader.watch(name) as never_read:
        pass
    case.expect(not await _drain(never_read), "no event after close", "an event")


async def _drain(watch: Watch) -> list[Event]:
    return [event async for event in watch]


async def _ends(case: Case, task: asyncio.Task[list[Event]], expected: str) -> None:
    done, _ = await asyncio.wait([task], timeout=case.harness.patience)
    if not done:
        task.cancel()
        await asyncio.wait([task])
        case.fail(expected, f"it still waits after {case.harness.patience:g} s")
    if task.exception() is not None:
        case.fail(expected, f"it raised {task.exception()!r}")


@check(CHECKS, "watch.ends-with-registry")
async def _ends_with_registry(case: Case) -> None:
    writer, name = await case.client(), case.name()
    service = case.service(name, "a")
    await writer.register(service)
    client = await case.client()
    await case.shows(client, name, service)
    waiting = client.watch(name)
    async with waiting:
        await anext(waiting)
        task = asyncio.create_task(_first_error(waiting))
        await case.settle()
        await client.close()
        done, _ = await asyncio.wait([task], timeout=case.harness.patience)
        task.cancel()
        await asyncio.wait([task])
        case.expect(bool(done), "RegistryClosed from the watch of a closed registry", "it still waits")
        seen = task.result()
        case.expect(isinstance(seen, RegistryClosed), "RegistryClosed from the watch of a closed registry", repr(seen))


async def _first_error(watch: Watch) -> RegistryError | None:
    try:
        async for _ in watch:
            pass
    except RegistryError as error:
        return error
    return None
