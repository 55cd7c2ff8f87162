"""Watching: nothing is missed, whatever happens to the stream, the history or the store; nothing stays behind."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress

import pytest
from grpc.aio import Call

import microreg
from etcd_admin import Admin, metric, store_of
from etcd_store import EtcdFaults
from microreg import Node, Registry, Service
from microreg.catalog import Catalog
from microreg.codec import encode
from microreg.errors import RegistryTimeout, RegistryUnavailable
from microreg.events import Change, Event, Reason, Snapshot
from microreg.testing import Proxy, ServerProcess, running
from microreg.toolkit import in_thread
from microreg.watch import Watch
from microreg_etcd.failures import Compacted, failure
from microreg_etcd.position import Position
from microreg_etcd.store import Range
from microreg_etcd.stubs import rpc
from servers import etcd
from support import run, wait_until

server = etcd(flags=["--experimental-watch-progress-notify-interval=300ms"])
proxy = Proxy(server.port)
faults = EtcdFaults(server, proxy)


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with running(server, proxy):
        yield


@asynccontextmanager
async def opened(prefix: str) -> AsyncGenerator[tuple[Registry, Admin]]:
    """A registry in a folder of its own, and what writes past it."""
    url = f"etcd://127.0.0.1:{proxy.port}/{prefix}?timeout=10s"
    async with microreg.connect(url) as registry, Admin(server.port) as admin:
        yield registry, admin


def record(name: str, id: str, port: int = 80, **metadata: str) -> Service:
    return Service(name, nodes=[Node(f"10.0.0.1:{port}", id=id, metadata=metadata)])


def pair(prefix: str, service: Service) -> tuple[bytes, bytes]:
    """The key and the value of a record."""
    return f"/{prefix}/{service.name}/{service.nodes[0].id}".encode(), encode(service)


def span(prefix: str) -> Range:
    return f"/{prefix}/".encode(), f"/{prefix}0".encode()


async def told(events: Watch, count: int) -> list[tuple[str, str, str]]:
    """The next changes: what, of which node, at which port."""
    found: list[tuple[str, str, str]] = []
    async with asyncio.timeout(40):
        for _ in range(count):
            event = await anext(events)
            assert isinstance(event, Change)
            found.append((event.action.value, event.node.id, event.node.address.rpartition(":")[2]))
    return found


def ports(catalog: Catalog) -> dict[str, int]:
    """Where each node is."""
    return {node.id: node.port for service in catalog.services("s") for node in service.nodes}


async def fold(events: Watch, catalog: Catalog) -> None:
    async for event in events:
        catalog.apply(event)


async def read(registry: Registry, prefix: str) -> Position:
    """Where the reader of a whole prefix stands."""
    position = Position()
    async for _ in store_of(registry).pages(span(prefix), position=position):
        pass
    return position


@asynccontextmanager
async def resumed_later() -> AsyncGenerator[None]:
    """Streams break at once, and the one that is opened next is answered at the end only."""
    async with faults.black_hole():
        proxy.cut()
        yield


def watchers(server: ServerProcess) -> tuple[float, float]:
    """How many watches, and streams of watches, the server has."""
    return metric(server, "etcd_debugging_mvcc_watcher_total"), metric(server, "etcd_debugging_mvcc_watch_stream_total")


# -- what is told ------------------------------------------------------------------------------------------------------


def test_what_is_written_between_the_snapshot_and_the_stream_is_told() -> None:
    async def main() -> None:
        async with opened("gap") as (registry, admin), aclosing(registry.watch("s").source()) as changes:
            await admin.write([pair("gap", record("s", "a"))])
            first = await anext(changes)
            assert isinstance(first, Snapshot)
            assert [each.nodes[0].id for each in first.records] == ["a"]
            await admin.write([pair("gap", record("s", "b"))])
            await admin.delete(b"/gap/s/a")
            await admin.write([pair("gap", record("s", "b", 81))])
            heard: list[Event] = [await anext(changes) for _ in range(3)]
            assert [(e.action.value, e.node.id) for e in heard if isinstance(e, Change)] == [
                ("create", "b"),
                ("delete", "a"),
                ("create", "b"),
            ]

    run(main())


def test_watches_that_are_opened_while_others_write_miss_nothing() -> None:
    async def write(admin: Admin, done: asyncio.Event) -> None:
        number = 0
        while not done.is_set():
            number += 1
            await admin.write([pair("busy", record("s", f"n{number % 40}", 1 + number % 60_000))])
            if number % 3 == 0:
                await admin.delete(f"/busy/s/n{(number + 20) % 40}".encode())

    async def main() -> None:
        async with opened("busy") as (registry, admin), AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            done = asyncio.Event()
            writer = group.create_task(write(admin, done))
            catalogs: list[Catalog] = []
            readers: list[asyncio.Task[None]] = []
            for _ in range(20):
                events = await stack.enter_async_context(registry.watch("s"))
                catalogs.append(Catalog())
                readers.append(group.create_task(fold(events, catalogs[-1])))
                await wait_until(lambda: catalogs[-1].names(), 40)
            done.set()
            await writer
            truth = await registry.get_service("s")
            await wait_until(lambda: all(catalog.services("s") == truth for catalog in catalogs), 40)
            for reader in readers:
                reader.cancel()

    run(main())


def test_every_change_of_a_transaction_and_of_a_lease_is_told() -> None:
    async def main() -> None:
        async with opened("batch") as (registry, admin), registry.watch("s") as events:
            assert isinstance(await anext(events), Snapshot)
            await admin.write([pair("batch", record("s", id)) for id in "abc"])
            assert await told(events, 3) == [("create", id, "80") for id in "abc"]
            # Of the node ids that differ in nothing but the lease, all go in one revision.
            lease = await admin.grant(60)
            await admin.write([pair("batch", record("s", f"n{n}")) for n in range(50)], lease=lease)
            assert {id for _, id, _ in await told(events, 50)} == {f"n{n}" for n in range(50)}
            await admin.revoke(lease)
            gone = await told(events, 50)
            assert {(action, id) for action, id, _ in gone} == {("delete", f"n{n}") for n in range(50)}
            await admin.write([pair("batch", record("s", "a", 81)), pair("batch", record("s", "b", 82))])
            assert await told(events, 2) == [("update", "a", "81"), ("update", "b", "82")]

    run(main())


def test_a_large_snapshot_is_of_one_revision_while_others_write() -> None:
    """The first and the last key always change together, and stand on different pages."""

    async def write(admin: Admin, done: asyncio.Event) -> None:
        number = 0
        while not done.is_set():
            number += 1
            both = [pair("large", record("s", id, turn=str(number))) for id in ("a", "z")]
            await admin.write([*both, pair("large", record("s", f"m{number % 2500}", turn=str(number)))])

    def turns(services: tuple[Service, ...]) -> dict[str, str | None]:
        return {node.id: node.metadata.get("turn") for service in services for node in service.nodes}

    async def main() -> None:
        async with opened("large") as (registry, admin), asyncio.TaskGroup() as group:
            await admin.write([pair("large", record("s", f"m{n}")) for n in range(2500)])
            await admin.write([pair("large", record("s", id)) for id in ("a", "z")])
            done = asyncio.Event()
            writer = group.create_task(write(admin, done))
            seen: set[str | None] = set()
            for _ in range(5):
                found = turns(await registry.get_service("s"))
                assert len(found) == 2502
                assert found["a"] == found["z"]
                seen.add(found["a"])
            assert len(seen) > 1
            async with registry.watch("s") as events:
                catalog = Catalog()
                catalog.apply(await anext(events))
                assert turns(catalog.services("s"))["a"] == turns(catalog.services("s"))["z"]
                reader = group.create_task(fold(events, catalog))
                done.set()
                await writer
                truth = await registry.get_service("s")
                await wait_until(lambda: catalog.services("s") == truth, 40)
                reader.cancel()
                await asyncio.wait([reader])
            assert await registry.list_services() == ("s",)
            await admin.delete(*span("large"))

    run(main())


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_a_stream_that_breaks_while_it_catches_up_is_resumed_at_the_last_event() -> None:
    """The header of each response has the store's revision, far ahead of the events in it."""

    async def main() -> None:
        async with opened("catch") as (registry, admin):
            await admin.put(b"/catch/s/first", b"x")
            position = await read(registry, "catch")
            many = 3500
            for number in range(many):
                await admin.put(b"/catch/s/n%d" % (number % 7), b"%d:" % number + b"x" * 600)
            breaks = {number * 450 for number in range(1, 7)}
            opened_before = metric(server, "grpc_server_started_total", grpc_method="Watch")
            heard: list[int] = []
            async with aclosing(store_of(registry).events(span("catch"), position)) as changes:
                async for _, value in changes:
                    assert value is not None
                    heard.append(int(value.partition(b":")[0]))
                    if len(heard) in breaks:
                        proxy.cut()
                    if heard[-1] == many - 1:
                        break
            assert heard == list(range(many))
            assert metric(server, "grpc_server_started_total", grpc_method="Watch") - opened_before >= 3
            await admin.delete(*span("catch"))

    run(main())


