"""``layout=go-micro``: one fleet with go-micro's programs. What they read and write, byte by byte.

go-micro's etcd registry keeps ``/micro/registry/<service>/<node id>``, each with its slashes replaced by hyphens; the
value is a Service in JSON with that one node. The vectors were written by go-micro v2.9.1 and by its current version.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest

from etcd_store import Raw
from following import Follower, following, found
from microreg import Endpoint, Node, Registry, Service, Status, Value, announce, connect
from microreg.codec import encode
from microreg.testing import CHECKS, Faults, Harness, contract, running
from microreg_etcd.layouts import GoMicro
from servers import etcd
from support import run

KEY = b"/micro/registry/greeter/greeter-1"
V2 = (
    b'{"name":"greeter","version":"1.0.0","metadata":{"team":"core"},"endpoints":[{"name":"Greeter.Hello","request":'
    b'{"name":"HelloRequest","type":"HelloRequest","values":[{"name":"name","type":"string","values":null}]},"response":'
    b'{"name":"HelloResponse","type":"HelloResponse","values":[{"name":"msg","type":"string","values":null}]},'
    b'"metadata":{}}],"nodes":[{"id":"greeter-1","address":"10.0.0.7:9090","metadata":{"protocol":"grpc","zone":"a"}}]}'
)
"""What go-micro v2.9.1 writes, and microreg."""
HEAD = (
    b'{"name":"greeter","version":"1.0.0","metadata":{"team":"core"},"endpoints":[{"request":'
    b'{"name":"HelloRequest","type":"HelloRequest","values":[{"name":"name","type":"string","values":null}]},"response":'
    b'{"name":"HelloResponse","type":"HelloResponse","values":[{"name":"msg","type":"string","values":null}]},'
    b'"metadata":{},"name":"Greeter.Hello"}],"nodes":[{"metadata":{"protocol":"grpc","zone":"a"},"id":"greeter-1",'
    b'"address":"10.0.0.7:9090"}]}'
)
"""The same of its current version, whose structs have another order."""
GREETER = Service(
    "greeter",
    "1.0.0",
    {"team": "core"},
    [
        Endpoint(
            "Greeter.Hello",
            Value("HelloRequest", "HelloRequest", (Value("name", "string"),)),
            Value("HelloResponse", "HelloResponse", (Value("msg", "string"),)),
        )
    ],
    [Node("10.0.0.7:9090", id="greeter-1", metadata={"protocol": "grpc", "zone": "a"})],
)

server = etcd()


class Written(Faults):
    """What others write. What happens to the server is the same in every layout: test_etcd_contract.py."""

    async def write_raw(self, name: str, id: str, data: bytes | None) -> None:
        key = GoMicro("").key(name, id)
        async with Raw(server.port) as raw:
            await (raw.delete(key) if data is None else raw.put(key, data))


harness = Harness(f"etcd://127.0.0.1:{server.port}?layout=go-micro", faults=Written(), ttl=2.0, grace=5, patience=10)

# These register nodes that are starting, critical or draining, which this layout does not write.
CANNOT_HOLD = {"register.publishes-changes", "register.round-trip", "watch.law"}

TestGoMicro = contract(
    harness,
    [check for check in CHECKS if check.requires <= harness.offers and check.id not in CANNOT_HOLD],
    around=lambda: running(server),
)


@pytest.fixture(scope="module", name="port")
def _port() -> Iterator[int]:
    with etcd() as fleet:
        yield fleet.port


@asynccontextmanager
async def fleet(port: int) -> AsyncGenerator[tuple[Registry, Raw, Follower]]:
    """An empty fleet: a registry in it, go-micro's hand in the store, and a watch of everything."""
    async with connect(f"etcd://127.0.0.1:{port}?layout=go-micro") as registry, Raw(port) as raw:
        await raw.delete(b"\0", b"\0")
        async with following(registry) as everything:
            yield registry, raw, everything


def with_node(**changes: object) -> Service:
    return GREETER.with_nodes(GREETER.nodes[0].replace(**changes))  # type: ignore[arg-type]


def json(name: str, *nodes: str, version: str = "1") -> bytes:
    listed = ",".join(f'{{"id":"{id}","address":"10.0.0.1:80","metadata":null}}' for id in nodes)
    return f'{{"name":"{name}","version":"{version}","metadata":null,"endpoints":null,"nodes":[{listed}]}}'.encode()


def records(name: str, *nodes: str, version: str = "1") -> Service:
    return Service(name, version, nodes=[Node("10.0.0.1:80", id=id) for id in nodes])


