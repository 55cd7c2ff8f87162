"""deregister: what goes, what stays, and that it stays gone."""

from __future__ import annotations

from microreg.events import Action, Reason
from microreg.model import Node, Service, Status
from microreg.testing.case import Case
from microreg.testing.check import Check, check

__all__ = ["CHECKS"]

CHECKS: list[Check] = []


@check(CHECKS, "deregister.removes")
async def _removes(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    first, second, both = case.service(name, "a"), case.service(name, "b", port=8001), case.service(name, "a", "b")
    one, everything = await case.watch(reader, name), await case.watch(reader)
    await writer.register(both)
    for listener in (one, everything):
        await listener.holds(both)
    await writer.deregister(first)
    for listener in (one, everything):
        change = await listener.expect(Action.DELETE, first)
        expired = change.reason is Reason.EXPIRED
        case.expect(not expired, "a reason other than expired", change)
    await case.shows(reader, name, second)
    await case.shows(writer, name, second)
    await writer.deregister(second)
    for listener in (one, everything):
        await listener.expect(Action.DELETE, second)
    await case.shows(reader, name)
    await case.shows(writer, name)


@check(CHECKS, "deregister.only-those")
async def _only_those(case: Case) -> None:
    writer, other, reader = await case.client(), await case.client(), await case.client()
    name = case.name("-x")
    mine, same_name = case.service(name, "a"), case.service(name, "ab", "b", port=8100)
    elsewhere = case.service(case.name("-x-y"), "a", port=8200)
    longer = case.service(case.name("-xy"), "a", port=8300)
    newer = case.service(name, "c", version="2.0", port=8400)
    listener = await case.watch(reader)
    await writer.register(mine)
    for service in (same_name, elsewhere):
        await writer.register(service)
    for service in (longer, newer):
        await other.register(service)
    await listener.holds(mine, same_name, elsewhere, longer, newer)
    await writer.deregister(mine)
    await listener.expect(Action.DELETE, mine)
    await listener.quiet()
    await case.shows(reader, name, same_name, newer)
    for service in (elsewhere, longer):
        await case.shows(reader, service.name, service)


@check(CHECKS, "deregister.by-identity")
async def _by_identity(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service, stays = case.service(name, "a", metadata={"owner": "team-a"}), case.service(name, "b", port=9000)
    listener = await case.watch(reader, name)
    await writer.register(service)
    await listener.expect(Action.CREATE, service)
    await writer.register(stays)
    await listener.expect(Action.CREATE, stays)
    bare = Service(name, "another", nodes=[Node("10.9.9.9:9", id="a", status=Status.DRAINING)])
    await writer.deregister(bare)
    await listener.expect(Action.DELETE, service)
    await case.shows(reader, name, stays)


@check(CHECKS, "deregister.idempotent")
async def _idempotent(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service, stays = case.service(name, "a"), case.service(name, "b", port=9000)
    listener = await case.watch(reader)
    await writer.deregister(case.service(case.name(), "never-was"))
    await writer.register(stays)
    await listener.expect(Action.CREATE, stays)
    await writer.deregister(service)
    await writer.register(service)
    await listener.expect(Action.CREATE, service)
    await writer.deregister(service)
    await writer.deregister(service)
    await listener.expect(Action.DELETE, service)
    await reader.deregister(service)
    await listener.quiet()
    await case.shows(reader, name, stays)
    await writer.deregister(case.service(name, "a", "b"))
    await listener.expect(Action.DELETE, stays)


@check(CHECKS, "deregister.stays-gone")
async def _stays_gone(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    ttl = case.harness.ttl
    service, stays = case.service(name, "a"), case.service(name, "b", port=9000)
    listener = await case.watch(reader, name)
    await writer.register(stays)
    await writer.register(service, ttl=ttl)
    await listener.holds(service, stays)
    await writer.deregister(service)
    await listener.expect(Action.DELETE, service)
    end = case.time() + ttl * 1.3
    while case.time() < end:
        for client in (reader, writer):
            await case.shows(client, name, stays)
        await writer.register(stays)
        await case.sleep_until(case.time() + ttl / 6)
    await case.shows(await case.client(), name, stays)
    await listener.quiet()
