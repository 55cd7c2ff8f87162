"""All verbs: opening, closing, loops, many calls at once, and calls that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from microreg.errors import RegistryClosed, ServiceNotFound, WrongLoop
from microreg.model import Service
from microreg.registry import Registry
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.toolkit import in_thread

__all__ = ["CHECKS"]

CHECKS: list[Check] = []

_Call = Callable[[], Awaitable[object]]


def _verbs(registry: Registry, service: Service) -> dict[str, _Call]:
    async def watch() -> object:
        async with registry.watch(service.name) as events:
            return await anext(events)

    return {
        "register": lambda: registry.register(service),
        "deregister": lambda: registry.deregister(service),
        "get_service": lambda: registry.get_service(service.name),
        "list_services": lambda: registry.list_services(),
        "watch": watch,
    }


@check(CHECKS, "general.not-open")
async def _not_open(case: Case) -> None:
    service = case.service(case.name(), "a")
    registry = case.harness.connect()
    for verb, call in _verbs(registry, service).items():
        await case.raises(RegistryClosed, call, f"{verb} before open")
    await registry.open()
    await registry.open()
    await registry.register(service)
    await case.shows(registry, service.name, service)
    await registry.deregister(service)
    await registry.close()
    await registry.close()
    for verb, call in _verbs(registry, service).items():
        await case.raises(RegistryClosed, call, f"{verb} after close")
    await case.raises(RegistryClosed, registry.open, "open after close")
    await case.harness.connect().close()


@check(CHECKS, "general.wrong-loop")
async def _wrong_loop(case: Case) -> None:
    client, name = await case.client(), case.name()
    service = case.service(name, "a")

    async def elsewhere() -> None:
        for verb, call in _verbs(client.inner, service).items():
            await case.raises(WrongLoop, call, f"{verb} from another event loop")

    await in_thread(asyncio.run, elsewhere())
    await client.register(service)
    await case.shows(client, name, service)


@check(CHECKS, "general.concurrent")
async def _concurrent(case: Case) -> None:
    client, reader = await case.client(), await case.client()
    names = [case.name() for _ in range(4)]
    services = [case.service(name, f"n{number}", port=8000 + number) for name in names for number in range(6)]

    async def ask(name: str) -> None:
        try:
            await client.get_service(name)
        except ServiceNotFound:
            pass

    async with asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(client.register(service))
            group.create_task(ask(service.name))
            group.create_task(client.list_services())
    for name in names:
        await case.shows(reader, name, case.service(name, *(f"n{number}" for number in range(6))))
    async with asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(client.deregister(service))
            group.create_task(ask(service.name))
    for name in names:
        await case.shows(reader, name)


@check(CHECKS, "general.cancellable")
async def _cancellable(case: Case) -> None:
    client, reader = await case.client(), await case.client()
    name = case.name()
    service, other = case.service(name, "a"), case.service(name, "b", "c", port=9000)
    await client.register(service)
    await case.shows(reader, name, service)
    verbs = _verbs(client, other)
    for verb, call in verbs.items():
        for steps in (0, 1, 2, 3, 5, 8):
            await _cancelled(case, verb, call, steps, 0.0)
        for _ in range(4):
            await _cancelled(case, verb, call, 0, case.rng.uniform(0.0, 0.02))
        await client.register(service)
        await client.deregister(other)
        await case.shows(client, name, service)
    await client.register(other)
    await client.deregister(service)
    await case.shows(reader, name, other)
    listener = await case.watch(client, name)
    await listener.holds(other)


async def _cancelled(case: Case, verb: str, call: _Call, steps: int, delay: float) -> None:
    """Start the call, cancel it after some steps of the loop or some time, and insist that it ends."""
    task = asyncio.ensure_future(call())
    for _ in range(steps):
        await asyncio.sleep(0)
    if delay:
        await asyncio.sleep(delay)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=case.harness.patience)
    case.expect(bool(done), f"a cancelled {verb} that ends", f"it still runs after {case.harness.patience:g} s")
    if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), ServiceNotFound):
        case.fail(f"a cancelled {verb} that ends as cancelled", f"it raised {task.exception()!r}")


@check(CHECKS, "general.leaves-no-task", alone=True)
async def _leaves_no_task(case: Case) -> None:
    name = case.name()
    before = len(asyncio.all_tasks())
    for number in range(4):
        registry = case.harness.connect()
        service = case.service(name, f"n{number}")
        async with registry:
            await registry.register(service)
            async with registry.watch(name) as events:
                await anext(events)
            await case.shows(registry, name, service)
            await registry.list_services()
            await registry.deregister(service)
    abandoned = case.harness.connect()
    async with abandoned:
        watch = abandoned.watch(name)
        await watch.__aenter__()
    await watch.close()

    async def tasks() -> set[asyncio.Task[object]]:
        return asyncio.all_tasks()

    await case.until(tasks, lambda now: len(now) <= before, f"{before} tasks, as before the registries")