def test_the_checks_that_are_left_out_are_checks() -> None:
    assert CANNOT_HOLD <= {check.id for check in CHECKS}


def test_a_node_is_written_as_go_micro_writes_it(port: int) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, _):
            await registry.register(GREETER)
            [item] = await raw.get(b"\0", b"\0")
            assert (item.key, item.value) == (KEY, V2)
            assert item.lease
            await registry.deregister(GREETER)
            assert await raw.get(b"\0", b"\0") == []

    run(main())


@pytest.mark.parametrize("value", [V2, HEAD], ids=["v2.9.1", "current"])
def test_what_go_micro_writes_is_read(port: int, value: bytes) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, everything):
            await raw.put(KEY, value)
            await everything.hears("create greeter/greeter-1")
            assert await registry.get_service("greeter") == (GREETER,)
            assert everything.catalog.services("greeter") == (GREETER,)
            assert await registry.list_services() == ("greeter",)
            await raw.delete(KEY)
            await everything.hears("delete greeter/greeter-1")
            assert await registry.list_services() == ()

    run(main())


def test_null_stands_for_empty(port: int) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, everything):
            await raw.put(b"/micro/registry/foo/a", json("foo", "a"))
            await raw.put(b"/micro/registry/foo/b", b'{"name":"foo","version":"1","nodes":[null,{"id":"b"}]}')
            await raw.put(b"/micro/registry/foo/c", b'{"name":"foo","version":"","metadata":null,"nodes":null}')
            await everything.hears("create foo/a", "create foo/b")
            expected = Service("foo", "1", nodes=[Node("10.0.0.1:80", id="a"), Node("", id="b")])
            assert await registry.get_service("foo") == (expected,)
            await everything.agrees("foo")

    run(main())


def test_slashes_are_hyphens_in_keys_and_stay_in_names(port: int) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, everything):
            async with following(registry, "a/greeter") as one:
                await raw.put(b"/micro/registry/a-greeter/greeter-1", json("a/greeter", "greeter/1"))
                for each in (one, everything):
                    await each.hears("create a/greeter/greeter/1")
                    await each.agrees("a/greeter", "a-greeter")
                assert await registry.get_service("a/greeter") == (records("a/greeter", "greeter/1"),)
                assert await found(registry, "a-greeter") == ()
                assert await registry.list_services() == ("a/greeter",)
                await registry.deregister(records("a/greeter", "greeter/1"))
                for each in (one, everything):
                    await each.hears("delete a/greeter/greeter/1")

    run(main())


def test_of_two_nodes_that_share_a_key_the_last_one_stands_there(port: int) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, everything):
            ours, theirs = records("a-b", "x-1"), records("a/b", "x/1")
            async with following(registry, "a-b") as one, following(registry, "a/b") as other:
                watches = one, other, everything
                await registry.register(ours)
                await everything.hears("create a-b/x-1")
                await registry.deregister(theirs)
                assert await registry.get_service("a-b") == (ours,)
                await raw.put(b"/micro/registry/a-b/x-1", json("a/b", "x/1"))
                await everything.hears("create a/b/x/1", "delete a-b/x-1")
                for each in watches:
                    await each.agrees("a-b" if each is one else "a/b")
                await registry.deregister(ours)
                await registry.register(ours.with_nodes(ours.nodes[0].replace(status=Status.DRAINING)))
                assert await registry.get_service("a/b") == (theirs,)
                await registry.register(ours)
                await everything.hears("create a-b/x-1", "delete a/b/x/1")
                for each in watches:
                    await each.agrees("a/b" if each is other else "a-b")
                assert await found(registry, "a/b") == ()
                await registry.deregister(ours)
                await everything.hears("delete a-b/x-1")
                assert everything.catalog.names() == await registry.list_services() == ()

    run(main())


def test_ids_of_more_than_63_characters(port: int) -> None:
    async def main() -> None:
        id = "go.micro.srv.greeter-" + "0123456789abcdef" * 6
        async with fleet(port) as (registry, raw, everything):
            await raw.put(f"/micro/registry/greeter/{id}".encode(), json("greeter", id))
            await everything.hears(f"create greeter/{id}")
            assert await registry.get_service("greeter") == (records("greeter", id),)
            await registry.deregister(records("greeter", id))
            await everything.hears(f"delete greeter/{id}")

    run(main())


