"""watch: what it tells, of whom, in which words, and that nothing is ever missing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from microreg.events import Action, Reason
from microreg.model import Node, Service, Status
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.testing.case import Case
from microreg.testing.check import Check, check
from microreg.testing.listener import Listener

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
_PUSHED = 0.2
_TRIES = 3


@check(CHECKS, "watch.snapshot-first")
async def _snapshot_first(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    known, unknown = case.service(case.name(), "a", "b"), case.name()
    empty = await case.watch(reader, unknown)
    case.expect(not empty.known(), "an empty Snapshot of an unknown name", empty.known())
    await writer.register(known)
    await case.shows(reader, known.name, known)
    for client in (writer, reader):
        for name in (known.name, None):
            listener = await case.watch(client, name)
            if "authoritative" in case.harness.capabilities:
                case.expect(listener.known() == (known,), "a Snapshot of what is there", listener.known())
            await listener.holds(known)
    created = case.service(unknown, "c")
    await writer.register(created)
    await empty.expect(Action.CREATE, created)


@check(CHECKS, "watch.no-gap")
async def _no_gap(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    records = [case.service(name, f"n{number}", port=8000 + number) for number in range(24)]
    written = asyncio.Event()

    async def write() -> None:
        for number, record in enumerate(records):
            await writer.register(record)
            await asyncio.sleep(0.002 * (number % 4))
        written.set()

    async def follow(delay: float) -> None:
        await asyncio.sleep(delay)
        async with case.listener(reader, name if delay else None) as listener:
            await listener.start()
            await written.wait()
            await listener.holds(*records)

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for number in range(8):
            group.create_task(follow(0.009 * number))


@check(CHECKS, "watch.one-name")
async def _one_name(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    watched, *others = (
        case.service(case.name(suffix), "a", port=8000 + number)
        for number, suffix in enumerate(("-foo", "-foo-bar", "-foo.bar", "-FOO", "-fo", "-foobar"))
    )
    for service in others[:3]:
        await writer.register(service)
    listener = await case.watch(reader, watched.name)
    case.expect(not listener.known(), f"a Snapshot of {watched.name} only", listener.known())
    for service in others:
        await writer.register(service)
    await writer.deregister(others[0])
    await listener.quiet()
    await writer.register(watched)
    await listener.expect(Action.CREATE, watched)
    await writer.deregister(others[1])
    await writer.deregister(watched)
    await listener.expect(Action.DELETE, watched)


@check(CHECKS, "watch.all-names")
async def _all_names(case: Case) -> None:
    writers = [await case.client(), await case.client()]
    reader = await case.client()
    versions = ("1", "", "", "2")
    services = [case.service(case.name(), "a", version=each, port=8000 + i) for i, each in enumerate(versions)]
    for number, service in enumerate(services[:2]):
        await writers[number].register(service)
        await case.shows(reader, service.name, service)
    listener = await case.watch(reader)
    await listener.holds(*services[:2])
    for number, service in enumerate(services[2:]):
        await writers[number].register(service)
        await listener.expect(Action.CREATE, service)
    for number, service in enumerate(services):
        await writers[number % 2].deregister(service)
        await listener.expect(Action.DELETE, service)


@check(CHECKS, "watch.actions")
async def _actions(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service = case.service(name, "a", metadata={"owner": "team-a"})
    warned = Service(name, "1.0", {"owner": "team-b"}, nodes=[Node("127.0.0.1:8000", id="a", status=Status.WARNING)])
    other = case.service(name, "b", port=9000)
    one, everything = await case.watch(reader, name), await case.watch(writer)
    for listener in (one, everything):
        case.expect(listener.watch.state == "live", "state 'live' once the Snapshot is there", listener.watch.state)
    steps = [
        (Action.CREATE, service, None),
        (Action.CREATE, other, None),
        (Action.UPDATE, warned, service),
        (Action.DELETE, warned, warned),
        (Action.CREATE, service, None),
        (Action.DELETE, other, other),
    ]
    for action, record, previous in steps:
        await (writer.deregister if action is Action.DELETE else writer.register)(record)
        for listener in (one, everything):
            await listener.expect(action, record, previous=previous)


@check(CHECKS, "watch.reasons", requires=("reasons",))
async def _reasons(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    listener = await case.watch(reader, name)
    for changed in (False, True):
        leaves = await _written(writer, listener, case.service(name, "leaves"), changed, DEFAULT_TTL)
        await writer.deregister(leaves)
        change = await listener.expect(Action.DELETE, leaves)
        case.expect(change.reason is Reason.DEREGISTERED, "the reason deregistered", change)
        dies = await _written(writer, listener, case.service(name, "dies"), changed, case.harness.ttl)
        change = await listener.expect(Action.DELETE, dies, within=case.harness.ttl + case.harness.grace)
        case.expect(change.reason is Reason.EXPIRED, "the reason expired", change)


async def _written(writer: Registry, listener: Listener, record: Service, changed: bool, ttl: float) -> Service:
    """The record as it was written last, for this ttl: once, or changed since."""
    await writer.register(record, ttl=DEFAULT_TTL if changed else ttl)
    await listener.expect(Action.CREATE, record)
    if not changed:
        return record
    (node,) = record.nodes
    other = record.with_nodes(Node(node.address, id=node.id, status=Status.WARNING))
    await writer.register(other, ttl=ttl)
    await listener.expect(Action.UPDATE, other, previous=record)
    return other


@check(CHECKS, "watch.pushes", requires=("push",))
async def _pushes(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    listener = await case.watch(reader, name)
    medians: list[float] = []
    for _ in range(_TRIES):  # a machine may be busy for a while
        medians.append(await _latency(case, writer, listener, name))
        if medians[-1] < _PUSHED:
            return
    case.fail(f"most changes heard within {_PUSHED:g} s of their register", f"medians of {medians} s")


async def _latency(case: Case, writer: Registry, listener: Listener, name: str) -> float:
    """The median of some changes, at random moments."""
    took: list[float] = []
    for _ in range(9):
        await case.sleep_until(case.time() + case.rng.uniform(0.0, 0.1))
        number = len(listener.changes)
        record = case.service(name, f"n{number}", port=8000 + number)
        await writer.register(record)
        began = case.time()
        await listener.expect(Action.CREATE, record)
        took.append(case.time() - began)
    return sorted(took)[len(took) // 2]


@check(CHECKS, "watch.coalesces")
async def _coalesces(case: Case) -> None:
    writer, reader, name = await case.client(), await case.client(), case.name()
    slow, quick = await case.watch(reader, name), await case.watch(reader, name)

    async def write(action: Action, id: str, port: int) -> Service:
        record = case.service(name, id, port=port)
        await (writer.deregister if action is Action.DELETE else writer.register)(record)
        previous = quick.catalog.get(name, id) if action is Action.UPDATE else None
        await quick.expect(action, record, previous=previous)
        return record

    for number, id in enumerate(("updated", "dropped", "replaced", "returned"), 1):
        await write(Action.CREATE, id, number)
    await slow.until(lambda: len(slow.changes) == 4, "four creates")
    before = {change.node.id: change.service for change in slow.changes}
    await write(Action.CREATE, "new", 11)
    new = await write(Action.UPDATE, "new", 12)
    await write(Action.CREATE, "brief", 13)
    await write(Action.DELETE, "brief", 13)
    await write(Action.UPDATE, "updated", 14)
    updated = await write(Action.UPDATE, "updated", 15)
    await write(Action.UPDATE, "dropped", 16)
    await write(Action.DELETE, "dropped", 16)
    await write(Action.DELETE, "replaced", 3)
    replaced = await write(Action.CREATE, "replaced", 17)
    await write(Action.DELETE, "returned", 4)
    await write(Action.CREATE, "returned", 4)
    end = await write(Action.CREATE, "end", 18)
    await case.settle()
    start = len(slow.changes)
    await slow.until(lambda: slow.catalog.get(name, "end") is not None, "a create of end")
    got = {change.node.id: (change.action, change.service, change.previous) for change in slow.changes[start:]}
    expected = {
        "new": (Action.CREATE, new, None),
        "updated": (Action.UPDATE, updated, before["updated"]),
        "dropped": (Action.DELETE, before["dropped"], before["dropped"]),
        "replaced": (Action.UPDATE, replaced, before["replaced"]),
        "end": (Action.CREATE, end, None),
    }
    once = len(got) == len(slow.changes) - start
    case.expect(once and got == expected, _RULES, slow.changes[start:])


_RULES = (
    "one change per node: create+update = create (new), create+delete = nothing (brief), update+update = update "
    "(updated), update+delete = delete (dropped), delete+create = update (replaced), or nothing if equal (returned)"
)


@check(CHECKS, "watch.drops-nothing")
async def _drops_nothing(case: Case) -> None:
    writers = [await case.client(), await case.client()]
    reader, name = await case.client(), case.name()
    listener = await case.watch(reader, name)
    everything = await case.watch(reader)
    kept: list[Service] = []
    for number in range(40):
        writer = writers[number % 2]
        record = case.service(name, f"n{number}", port=8000 + number)
        await writer.register(record)
        if number % 5 == 0:
            await writer.deregister(record)
        elif number % 3 == 0:
            kept.append(case.service(name, f"n{number}", port=9000 + number))
            await writer.register(kept[-1])
        else:
            kept.append(record)
    burst = [case.service(name, f"burst{number}", port=7000 + number) for number in range(60)]
    async with asyncio.TaskGroup() as group:
        for number, record in enumerate(burst):
            group.create_task(writers[number % 2].register(record))
    for follower in (listener, everything):
        await follower.holds(*kept, *burst)


@check(CHECKS, "watch.law")
async def _law(case: Case) -> None:
    writers = [await case.client(), await case.client()]
    names = [case.name() for _ in range(2)]
    early = await case.watch(writers[0])
    model: dict[tuple[str, str], Service] = {}
    for _round in range(3):
        for _ in range(15):
            await _random_write(case, writers, names, model)
        late = [await case.watch(writers[1], name) for name in names]
        for name, listener in zip(names, late, strict=True):
            records = [record for (owner, _), record in sorted(model.items()) if owner == name]
            await listener.holds(*records)
            await case.shows(writers[0], name, *listener.known())
        await early.holds(*model.values())


async def _random_write(
    case: Case, writers: Sequence[Registry], names: list[str], model: dict[tuple[str, str], Service]
) -> None:
    """A node belongs to one writer, so that the last write is known on every store."""
    name, number = case.rng.choice(names), case.rng.randrange(6)
    key = name, f"n{number}"
    writer = writers[number % len(writers)]
    known = model.get(key)
    if known is not None and case.rng.random() < 0.35:
        await writer.deregister(known)
        del model[key]
        return
    node = Node(f"10.0.0.{number + 1}:{case.rng.randrange(1, 4)}", id=key[1], status=case.rng.choice(list(Status)))
    model[key] = Service(name, case.rng.choice(("", "1", "2")), {"owner": case.rng.choice("ab")}, nodes=[node])
    await writer.register(model[key])