def test_a_history_that_was_compacted_meanwhile_is_read_again_and_the_difference_told() -> None:
    async def main() -> None:
        async with opened("compact") as (registry, admin):
            await admin.write([pair("compact", record("s", f"n{n}")) for n in range(10)])
            async with registry.watch("s") as events:
                assert isinstance(await anext(events), Snapshot)
                async with resumed_later():
                    await admin.delete(b"/compact/s/n3")
                    await admin.write([pair("compact", record("s", "n5", 85)), pair("compact", record("s", "new"))])
                    await admin.write([pair("compact", record("s", "short"))])
                    await admin.delete(b"/compact/s/short")
                    await admin.compact()
                async with asyncio.timeout(40):
                    changes = [await anext(events) for _ in range(3)]
                assert {(e.action.value, e.node.id, e.reason) for e in changes if isinstance(e, Change)} == {
                    ("delete", "n3", Reason.LOST),
                    ("update", "n5", None),
                    ("create", "new", None),
                }
                assert isinstance(events.error, Compacted)
                await admin.write([pair("compact", record("s", "after"))])
                assert await told(events, 1) == [("create", "after", "80")]

    run(main())


async def resume(registry: Registry, position: Position, prefix: str) -> list[bytes]:
    """The keys in the first response of a stream that goes on from there after a break."""
    store = store_of(registry)
    responses = store._responses(store._client.endpoint, (), span(prefix), position, resumed=True)
    try:
        async with aclosing(responses), asyncio.timeout(40):
            async for response in responses:
                if response.events:
                    return [event.kv.key for event in response.events]
    except rpc.AioRpcError as error:
        raise failure(error, "the server") from error
    raise AssertionError("the stream ended")


