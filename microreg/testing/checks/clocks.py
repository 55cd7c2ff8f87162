"""register: time to the second. Rounding, the default, wrong clocks, the moment of expiry, and clients that go."""

from __future__ import annotations

import asyncio
import inspect
from functools import partial

from microreg.events import Action
from microreg.model import Service
from microreg.registry import Layer, Registry
from microreg.rules import DEFAULT_TTL
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.testing.listener import Listener

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
_CLOCKS = 0.05


async def _lives(case: Case, listener: Listener, record: Service, began: float, ttl: float) -> None:
    """The next thing heard of the record is its delete: not before its ttl, not later than the grace."""
    within = began + ttl + case.harness.grace - case.time()
    await listener.expect(Action.DELETE, record, within=max(0.1, within))
    took = case.time() - began
    case.expect(took >= ttl - _CLOCKS, f"no expiry before {ttl:g} s", f"expired after {took:.3f} s")


@check(CHECKS, "register.rounds-up")
async def _rounds_up(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    record, ttl = case.service(name, "a"), case.harness.ttl + 0.9
    listener = await case.watch(reader, name)
    began = case.time()
    await writer.register(record, ttl=ttl)
    await listener.expect(Action.CREATE, record)
    await _lives(case, listener, record, began, ttl)


@check(CHECKS, "register.default-ttl")
async def _default_ttl(case: Case) -> None:
    registry: Registry = case.harness.connect()
    while True:
        default = inspect.signature(registry.register).parameters["ttl"].default
        what = f"ttl={DEFAULT_TTL:g} as the default of {type(registry).__name__}.register"
        case.expect(default == DEFAULT_TTL, what, default)
        if not isinstance(registry, Layer):
            break
        registry = registry.inner
    writer, reader, name = await case.client(), await case.client(), case.name()
    record, listener = case.service(name, "a"), await case.watch(reader, name)
    began = case.time()
    await writer.inner.register(record)
    await listener.expect(Action.CREATE, record)
    await case.shows(reader, name, record)
    if case.virtual:
        await _lives(case, listener, record, began, DEFAULT_TTL)
    await writer.deregister(record)


@check(CHECKS, "register.needs-no-clock", requires=("skew",))
async def _needs_no_clock(case: Case) -> None:
    reader, ttl = await case.client(), case.harness.ttl
    for seconds in (-3600.0, 3600.0):
        name = case.name()
        record = case.service(name, "a")
        listener = await case.watch(reader, name)
        async with case.faults.skew(seconds):
            writer = await case.client()
            began = case.time()
            await writer.register(record, ttl=ttl)
        await listener.expect(Action.CREATE, record)
        await case.shows(reader, name, record)
        await _lives(case, listener, record, began, ttl)


@check(CHECKS, "register.renews-at-expiry")
async def _renews_at_expiry(case: Case) -> None:
    """Many nodes, each renewed at another moment around its expiry."""
    writer, reader, name = await case.client(), await case.client(), case.name()
    ttl = case.harness.ttl
    records = [case.service(name, f"n{number}", port=8000 + number) for number in range(11)]
    listener = await case.watch(reader, name)

    async def renewed(record: Service, moment: float) -> None:
        began = case.time()
        await writer.register(record, ttl=ttl)
        await case.sleep_until(began + ttl + moment)
        async with asyncio.timeout(case.harness.patience):
            await writer.register(record, ttl=ttl * 60)

    try:
        async with asyncio.TaskGroup() as group:
            for number, record in enumerate(records):
                group.create_task(renewed(record, 0.01 * (number - 5)))
    except* TimeoutError:
        case.fail("a register that returns, at whatever moment", f"one hung for {case.harness.patience:g} s")
    await case.settle()
    whole = case.service(name, *(record.nodes[0].id for record in records))
    await case.shows(reader, name, *(await case.found(writer, name)))
    listed = {node.id for each in await case.found(reader, name) for node in each.nodes}
    case.expect(listed == {node.id for node in whole.nodes}, "every node that was renewed", sorted(listed))
    await listener.holds(*records)


@check(CHECKS, "register.outlives-client", requires=("authoritative",))
async def _outlives_client(case: Case) -> None:
    leaves, reader, name = await case.client(), await case.client(), case.name()
    stays, short, ttl = case.service(name, "stays"), case.service(name, "short", port=9000), case.harness.ttl
    listener = await case.watch(reader, name)
    await leaves.register(stays, ttl=ttl * 60)
    await listener.expect(Action.CREATE, stays)
    began = case.time()
    await leaves.register(short, ttl=ttl)
    await listener.expect(Action.CREATE, short)
    await leaves.close()
    try:
        await _lives(case, listener, short, began, ttl)
        await listener.quiet()
        for client in (reader, await case.client()):
            await case.shows(client, name, stays)
    finally:
        await reader.deregister(stays)


@check(CHECKS, "register.expires-unattended", requires=("process",))
async def _expires_unattended(case: Case) -> None:
    reader, name, ttl = await case.client(), case.name(), case.harness.ttl
    stays, dies = case.service(name, "stays", port=9000), case.service(name, "dies")
    listener = await case.watch(reader, name)
    await reader.register(stays)
    await listener.expect(Action.CREATE, stays)
    process = await case.process(dies, ttl)
    await listener.expect(Action.CREATE, dies)
    await process.kill()
    case.log("the process was killed")
    await listener.expect(Action.DELETE, dies, within=ttl + case.harness.grace)
    await case.shows(reader, name, stays)
    await case.until(partial(case.found, reader, name), lambda answer: answer == (stays,), "only the other node")
