"""register: that it is written, for everybody, whole, and under the right identity."""

from __future__ import annotations

import asyncio

from microreg.errors import RecordTooLarge
from microreg.events import Action
from microreg.model import Endpoint, Node, Service, Status, Value
from microreg.registry import Registry
from microreg.testing.case import Case
from microreg.testing.check import Check, check

__all__ = ["CHECKS"]

CHECKS: list[Check] = []

_NESTED = Value("Reply", "struct", (Value("items", "list", (Value("item", "string"),)), Value("größe", "int64")))


@check(CHECKS, "register.visible")
async def _visible(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service = case.service(name, "a")
    listener = await case.watch(reader, name)
    await writer.register(service)
    await listener.expect(Action.CREATE, service)
    await case.shows(reader, name, service)
    await case.shows(writer, name, service)
    await case.shows(await case.client(), name, service)


@check(CHECKS, "register.all-nodes")
async def _all_nodes(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service = case.service(name, "a", "b", "c", "d")
    listener = await case.watch(reader, name)
    await writer.register(service)
    await listener.holds(service)
    await case.shows(reader, name, service)


@check(CHECKS, "register.round-trip")
async def _round_trip(case: Case) -> None:
    writer, reader = await case.client(), await case.client()

    async def there_and_back(service: Service) -> None:
        listener = await case.watch(reader, service.name)
        await writer.register(service)
        await case.shows(reader, service.name, service)
        await listener.holds(service)

    async with asyncio.TaskGroup() as group:
        for service in _examples(case):
            group.create_task(there_and_back(service))


def _examples(case: Case) -> list[Service]:
    endpoints = [
        Endpoint("Greeter.Hello", Value("Request", "struct"), _NESTED, {"stream": "true", "empty": ""}),
        Endpoint("Greeter.Bare"),
        Endpoint("Greeter.Hello", metadata={"Owner": "a second one of this name"}),
    ]
    metadata = {
        "text": "grüße, 世界 🌍",
        "decomposed": "gru\u0308\u00dfe",  # not to be composed
        "empty": "",
        "blanks": "  \tat both ends \t ",
        "quote": "\"'\\<>&=;\n\t",
        "k.e-y_1": "=",
        "Mixed.Case": "MiXeD",
    }
    nodes = [
        Node("[2001:db8::1]:443", id="ipv6", metadata=metadata),
        Node("db-1.example.com:5432", id="named", metadata={"zone": "eu-1", "port.grpc": "9090"}),
        Node("DB-2.Example.com:5432", id="Named", metadata={"Zone": "EU", "zone": "eu"}),
        *(Node(f"10.1.2.3:{7000 + number}", id=f"is-{status}", status=status) for number, status in enumerate(Status)),
    ]
    if "authoritative" in case.harness.capabilities:  # others may tell the zone by which each reader reaches the link
        nodes.append(Node("[fe80::1%eth0]:80", id="zoned"))
    whole = [Service(case.name(), "1.2.3-rc.1+build.5", metadata, endpoints, [node]) for node in nodes]
    bare = Service(case.name(), nodes=[Node("10.0.0.1:1")])
    versions = [Service(case.name(), each, nodes=[Node("10.0.0.1:1")]) for each in ("1.0-RC.1", " 1 ", "u\u0308")]
    pairs = {f"key-{number}": f"value-{number}" for number in range(64)}
    many = Service(case.name(), "1", nodes=[Node("10.0.0.1:65535", id="many", metadata=pairs)])
    return [*whole, bare, *versions, many]


@check(CHECKS, "register.limits")
async def _limits(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.own((case.stem + "_." + "x" * 63)[: case.harness.longest_name])
    longest = Service(name, "v" * 255, nodes=[Node("10.0.0.1:1", id="I" * 30 + "._-" + "9" * 30)])
    await writer.register(longest, ttl=86_400)
    await case.shows(reader, name, longest)
    keys = {f"{'k' * 120}.{number}": "v" * 40 for number in range(8)}
    await _whole_or_refused(case, writer, reader, case.service(case.name(), "a", metadata=keys))
    for pairs in (2, 8, 16, 50):
        metadata = {f"key-{number}": "ü" * 512 for number in range(pairs)}
        await _whole_or_refused(case, writer, reader, case.service(case.name(), "a", metadata=metadata))


async def _whole_or_refused(case: Case, writer: Registry, reader: Registry, service: Service) -> None:
    try:
        await writer.register(service)
    except RecordTooLarge as error:
        told = f"size {error.size}, limit {error.limit}: {error}"
        case.expect(error.size > error.limit > 0, "RecordTooLarge says the size and a smaller limit, in bytes", told)
        await case.settle()
        await case.shows(reader, service.name)
    else:
        await case.shows(reader, service.name, service)


@check(CHECKS, "register.identity")
async def _identity(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    one, two = case.service(case.name(), "same"), case.service(case.name(), "same", port=8100)
    listener = await case.watch(reader)
    await writer.register(one)
    await listener.expect(Action.CREATE, one)
    await writer.register(two)
    await listener.expect(Action.CREATE, two)
    await case.shows(reader, one.name, one)
    await case.shows(reader, two.name, two)
    await writer.deregister(one)
    await listener.expect(Action.DELETE, one)
    await case.shows(reader, one.name)
    await case.shows(reader, two.name, two)


@check(CHECKS, "register.no-collision")
async def _no_collision(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    names = "-x", "-xy", "-x.y", "-x_y", "-x-y", "-x--y"
    ids = sorted(["yz", "z", "y.z", "y_z", "y-z", "1", "y1"])
    listener = await case.watch(reader)
    services = [case.service(case.name(name), *ids, port=8000 + 10 * number) for number, name in enumerate(names)]
    for service in services:
        await writer.register(service)
    await listener.holds(*services)
    for service in services:
        await case.shows(reader, service.name, service)
    await writer.deregister(services[0])
    await listener.holds(*services[1:])
    stem = case.own(f"{case.stem}-".ljust(case.harness.longest_name - 1, "x"))
    longest = [
        case.service(case.own(f"{stem}{end}"), *("i" * 62 + each for each in "abc"), port=9000 + ord(end))
        for end in "abc"
    ]
    for service in longest:
        await writer.register(service)
    await listener.holds(*services[1:], *longest)
    await writer.deregister(longest[0])
    for service in longest[1:]:
        await case.shows(reader, service.name, service)


@check(CHECKS, "register.moves-version")
async def _moves_version(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    old, new = case.service(name, "a", version="1.0"), case.service(name, "a", version="2.0")
    listener = await case.watch(reader, name)
    await writer.register(old)
    await listener.expect(Action.CREATE, old)
    await writer.register(new)
    await listener.expect(Action.UPDATE, new, previous=old)
    for client in (reader, writer):
        await case.shows(client, name, new)
    await writer.deregister(new)
    await listener.expect(Action.DELETE, new)
    await case.shows(reader, name)


@check(CHECKS, "register.versions")
async def _versions(case: Case) -> None:
    first, second, reader = await case.client(), await case.client(), await case.client()
    name = case.name()
    old, new = case.service(name, "a", version="1.0"), case.service(name, "b", "c", version="2.0", port=8100)
    bare = case.service(name, "d", version="", port=8200)
    listener = await case.watch(reader, name)
    await first.register(old)
    await second.register(new)
    await first.register(bare)
    await listener.holds(bare, old, new)
    await case.shows(reader, name, bare, old, new)


@check(CHECKS, "register.publishes-changes")
async def _publishes_changes(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    listener = await case.watch(reader, name)
    previous: Service | None = None
    for what, service in _stages(name).items():
        case.log(f"next: {what}")
        await writer.register(service)
        await listener.expect(Action.CREATE if previous is None else Action.UPDATE, service, previous=previous)
        await case.shows(reader, name, service)
        previous = service


def _stages(name: str) -> dict[str, Service]:
    """One thing changes at a time."""
    node, moved = Node("10.0.0.1:1000", id="a"), Node("10.0.0.2:1000", id="a")
    tagged = Node("10.0.0.2:1000", id="a", metadata={"zone": "eu-1"})
    ill = Node("10.0.0.2:1000", id="a", metadata={"zone": "eu-1"}, status=Status.CRITICAL)
    told = {"owner": "team-a"}
    hello, both = [Endpoint("Hello")], [Endpoint("Hello", Value("Request", "struct")), Endpoint("Bye")]
    return {
        "a first record": Service(name, "1", nodes=[node]),
        "another address": Service(name, "1", nodes=[moved]),
        "metadata of the node": Service(name, "1", nodes=[tagged]),
        "another status": Service(name, "1", nodes=[ill]),
        "metadata of the service": Service(name, "1", told, nodes=[ill]),
        "an endpoint": Service(name, "1", told, hello, nodes=[ill]),
        "types of endpoints": Service(name, "1", told, both, nodes=[ill]),
        "another version": Service(name, "2", told, both, nodes=[ill]),
        "fewer endpoints": Service(name, "2", told, hello, nodes=[ill]),
        "a changed value": Service(name, "2", {"owner": "team-b"}, hello, nodes=[ill]),
        "less of everything": Service(name, "2", nodes=[moved]),
    }
