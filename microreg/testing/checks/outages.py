"""What happens while the store is away, and when it is back. These need a harness with faults."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

from microreg.errors import RegistryUnavailable, ServiceNotFound
from microreg.events import Action, Reason
from microreg.testing.case import Case, Client
from microreg.testing.check import Check, check
from microreg.testing.listener import Listener

__all__ = ["CHECKS", "register_when_back"]

CHECKS: list[Check] = []
_SILENCE = 20.0
_BACKOFF = 10.0
"""Seconds that a Watch waits at most before it tries again."""


@check(CHECKS, "general.open-needs-no-server", requires=("kill",))
async def _open_needs_no_server(case: Case) -> None:
    witness, name = await case.client(), case.name()
    service = case.service(name, "a")
    async with case.faults.down():
        client = await case.client()
        await _all_unavailable(case, client, name)
    await register_when_back(case, client, name)
    await case.shows(witness, name, service)


@check(CHECKS, "general.unavailable", requires=("kill",))
async def _unavailable(case: Case) -> None:
    client, witness, name = await case.client(), await case.client(), case.name()
    service = case.service(name, "a")
    await client.register(service, ttl=case.harness.ttl * 60)
    await case.shows(witness, name, service)
    async with case.faults.down():
        for each in (client, witness):
            await case.until(partial(_is_away, each, name), bool, "RegistryUnavailable once the store is away")
            await _all_unavailable(case, each, name)
    await register_when_back(case, client, name)
    for each in (client, witness):
        await case.shows(each, name, service)


async def _all_unavailable(case: Case, client: Client, name: str) -> None:
    service = case.service(name, "a")
    await case.raises(RegistryUnavailable, lambda: client.register(service), "register while the store is away")
    await case.raises(RegistryUnavailable, lambda: client.get_service(name), "get_service while the store is away")
    await case.raises(RegistryUnavailable, client.list_services, "list_services while the store is away")
    await case.raises(RegistryUnavailable, lambda: client.deregister(service), "deregister while the store is away")


async def _is_away(client: Client, name: str) -> bool:
    try:
        await client.get_service(name)
    except RegistryUnavailable:
        return True
    return False


async def register_when_back(case: Case, client: Client, name: str) -> None:
    """Call register until it is answered: calling again is always right."""

    async def answered() -> bool:
        try:
            await client.register(case.service(name, "a"))
        except RegistryUnavailable:
            return False
        return True

    await case.until(answered, bool, "register works again when the store is back")


@check(CHECKS, "general.own-errors", requires=("kill",))
async def _own_errors(case: Case) -> None:
    client, witness, name = await case.client(), await case.client(), case.name()
    service = case.service(name, "a")
    heard: list[Exception] = []
    over = asyncio.Event()
    verbs: list[Callable[[], Awaitable[object]]] = [
        partial(client.inner.register, service),
        partial(client.inner.get_service, name),
        client.inner.list_services,
        partial(client.inner.deregister, case.service(name, "b")),
    ]

    async def call(verb: Callable[[], Awaitable[object]]) -> None:
        while not over.is_set():
            try:
                await verb()
            except Exception as error:
                heard.append(error)
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        for verb in verbs * 3:
            group.create_task(call(verb))
        await case.settle()
        async with case.faults.down():
            await case.until(lambda: _is_away(client, name), bool, "RegistryUnavailable once the store is away")
            await case.settle()
        await register_when_back(case, client, name)
        over.set()
    wrong = [error for error in heard if not isinstance(error, RegistryUnavailable | ServiceNotFound)]
    case.expect(not wrong, "RegistryUnavailable, and no other error", wrong[:3])
    case.expect(all(map(str, heard)), "errors that say something", "an empty text")
    await case.shows(witness, name, service)


@check(CHECKS, "watch.resyncs", requires=("kill",))
async def _resyncs(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    ttl = case.harness.ttl
    stays, dies, comes = (case.service(name, id) for id in ("stays", "dies", "a"))
    one, everything = await case.watch(reader, name), await case.watch(reader)
    await writer.register(stays, ttl=ttl * 60)
    await writer.register(dies, ttl=ttl)
    for listener in (one, everything):
        await listener.holds(stays, dies)
    async with case.faults.down():
        for listener in (one, everything):
            await _state(case, listener, "resyncing", case.harness.patience)
            error = listener.watch.error
            case.expect(isinstance(error, RegistryUnavailable), "the error RegistryUnavailable", repr(error))
        late = case.listener(reader, name)
        await late.__aenter__()
        await case.sleep_until(case.time() + ttl)
    await register_when_back(case, writer, name)
    try:
        within = case.harness.patience + _BACKOFF
        await late.start(within)
        for listener in (one, everything, late):
            await _state(case, listener, "live", within)
            await listener.holds(stays, comes, within=case.harness.patience + ttl + case.harness.grace)
    finally:
        await late.watch.close()
    again = [change for change in one.changes if change.node.id == "stays" and change.action is not Action.CREATE]
    case.expect(not again, "no event of the node that stayed", again)


async def _state(case: Case, listener: Listener, wanted: Literal["live", "resyncing"], within: float) -> None:
    async def state() -> str:
        return listener.watch.state

    await case.until(state, lambda now: now == wanted, f"a watch that is {wanted}", within)


@check(CHECKS, "watch.tells-what-was-lost", requires=("wipe",))
async def _tells_what_was_lost(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    lost, back = case.service(name, "lost"), case.service(name, "back", port=9000)
    one, everything = await case.watch(reader, name), await case.watch(reader)
    await writer.register(lost)
    await writer.register(back)
    for listener in (one, everything):
        await listener.holds(lost, back)
    await case.faults.wipe()
    for listener in (one, everything):
        await listener.holds(within=case.harness.patience + _BACKOFF)
        reasons = {change.reason for change in listener.changes if change.action is Action.DELETE}
        case.expect(reasons <= {Reason.LOST, Reason.REMOVED}, "the reason lost or removed", sorted(map(str, reasons)))
    await writer.register(back)
    for listener in (one, everything):
        await listener.expect(Action.CREATE, back, within=case.harness.patience + _BACKOFF)
    await case.shows(reader, name, back)


@check(CHECKS, "watch.notices-silence", requires=("black_hole",))
async def _notices_silence(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    service = case.service(name, "a")
    listener = await case.watch(reader, name)
    await writer.register(service, ttl=case.harness.ttl * 60)
    await listener.expect(Action.CREATE, service)
    async with case.faults.black_hole():
        await _state(case, listener, "resyncing", _SILENCE)
    await _state(case, listener, "live", case.harness.patience + _SILENCE + _BACKOFF)
    await listener.holds(service)
