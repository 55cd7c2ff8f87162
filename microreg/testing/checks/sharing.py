"""register and deregister: of nodes that several clients write, and that others read meanwhile."""

from __future__ import annotations

import asyncio

from microreg.events import Action
from microreg.testing.case import Case
from microreg.testing.check import Check, check

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
_CHANGES = 12


@check(CHECKS, "register.by-anyone", requires=("authoritative",))
async def _register_by_anyone(case: Case) -> None:
    first, second, reader = await case.client(), await case.client(), await case.client()
    name, other, ttl, grace = case.name(), case.name(), case.harness.ttl, case.harness.grace
    renewed, curtailed = case.service(name, "renewed"), case.service(name, "curtailed", port=8500)
    before, after = case.service(other, "a"), case.service(other, "a", port=9000)
    began = case.time()
    await first.register(renewed, ttl=ttl)
    await second.register(renewed, ttl=ttl * 60)
    await first.register(curtailed, ttl=ttl * 60)
    await second.register(curtailed, ttl=ttl)
    listener = await case.watch(reader, before.name)
    await first.register(before)
    await listener.expect(Action.CREATE, before)
    for writer, previous, record in ((second, before, after), (first, after, before), (second, before, after)):
        await writer.register(record)
        await listener.expect(Action.UPDATE, record, previous=previous)
    await case.sleep_until(began + ttl + grace)
    for client in (reader, first):
        await case.shows(client, name, renewed)
        await case.shows(client, after.name, after)


@check(CHECKS, "register.never-blinks")
async def _never_blinks(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    before, after = case.service(name, "a"), case.service(name, "a", version="2.0", port=9000)
    await writer.register(before)
    await case.shows(reader, name, before)

    async def write() -> None:
        for number in range(_CHANGES):
            record = after if number % 4 > 1 else before
            for _ in range(2):
                await writer.register(record)
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        while not writing.done():
            answer = await case.found(reader, name)
            case.expect(answer in ((before,), (after,)), "the node, as it is or as it was", answer)
            await asyncio.sleep(0.001)


@check(CHECKS, "deregister.by-anyone", requires=("authoritative",))
async def _deregister_by_anyone(case: Case) -> None:
    owner, other, reader = await case.client(), await case.client(), await case.client()
    name = case.name()
    before, after, stays = case.service(name, "a"), case.service(name, "a", port=9000), case.service(name, "b")
    listener = await case.watch(reader, name)
    await owner.register(stays)
    await listener.expect(Action.CREATE, stays)
    for withdrawing in (other, owner):  # whoever wrote it first, and whoever wrote it last
        await owner.register(before)
        await listener.expect(Action.CREATE, before)
        await other.register(after)
        await listener.expect(Action.UPDATE, after, previous=before)
        await withdrawing.deregister(before)
        await listener.expect(Action.DELETE, after)
        for client in (reader, owner, other):
            await case.shows(client, name, stays)
    await other.deregister(stays)
    await listener.expect(Action.DELETE, stays)
    await case.shows(owner, name)
