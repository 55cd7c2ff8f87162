"""get_service, list_services and watch: where there is much of it. These run alone, to burden no other check."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from microreg.events import Action
from microreg.model import Service
from microreg.registry import Registry
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.testing.listener import Listener

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
_RECORDS = 250
"""More than two pages of a store that answers a hundred at a time."""
_AT_ONCE = 25
_WATCHES = 200


@check(CHECKS, "get.many-nodes", alone=True)
async def _many_nodes(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    whole = case.service(name, *(f"n{number:03}" for number in range(_RECORDS)))
    await _register(case, writer, whole.records())
    for client in (reader, await case.client()):
        await case.shows(client, name, whole)
    await _begins_with(case, await case.watch(reader, name), whole)


@check(CHECKS, "list.many-names", requires=("complete_list",), alone=True)
async def _many_names(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    services = [case.service(case.name(f"-{number:03}"), "a", port=8000 + number) for number in range(_RECORDS)]
    await _register(case, writer, services)
    names = tuple(service.name for service in services)

    async def own() -> tuple[str, ...]:
        return tuple(name for name in await reader.list_services() if name.startswith(case.stem))

    await case.until(own, names.__eq__, f"a list with all {_RECORDS} names")
    await _begins_with(case, await case.watch(reader), *services)


async def _register(case: Case, writer: Registry, records: Sequence[Service]) -> None:
    for start in range(0, len(records), _AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for record in records[start : start + _AT_ONCE]:
                group.create_task(writer.register(record, ttl=case.harness.ttl * 60))


async def _begins_with(case: Case, listener: Listener, *services: Service) -> None:
    """The Snapshot has everything; where nobody can know, what follows it may complete it."""
    if "authoritative" in case.harness.capabilities:
        count = sum(len(service.nodes) for service in listener.known())
        case.expect(listener.known() == services, f"a Snapshot of all {_RECORDS} nodes", f"one of {count} nodes")
    await listener.holds(*services)


@check(CHECKS, "watch.many", alone=True)
async def _many_watches(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    first, second = case.service(name, "a"), case.service(name, "b", port=9000)
    listeners: list[Listener] = []
    for start in range(0, _WATCHES, _AT_ONCE):
        names = [None if number % 10 == 0 else name for number in range(start, start + _AT_ONCE)]
        listeners += await asyncio.gather(*(case.watch(reader, each) for each in names))
    for record in (first, second):
        await writer.register(record, ttl=case.harness.ttl * 60)
        for listener in listeners:
            await listener.expect(Action.CREATE, record)
