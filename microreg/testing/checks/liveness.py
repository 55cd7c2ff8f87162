"""register: how long a record lives, what renews it, and what brings it back."""

from __future__ import annotations

from microreg.events import Action, Reason
from microreg.model import Service
from microreg.registry import Registry
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.testing.listener import Listener

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
_CLOCKS = 0.05
_TRIES = 4


@check(CHECKS, "register.renewal-is-no-event")
async def _renewal_is_no_event(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service, other = case.service(name, "a"), case.service(name, "a", port=9000)
    one, everything = await case.watch(reader, name), await case.watch(reader)
    await writer.register(service)
    for listener in (one, everything):
        await listener.expect(Action.CREATE, service)
    for ttl in (15.0, 15.0, 20.0):
        await writer.register(case.service(name, "a"), ttl=ttl)
        await one.quiet(case.harness.settle / 2)
    await everything.quiet()
    await writer.register(other)
    for listener in (one, everything):
        await listener.expect(Action.UPDATE, other, previous=service)


@check(CHECKS, "register.renews")
async def _renews(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    ttl = case.harness.ttl
    name, longer, shorter = case.name(), case.name(), case.name()
    listener = await case.watch(reader, name)
    first = case.service(name, "a")
    prolonged, curtailed = case.service(longer, "a"), case.service(shorter, "a")
    await writer.register(prolonged, ttl=ttl)
    await writer.register(prolonged, ttl=ttl * 60)
    await writer.register(curtailed, ttl=ttl * 60)
    await writer.register(curtailed, ttl=ttl)
    for _ in range(_TRIES):
        if await _kept_alive(case, writer, first, ttl * 1.7):
            break
        await listener.holds()
    else:
        case.log("this machine is too busy to renew in time; nothing can be said")
        return
    await listener.holds(first)
    changes = [change for change in listener.changes if change.action is Action.DELETE]
    case.expect(not changes, "a record that is renewed at half of its ttl stays", changes)
    await case.shows(reader, name, first)
    await case.shows(reader, longer, prolonged)
    await case.shows(reader, shorter)


@check(CHECKS, "register.renews-changed")
async def _renews_changed(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    ttl = case.harness.ttl
    for _ in range(_TRIES):
        name = case.name()
        before, after = case.service(name, "a"), case.service(name, "a", port=9000)
        began = case.time()
        await writer.register(before, ttl=ttl)
        await case.sleep_until(began + ttl * 0.6)
        changed = case.time()
        await writer.register(after, ttl=ttl)
        await case.shows(reader, name, after)
        await case.sleep_until(began + ttl * 1.3)
        answer = await case.found(reader, name)
        if case.time() < changed + ttl:
            case.expect(answer == (after,), "a record that was changed lives for a ttl from then on", answer)
            return
    case.log("this machine is too busy to ask in time; nothing can be said")


async def _kept_alive(case: Case, writer: Registry, service: Service, seconds: float) -> bool:
    """Renew at half of the shortest ttl. False where a renewal came too late by our own fault."""
    ttl = case.harness.ttl
    end = case.time() + seconds
    last = case.time()
    while True:
        await writer.register(service, ttl=ttl)
        if case.time() - last > ttl * 0.8:
            return False
        if case.time() >= end:
            return True
        last = case.time()
        await case.sleep_until(min(end, last + ttl / 2))


@check(CHECKS, "register.expires")
async def _expires(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    short, longer = case.service(name, "short"), case.service(name, "longer", port=8500)
    stays, ttl = case.service(name, "stays", port=9000), case.harness.ttl
    longest = ttl * 1.5 + case.harness.grace  # so that 'short' goes first, however late
    listener, everything = await case.watch(reader, name), await case.watch(writer)
    await writer.register(stays)
    await listener.expect(Action.CREATE, stays)
    began = case.time()
    for record, seconds in ((longer, longest), (short, ttl)):
        await writer.register(record, ttl=seconds)
        await listener.expect(Action.CREATE, record)
    await _expect_expiry(case, listener, short, began, ttl)
    await _expect_expiry(case, listener, longer, began, longest)
    await everything.holds(stays)
    await case.shows(reader, name, stays)
    await case.shows(writer, name, stays)


async def _expect_expiry(case: Case, listener: Listener, record: Service, began: float, ttl: float) -> None:
    """A delete, not before the ttl and not later than the grace."""
    within = began + ttl + case.harness.grace - case.time()
    change = await listener.expect(Action.DELETE, record, within=max(0.1, within))
    took = case.time() - began
    case.expect(took >= ttl - _CLOCKS, f"no expiry before {ttl:g} s", f"expired after {took:.3f} s")
    if "reasons" in case.harness.capabilities:
        case.expect(change.reason is Reason.EXPIRED, "the reason expired", change)


@check(CHECKS, "register.only-register-renews")
async def _only_register_renews(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    ttl, grace = case.harness.ttl, case.harness.grace
    name = case.name()
    alone, sibling = case.service(name, "alone"), case.service(name, "sibling", port=9000)
    leaves = case.service(name, "leaves", port=9100)
    began = case.time()
    await writer.register(alone, ttl=ttl)
    await writer.register(leaves, ttl=ttl * 10)
    await writer.deregister(leaves)
    while True:
        await writer.register(sibling, ttl=ttl * 10)
        answers = [await case.found(client, name) for client in (writer, reader)]
        await writer.list_services()
        if all(answer == (sibling,) for answer in answers):
            return
        if case.time() > began + ttl + grace:
            seen = {node.id for answer in answers for each in answer for node in each.nodes}
            case.expect("alone" not in seen, f"'alone' is gone {ttl + grace:g} s after its only register", answers)
            break
        await case.sleep_until(case.time() + ttl / 5)
    for client in (writer, reader):
        await case.shows(client, name, sibling)


@check(CHECKS, "register.restores-expired")
async def _restores_expired(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service = case.service(name, "a", "b")
    listener = await case.watch(reader, name)
    await writer.register(service, ttl=case.harness.ttl)
    await listener.holds(service)
    await listener.holds(within=case.harness.ttl + case.harness.grace)
    await writer.register(service)
    await listener.holds(service)
    await case.shows(reader, name, service)
    await listener.quiet()


@check(CHECKS, "register.restores-deregistered")
async def _restores_deregistered(case: Case) -> None:
    owner, other, reader = await case.client(), await case.client(), await case.client()
    name = case.name()
    service = case.service(name, "a")
    listener = await case.watch(reader, name)
    await owner.register(service)
    await listener.expect(Action.CREATE, service)
    await other.deregister(service)
    await case.settle()
    for _ in range(2):
        await owner.register(service)
        await case.settle()
    await case.shows(reader, name, service)
    await listener.holds(service)


@check(CHECKS, "register.restores-forgotten", requires=("wipe",))
async def _restores_forgotten(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service = case.service(name, "a", "b")
    listener = await case.watch(reader, name)
    await writer.register(service)
    await listener.holds(service)
    await case.faults.wipe()
    await case.shows(reader, name)
    await writer.register(service)
    await case.shows(reader, name, service)
    await listener.holds(service, within=case.harness.patience + 10)