async def advance(registry: Registry, position: Position, prefix: str, count: int) -> None:
    """Hear this many changes more. The position follows when the next one is asked for."""
    async with aclosing(store_of(registry).events(span(prefix), position)) as changes, asyncio.timeout(40):
        for _ in range(count):
            await anext(changes)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(changes)


def test_the_same_store_is_resumed_without_reading_it_again() -> None:
    async def main() -> None:
        async with opened("same") as (registry, admin):
            await admin.write([pair("same", record("s", "a"))], lease=await admin.grant(600))
            position = await read(registry, "same")
            await admin.write([pair("same", record("s", "b"))])
            assert await resume(registry, position, "same") == [b"/same/s/b"]
            await advance(registry, position, "same", 1)
            await admin.delete(b"/same/s/b")
            await admin.write([pair("other", record("s", "a"))])
            assert await resume(registry, position, "same") == [b"/same/s/b"]
            await advance(registry, position, "same", 1)
            await admin.write([pair("same", record("s", "c"))])
            assert await resume(registry, position, "same") == [b"/same/s/c"]  # its witness has been deleted
            await admin.compact()
            with pytest.raises(Compacted):
                await resume(registry, position, "same")

    run(main())


@pytest.mark.parametrize("further", [0, 300])
def test_a_store_that_was_wiped_is_not_resumed_even_when_its_revision_has_come_as_far(further: int) -> None:
    folder = f"wiped-{further}"

    async def main() -> None:
        async with opened(folder) as (registry, admin):
            for number in range(100):
                await admin.put(b"/elsewhere/%d" % (number % 9), b"")
            await admin.write([pair(folder, record("s", "a"))], lease=await admin.grant(600))
            position, nothing = await read(registry, folder), await read(registry, "nothing")
            async with AsyncExitStack() as stack:
                events = await stack.enter_async_context(registry.watch("s"))
                catalog = Catalog()
                catalog.apply(await anext(events))
                await in_thread(server.restart, wipe=True)
                async with Admin(server.port) as again:
                    await again.write([pair(folder, record("s", "a", 81))], lease=await again.grant(600))
                    await again.write([pair(folder, record("s", "b"))], lease=await again.grant(600))
                    for number in range(position.revision - 3 + further if further else 1):
                        await again.put(b"/elsewhere/%d" % (number % 9), b"")
                    assert (await again.revision() > position.revision) == bool(further)
                    async with asyncio.timeout(40):
                        while ports(catalog) != {"a": 81, "b": 80}:
                            catalog.apply(await anext(events))
                    for lost, prefix in ((position, folder), (nothing, "nothing")):
                        with pytest.raises(Compacted):
                            await resume(registry, lost, prefix)

    run(main())


