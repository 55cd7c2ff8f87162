"""get_service and list_services: exact, sorted, and honest about what they do not know."""

from __future__ import annotations

import asyncio
from functools import partial

from microreg.errors import ServiceNotFound
from microreg.model import Endpoint, Node, Service
from microreg.registry import Registry
from microreg.testing.case import Case
from microreg.testing.check import Check, check

__all__ = ["CHECKS"]

CHECKS: list[Check] = []

_WAIT = 0.09
"""Seconds. Who waits for the sake of waiting waits for a tenth."""
_SUFFIXES = ("-Foo", "-Foo-bar", "-Foo.bar", "-Foo_bar", "-Foobar", "-foo", "-FOO", "-F", "-Foo.bar-bar")


@check(CHECKS, "get.exact-name")
async def _exact_name(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    services = [
        case.service(case.name(suffix), "same", port=8000 + 10 * number) for number, suffix in enumerate(_SUFFIXES)
    ]
    for service in services:
        await writer.register(service)
    async with asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(case.shows(reader, service.name, service))
        for suffix in ("-Fo", "-Foo-", "-Foo-ba", "-fOO", "-Foo.bar-"):
            group.create_task(case.shows(reader, case.name(suffix)))
    await writer.deregister(services[0])
    await case.shows(reader, services[0].name)
    for service in services[1:]:
        await case.shows(reader, service.name, service)


@check(CHECKS, "get.sorted")
async def _sorted(case: Case) -> None:
    writers = [await case.client(), await case.client()]
    reader = await case.client()
    name = case.name()
    ids = {"1.0": ["a", "b", "z"], "1.10": ["c", "d"], "1.2": ["A", "m", "x-1"], "": ["0"]}
    nodes = {id: Node(f"10.0.0.1:{1000 + ord(id[0])}", id=id) for group in ids.values() for id in group}
    records = [Service(name, version, nodes=[nodes[id]]) for version in ids for id in ids[version]]
    case.rng.shuffle(records)
    for number, record in enumerate(records):
        await writers[number % 2].register(record)
    listener = await case.watch(reader, name)
    await listener.holds(*records)
    expected = tuple(Service(name, each, nodes=[nodes[id] for id in sorted(ids[each])]) for each in sorted(ids))
    for client in (*writers, reader):
        await case.shows(client, name, *expected)


@check(CHECKS, "get.smallest-node-speaks")
async def _smallest_node_speaks(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    for order in ("bac", "abc", "cba"):
        name = case.name()
        for id in order:
            said = Service(name, "1", {"said-by": id}, [Endpoint(f"Of.{id}")], [Node(f"10.0.0.1:{ord(id)}", id=id)])
            await writer.register(said)
        nodes = [Node(f"10.0.0.1:{ord(id)}", id=id) for id in "abc"]
        await case.shows(reader, name, Service(name, "1", {"said-by": "a"}, [Endpoint("Of.a")], nodes))
        await writer.deregister(case.service(name, "a"))
        await case.shows(reader, name, Service(name, "1", {"said-by": "b"}, [Endpoint("Of.b")], nodes[1:]))


@check(CHECKS, "get.not-found")
async def _not_found(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    known = case.service(case.name(), "a")
    await writer.register(known)
    await case.shows(reader, known.name, known)
    authoritative = "authoritative" in case.harness.capabilities
    for client in (writer, reader):
        name = case.name()
        error = await case.raises(ServiceNotFound, partial(client.get_service, name), "get_service")
        said = error.authoritative
        case.expect(said is authoritative, f"authoritative={authoritative}", repr(said))
        case.expect(error.name == name, f"an error that names {name}", error.name)


@check(CHECKS, "get.complete")
async def _complete(case: Case) -> None:
    writers = [await case.client() for _ in range(3)]
    name = case.name()
    for number in range(9):
        await writers[number % 3].register(case.service(name, f"n{number}", port=8000 + number))
    whole = case.service(name, *(f"n{number}" for number in range(9)))
    await case.shows(writers[0], name, whole)
    await case.settle()
    for askers in (1, 8):

        async def first(askers: int = askers) -> list[tuple[Service, ...]]:
            """What a new client is told; where answers come as packets, a busy machine may lose one, so ask several."""
            fresh = await case.client()
            return await asyncio.gather(*(case.found(fresh, name) for _ in range(askers)))

        everybody = [(whole,)] * askers
        await case.until(first, everybody.__eq__, f"all 9 nodes for each of {askers} that ask a new client")


@check(CHECKS, "get.prompt", requires=("authoritative",))
async def _prompt(case: Case) -> None:
    client, known, unknown = await case.client(), case.service(case.name(), "a"), case.name()
    await client.register(known)
    await case.shows(client, known.name, known)
    for name in (known.name, unknown):
        took: list[float] = []
        for _ in range(9):
            began = case.time()
            await case.found(client, name)
            took.append(case.time() - began)
        case.expect(min(took) < _WAIT, f"an answer of 9 within {_WAIT:g} s", f"the quickest took {min(took):.3f} s")


@check(CHECKS, "list.sorted")
async def _list_sorted(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    names = [case.name(suffix) for suffix in ("-b", "-B", "-a", "-a-1", "-a.1", "-c")]
    for name in names:
        await writer.register(case.service(name, "x", "y"))
        await case.shows(reader, name, case.service(name, "x", "y"))
    for client in (writer, reader):
        listed = await client.list_services()
        case.expect(list(listed) == sorted(set(listed)), "names, sorted, each once", listed)
        case.expect(isinstance(listed, tuple), "a tuple", type(listed).__name__)


@check(CHECKS, "list.complete", requires=("complete_list",))
async def _list_complete(case: Case) -> None:
    writers = [await case.client(), await case.client()]
    reader = await case.client()
    names = sorted(case.name(suffix) for suffix in ("-b", "-B", "-a", "-a-1", "-a.1"))
    for number, name in enumerate(names):
        await writers[number % 2].register(case.service(name, "x"))
    for client in (*writers, reader):
        await _lists(case, client, *names)


@check(CHECKS, "list.no-empty-names")
async def _list_no_empty_names(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    left, expired, stays = (case.service(case.name(), "a") for _ in range(3))
    listener = await case.watch(reader)
    for service in (left, stays):
        await writer.register(service)
    await writer.register(expired, ttl=case.harness.ttl)
    await listener.holds(left, stays, expired)
    await writer.deregister(left)
    await listener.holds(stays, within=case.harness.ttl + case.harness.grace)
    for client in (writer, reader):
        for service in (left, expired):
            await case.shows(client, service.name)
        for name in (left.name, expired.name):
            await case.until(client.list_services, partial(_lacks, name), f"a list without {name}")


def _lacks(name: str, listed: tuple[str, ...]) -> bool:
    return name not in listed


async def _lists(case: Case, client: Registry, *expected: str) -> None:
    """Wait until exactly these of the check's own names are listed."""

    async def own() -> tuple[str, ...]:
        return tuple(name for name in await client.list_services() if name.startswith(case.stem))

    await case.until(own, lambda listed: listed == expected, f"a list with {', '.join(expected)}")