def test_a_key_with_several_nodes(port: int) -> None:
    async def main() -> None:
        key = b"/micro/registry/greeter/many"
        async with fleet(port) as (registry, raw, everything), following(registry, "greeter") as one:
            await raw.put(key, json("greeter", "a", "b"))
            await registry.register(records("greeter", "c"))
            for each in (one, everything):
                await each.hears(*(f"create greeter/{id}" for id in "abc"))
            assert await registry.get_service("greeter") == (records("greeter", "a", "b", "c"),)
            await raw.put(key, json("greeter", "b", "d", version="2"))
            await everything.hears("create greeter/d", "delete greeter/a", "update greeter/b")
            async with following(registry, "greeter") as late:
                await raw.delete(key)
                for each in (one, everything, late):
                    await each.until(lambda at: at.catalog.services("greeter") == (records("greeter", "c"),))
                    await each.agrees("greeter")

    run(main())


def test_changes_of_the_service_are_told(port: int) -> None:
    """go-micro itself writes only when a node changes; who reads what it writes then sees the service as it is."""

    async def main() -> None:
        async with fleet(port) as (registry, raw, everything):
            await raw.put(KEY, V2)
            await raw.put(KEY, HEAD)  # the same in another order is no change
            await raw.put(KEY, V2.replace(b"1.0.0", b"1.1.0"))
            await raw.put(KEY, V2.replace(b"1.0.0", b"1.1.0").replace(b"core", b"edge"))
            expected = Service("greeter", "1.1.0", {"team": "edge"}, GREETER.endpoints, GREETER.nodes)
            await everything.until(lambda at: at.catalog.services("greeter") == (expected,))
            assert everything.changes[0] == "create greeter/greeter-1"
            assert set(everything.changes[1:]) <= {"update greeter/greeter-1"} and len(everything.changes) <= 3
            await registry.register(GREETER)
            await everything.until(lambda at: at.catalog.services("greeter") == (GREETER,))
            [item] = await raw.get(KEY)
            assert item.value == V2
            await registry.register(Service("greeter", "2.0.0", {"team": "edge"}, nodes=GREETER.nodes))
            [item] = await raw.get(KEY)
            assert item.value == encode(Service("greeter", "2.0.0", {"team": "edge"}, nodes=GREETER.nodes))

    run(main())


@pytest.mark.parametrize("status", [Status.STARTING, Status.CRITICAL, Status.DRAINING])
def test_what_go_micro_must_not_call_is_not_there(port: int, status: Status) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, everything):
            ill = with_node(status=status)
            for _ in range(2):
                await registry.register(ill)
                assert await raw.get(b"\0", b"\0") == []
            await registry.register(GREETER)
            await everything.hears("create greeter/greeter-1")
            await registry.register(ill)
            await everything.hears("delete greeter/greeter-1")
            assert await raw.get(b"\0", b"\0") == []
            await registry.register(GREETER)
            await everything.hears("create greeter/greeter-1")
            assert await registry.get_service("greeter") == (GREETER,)
            await registry.register(ill)
            await registry.deregister(ill)
            assert await raw.get(b"\0", b"\0") == []

    run(main())


def test_a_warning_is_one_more_key(port: int) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, _):
            await registry.register(with_node(status=Status.WARNING))
            [item] = await raw.get(KEY)
            assert item.value == V2[:-3] + b',"status":"warning"}]}'
            assert await registry.get_service("greeter") == (with_node(status=Status.WARNING),)

    run(main())


def test_an_announcement_is_seen_while_it_can_be_called(port: int) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, everything):
            async with announce(registry, "greeter", address="10.0.0.1:80", id="a", ttl=10) as announcement:
                await announcement.wait_live(40)
                [item] = await raw.get(b"\0", b"\0")
                assert item.value == encode(Service("greeter", nodes=[Node("10.0.0.1:80", id="a")]))
                await everything.hears("create greeter/a")
                await announcement.update(status=Status.CRITICAL)
                await everything.hears("delete greeter/a")
                await announcement.update(status=Status.PASSING)
                await everything.hears("create greeter/a")
            await everything.hears("delete greeter/a")
            assert await raw.get(b"\0", b"\0") == []

    run(main())


def test_another_prefix(port: int) -> None:
    async def main() -> None:
        async with fleet(port) as (registry, raw, _), connect(f"etcd://127.0.0.1:{port}/x/y?layout=go-micro") as other:
            await other.register(GREETER)
            [item] = await raw.get(b"\0", b"\0")
            assert (item.key, item.value) == (b"/x/y/greeter/greeter-1", V2)
            assert await registry.list_services() == ()

    run(main())