def test_quiet_streams_follow_the_revision_so_that_a_compaction_does_not_hurt_them() -> None:
    """etcd tells how far it has come where nothing happens (progress notifications)."""

    async def main() -> None:
        async with opened("quiet") as (registry, admin):
            await admin.write([pair("quiet", record("s", "a"))])
            position = await read(registry, "quiet")
            before = position.revision
            async with aclosing(store_of(registry).events(span("quiet"), position)) as changes:
                waiting = asyncio.ensure_future(anext(changes))
                for number in range(50):
                    await admin.put(b"/elsewhere/%d" % number, b"")
                await wait_until(lambda: position.revision >= before + 50, 40)
                assert await admin.compact() == position.revision
                proxy.cut()
                await admin.write([pair("quiet", record("s", "b"))])
                assert (await waiting)[0] == b"/quiet/s/b"

    run(main())


# -- silence -----------------------------------------------------------------------------------------------------------


def test_a_black_hole_is_noticed_and_a_server_that_stood_still_has_lost_nothing() -> None:
    """Two servers, since both take their time."""
    other = etcd("etcd-2")

    async def swallowed(registry: Registry, events: Watch, admin: Admin) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with faults.black_hole():
            await admin.write([pair("silence", record("s", "b"))])
            await wait_until(lambda: events.state == "resyncing", timeout=20)
            assert loop.time() - begun <= 20
        assert await told(events, 1) == [("create", "b", "80")]

    async def frozen(events: Watch, admin: Admin) -> None:
        await in_thread(other.freeze)
        try:
            await asyncio.sleep(10)
        finally:
            await in_thread(other.thaw)
        await admin.write([pair("silence", record("s", "b"))])
        assert await told(events, 1) == [("create", "b", "80")]

    async def main() -> None:
        url = f"etcd://127.0.0.1:{other.port}/silence"
        async with (
            opened("silence") as (one, admin),
            microreg.connect(url) as two,
            Admin(other.port) as look,
            one.watch("s") as left,
            two.watch("s") as right,
            asyncio.TaskGroup() as group,
        ):
            for events in (left, right):
                assert isinstance(await anext(events), Snapshot)
            group.create_task(swallowed(one, left, admin))
            group.create_task(frozen(right, look))

    with other:
        run(main())


# -- what stays behind -------------------------------------------------------------------------------------------------


def held(error: BaseException | None) -> list[str]:
    """The frames through which an error, and what caused it, keep calls of gRPC: each call keeps its connection."""
    found: list[str] = []
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            kept = [name for name, value in frame.f_locals.items() if isinstance(value, Call)]
            found += [f"{frame.f_code.co_qualname}: {name}" for name in kept]
        error = error.__cause__ or error.__context__
    return found


