"""All verbs: opening, closing, loops, many calls at once, and calls that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from microreg.checked import patience
from microreg.errors import RegistryClosed, ServiceNotFound, WrongLoop
from microreg.findings import Finding
from microreg.model import Service
from microreg.registry import Registry
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.toolkit import in_thread

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
_STEPS = 25
"""Steps of the loop after which a call waits for its store rather than for its turn."""

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


@check(CHECKS, "general.examines")
async def _examines(case: Case) -> None:
    client, unopened = await case.client(), case.harness.connect()
    for registry, when in ((unopened, "before open"), (client.inner, "once it is open")):
        seconds = patience(registry) + case.harness.patience
        try:
            async with asyncio.timeout(seconds):
                findings: object = await registry.examine()
        except Exception as error:
            case.fail(f"an examination {when} that raises nothing, and ends within {seconds:g} s", f"{error!r}")
        sound = isinstance(findings, tuple) and all(isinstance(each, Finding) for each in findings)
        case.expect(sound, f"findings {when}", f"{findings!r:.200}")
    await unopened.close()


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
        for steps in range(_STEPS):
            if not await _cancelled(case, verb, call, steps, 0.0):
                break
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


async def _cancelled(case: Case, verb: str, call: _Call, steps: int, delay: float) -> bool:
    """Start the call, cancel it after some steps of the loop or some time, insist that it ends; whether it was cut."""
    task = asyncio.ensure_future(call())
    for _ in range(steps):
        await asyncio.sleep(0)
    if delay:
        await asyncio.sleep(delay)
    cut = task.cancel()
    done, _ = await asyncio.wait([task], timeout=case.harness.patience)
    case.expect(bool(done), f"a cancelled {verb} that ends", f"it still runs after {case.harness.patience:g} s")
    if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), ServiceNotFound):
        case.fail(f"a cancelled {verb} that ends as cancelled", f"it raised {task.exception()!r}")
    return cut
