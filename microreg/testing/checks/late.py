"""Calls that take too long: they end in time, and what they wrote late does no harm."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from microreg.checked import patience
from microreg.errors import RegistryTimeout, RegistryUnavailable
from microreg.events import Action
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.testing.checks.outages import register_when_back

__all__ = ["CHECKS"]

CHECKS: list[Check] = []


@check(CHECKS, "general.bounded", requires=("freeze",))
async def _bounded(case: Case) -> None:
    client, reader, name = await case.client(), await case.client(), case.name()
    service = case.service(name, "a")
    await client.register(service, ttl=case.harness.ttl * 60)
    await case.shows(client, name, service)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "register": partial(client.register, service),
        "deregister": partial(client.deregister, case.service(name, "b")),
        "get_service": partial(reader.get_service, name),
        "list_services": reader.list_services,
    }
    allowed = patience(client) + 1.0
    async with case.faults.frozen():
        began = case.time()
        async with asyncio.TaskGroup() as group:
            for verb, call in calls.items():
                group.create_task(case.raises(RegistryTimeout, call, f"{verb} while the store stands still"))
        took = case.time() - began
        case.expect(took <= allowed, f"an answer within {allowed:g} s", f"after {took:.1f} s")
    await register_when_back(case, client, name)
    await case.shows(reader, name, service)


@check(CHECKS, "deregister.fenced", requires=("fenced", "slow"))
async def _fenced(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    service, later = case.service(name, "a"), case.service(name, "a", port=9000)
    listener = await case.watch(reader, name)
    await writer.register(service)
    await listener.expect(Action.CREATE, service)
    delay = patience(writer) + 1.0
    async with case.faults.slow(delay):
        await case.raises(RegistryUnavailable, partial(writer.register, later), "register that takes too long")
    applied = case.time() + delay
    await writer.deregister(service)
    await listener.holds()
    await case.sleep_until(applied)
    await case.settle()
    await case.shows(reader, name)
    await case.shows(writer, name)
    await listener.quiet()


@check(CHECKS, "deregister.backstop", requires=("slow",))
async def _backstop(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    service, later = case.service(name, "a"), case.service(name, "a", port=9000)
    await writer.register(service)
    await case.shows(reader, name, service)
    delay = patience(writer) + 1.0
    async with case.faults.slow(delay):
        late = partial(writer.register, later, ttl=case.harness.ttl)
        await case.raises(RegistryUnavailable, late, "register that takes too long")
    applied = case.time() + delay
    await writer.deregister(service)
    await case.sleep_until(applied + case.harness.ttl)
    await case.shows(reader, name, within=case.harness.grace)
    await case.settle()
    await case.shows(await case.client(), name, within=0.0)


@check(CHECKS, "general.calling-again", requires=("slow",))
async def _calling_again(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    service = case.service(name, "a")
    listener = await case.watch(reader, name)
    delay = patience(writer) + 1.0
    async with case.faults.slow(delay):
        await case.raises(RegistryUnavailable, partial(writer.register, service), "register that takes too long")
    applied = case.time() + delay
    await writer.register(service)
    await listener.expect(Action.CREATE, service, within=case.harness.patience + delay)
    await case.sleep_until(applied)
    await listener.quiet()
    await case.shows(reader, name, service)
    await writer.deregister(service)
    await writer.deregister(service)
    await listener.expect(Action.DELETE, service)
    await case.shows(reader, name)