def test_an_error_that_is_kept_keeps_no_call() -> None:
    """As ``watch.error`` is, for as long as the watch lives: the connections of calls that failed are let go."""

    async def main() -> None:
        async with opened("kept") as (registry, admin):
            position = await read(registry, "kept")
            for port in (80, 81):
                await admin.write([pair("kept", record("s", "a", port))])
            await admin.compact()
            with pytest.raises(Compacted) as compacted:
                async with aclosing(store_of(registry).events(span("kept"), position)) as changes:
                    await anext(changes)
            assert held(compacted.value) == []
        async with microreg.connect(f"etcd://127.0.0.1:{proxy.port}/kept?timeout=300ms") as registry:
            async with faults.black_hole():
                with pytest.raises(RegistryTimeout) as late:
                    await registry.get_service("s")
            assert held(late.value) == []
            proxy.refuse = True
            proxy.cut()
            try:
                with pytest.raises(RegistryUnavailable) as away:
                    await registry.get_service("s")
            finally:
                proxy.refuse = False
            assert held(away.value) == []

    run(main())


def test_watches_that_ended_are_gone_on_the_server_too() -> None:
    async def consume(watch: Watch) -> None:
        async with watch as events:
            async for _ in events:
                pass

    async def main() -> None:
        before = 0.0, 0.0
        await wait_until(lambda: watchers(server) == before, timeout=40, step=0.1)  # those of other tests are gone
        async with opened("ended") as (registry, _):
            tasks = [asyncio.create_task(consume(registry.watch("s"))) for _ in range(20)]
            early = [asyncio.create_task(consume(registry.watch("s"))) for _ in range(20)]
            await asyncio.sleep(0)
            for task in early:
                task.cancel()
            await wait_until(lambda: watchers(server) == (before[0] + 20, before[1] + 20), timeout=40, step=0.1)
            for task in tasks[:10]:
                task.cancel()
            await wait_until(lambda: watchers(server) == (before[0] + 10, before[1] + 10), timeout=40, step=0.1)
            async with AsyncExitStack() as stack:
                for _ in range(10):
                    await anext(await stack.enter_async_context(registry.watch("s")))
                await wait_until(lambda: watchers(server) == (before[0] + 20, before[1] + 20), timeout=40, step=0.1)
            await wait_until(lambda: watchers(server) == (before[0] + 10, before[1] + 10), timeout=40, step=0.1)
            await registry.close()
            await wait_until(lambda: watchers(server) == before, timeout=40, step=0.1)
            await asyncio.gather(*tasks, *early, return_exceptions=True)

    run(main())


def both(catalog: Catalog) -> bool:
    """Whether a and b are known of the one service."""
    [name] = catalog.names()
    return [node.id for each in catalog.services(name) for node in each.nodes] == ["a", "b"]


def test_five_hundred_watches_share_a_connection_and_survive_its_end() -> None:
    async def main() -> None:
        async with opened("crowd") as (registry, admin), AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            before = watchers(server)
            catalogs = [Catalog() for _ in range(500)]
            readers: list[asyncio.Task[None]] = []
            for number, catalog in enumerate(catalogs):
                events = await stack.enter_async_context(registry.watch(f"s{number % 50}"))
                readers.append(group.create_task(fold(events, catalog)))
            await wait_until(lambda: watchers(server)[0] - before[0] == 500, timeout=20, step=0.1)
            assert proxy.connections == 1
            await admin.write([pair("crowd", record(f"s{n}", "a")) for n in range(50)])
            await wait_until(lambda: all(catalog.names() for catalog in catalogs), timeout=40)
            proxy.cut()
            await admin.write([pair("crowd", record(f"s{n}", "b")) for n in range(50)])
            await wait_until(lambda: all(map(both, catalogs)), timeout=20, step=0.1)
            await wait_until(lambda: watchers(server)[0] - before[0] == 500, timeout=40, step=0.1)
            await wait_until(lambda: proxy.connections == 1, 40)
            for reader in readers:
                reader.cancel()

    run(main())
