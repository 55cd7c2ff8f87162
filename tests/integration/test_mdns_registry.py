"""mdns://127.0.0.1 between registries of one process: everything that is told arrives, once, and ends."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from microreg import connect
from microreg.backends.mdns import MdnsRegistry
from microreg.catalog import Catalog
from microreg.errors import InvalidService, RecordTooLarge, RegistryClosed, ServiceNotFound
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Endpoint, Node, Service, Status, Value
from microreg.registry import Registry
from microreg.watch import Watch
from support import run, wait_until

pytestmark = pytest.mark.usefixtures("alone")

URL = "mdns://127.0.0.1"
QUICK = f"{URL}?settle=80ms"
"""For watches that begin with nothing: a snapshot that comes too early is as right as any."""


def unique(name: str = "svc") -> str:
    """A name of our own: other tests run on the same loopback."""
    return f"{name}-{os.urandom(5).hex()}"


def service(name: str, id: str = "a", port: int = 8080, version: str = "1", **metadata: str) -> Service:
    return Service(name, version, nodes=[Node(f"127.0.0.1:{port}", id=id, metadata=metadata)])


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@asynccontextmanager
async def two(url: str = URL) -> AsyncGenerator[tuple[Registry, Registry]]:
    async with connect(url) as one, connect(url) as other:
        yield one, other


async def after(events: Watch, timeout: float = 30.0) -> Event:
    async with asyncio.timeout(timeout):
        return await anext(events)


async def change(events: Watch, timeout: float = 30.0) -> Change:
    event = await after(events, timeout)
    assert isinstance(event, Change)
    return event


async def absent(registry: Registry, name: str) -> bool:
    try:
        await registry.get_service(name)
    except ServiceNotFound as error:
        assert not error.authoritative
        return True
    return False


def test_everything_survives_the_round_trip() -> None:
    name = unique("Round.Trip")
    tree = Value("Request", "object", (Value("name", "string"), Value("tags", "list", (Value("", "string"),))))
    full = Service(
        name,
        "1.2 beta é",
        {"team": "ä", "empty": ""},
        [Endpoint("say.hello", tree, None, {"stream": "true"})],
        [
            Node("127.0.0.1:1", id="A", metadata={"zone": "eu", "port.grpc": "99"}, status=Status.WARNING),
            Node("[::1]:65535", id="b", metadata={"note": "x" * 1000}),
            Node("db.internal:80", id="c", status=Status.DRAINING),
        ],
    )

    async def main() -> None:
        async with two() as (one, other):
            await one.register(full)
            assert await other.get_service(name) == (full,)
            assert await one.get_service(name) == (full,)
            assert name in await other.list_services()

    run(main())


def test_several_services_versions_and_nodes() -> None:
    first, second = unique(), unique()
    both = [service(first, "a", 1, "1"), service(first, "b", 2, "2"), service(second, "a", 3)]

    async def main() -> None:
        async with two() as (one, other):
            await asyncio.gather(*(one.register(each) for each in both))
            assert await other.get_service(first) == tuple(both[:2])
            assert await other.get_service(second) == (both[2],)
            assert {first, second} <= set(await other.list_services())

    run(main())


def test_names_that_share_a_subtype_stay_apart() -> None:
    name = unique("a.b")
    alike = [name, name.replace(".", "-"), name.upper()]

    async def main() -> None:
        async with two() as (one, other):
            for port, each in enumerate(alike, 1):
                await one.register(service(each, port=port))
            for port, each in enumerate(alike, 1):
                assert await other.get_service(each) == (service(each, port=port),)

    run(main())


def test_a_watch_hears_of_all_that_happens() -> None:
    name = unique()

    async def main() -> None:
        async with two(QUICK) as (one, other), other.watch(name) as events:
            assert await after(events) == Snapshot()
            await one.register(service(name, port=1))
            created = await change(events)
            assert (created.action, created.service) == (Action.CREATE, service(name, port=1))
            await one.register(service(name, port=2, version="2"))
            updated = await change(events)
            assert (updated.action, updated.service) == (Action.UPDATE, service(name, port=2, version="2"))
            assert updated.previous == created.service
            await one.deregister(service(name))
            gone = await change(events)
            assert (gone.action, gone.reason) == (Action.DELETE, Reason.DEREGISTERED)
            await one.register(service(name, port=3))
            assert (await change(events)).action is Action.CREATE
            assert await other.get_service(name) == (service(name, port=3),)

    run(main())


CHANGES: dict[str, tuple[dict[str, Any], ...]] = {
    "status": ({"status": Status.WARNING}, {"status": Status.CRITICAL}, {"status": Status.PASSING}),
    "metadata": ({"metadata": {"k": "1"}}, {"metadata": {"k": "2"}}, {"metadata": {}}),
    "address": ({"address": "127.0.0.1:1"}, {"address": "127.0.0.2:2"}, {"address": "127.0.0.1:3"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_kind_of_change_alone_is_an_update_also_two_at_once(what: str) -> None:
    name = unique()
    record = service(name, zone="eu")
    once, twice, last = (record.with_nodes(record.nodes[0].replace(**fields)) for fields in CHANGES[what])

    async def main() -> None:
        async with two(QUICK) as (one, other), other.watch(name) as events:
            assert await after(events) == Snapshot()
            await one.register(record)
            assert (await change(events)).action is Action.CREATE
            await one.register(once)
            seen = await change(events)
            assert (seen.action, seen.service, seen.previous) == (Action.UPDATE, once, record)
            await one.register(twice)
            await asyncio.sleep(0.002)
            await one.register(last)
            while seen.service != last:
                before, seen = seen.service, await change(events)
                assert (seen.action, seen.previous) == (Action.UPDATE, before)
                assert seen.service in (twice, last)
            assert await other.get_service(name) == (last,)

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an interface has to have the address")
@pytest.mark.parametrize(("mine", "theirs"), [("127.0.0.9", "127.0.0.9"), ("127.0.0.9", "127.0.0.1")])
def test_any_loopback_address_speaks_on_loopback(mine: str, theirs: str) -> None:
    name = unique()

    async def main() -> None:
        async with connect(f"mdns://{mine}") as one, connect(f"mdns://{theirs}") as other:
            await one.register(service(name))
            await other.register(service(name, "b"))
            for registry in (one, other):
                [found] = await registry.get_service(name)
                assert [node.id for node in found.nodes] == ["a", "b"]
                assert name in await registry.list_services()

    run(main())


def test_two_updates_at_once_end_in_the_last() -> None:
    name = unique()

    async def main() -> None:
        async with two(QUICK) as (one, other), other.watch(name) as events:
            catalog = Catalog()
            catalog.apply(await after(events))
            for port in range(1, 40):
                await one.register(service(name, port=port))
            while catalog.services(name) != (service(name, port=39),):
                catalog.apply(await change(events))
            assert await other.get_service(name) == catalog.services(name)

    run(main())


def test_a_watch_of_all_tells_of_every_name_and_answers_at_once() -> None:
    name = unique()

    async def main() -> None:
        async with two(f"{URL}?settle=3s") as (one, other), other.watch() as events:
            first = await after(events)
            assert isinstance(first, Snapshot)
            await one.register(service(name))
            while (await change(events)).service != service(name):
                pass
            begun = asyncio.get_running_loop().time()
            assert await other.get_service(name) == (service(name),)
            assert name in await other.list_services()
            assert asyncio.get_running_loop().time() - begun < 0.9, "who asks waits for a third of settle"

    run(main())


def test_the_snapshot_does_not_wait_longer_than_the_answers() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(f"{URL}?settle=9s&timeout=30s") as patient:
            await one.register(service(name), ttl=60)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            async with patient.watch(name) as events:
                assert await after(events) == Snapshot([service(name)])
            assert 2.9 < loop.time() - begun < 8.9

    run(main())


def test_absence_takes_the_settle_option() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connect(f"{URL}?settle=50ms") as registry:
            begun = loop.time()
            assert await absent(registry, unique())
            assert 0.04 < loop.time() - begun < 10

    run(main())


def test_who_is_not_renewed_is_withdrawn_although_its_process_lives() -> None:
    name = unique()

    async def main() -> None:
        async with two(QUICK) as (one, other), other.watch(name) as events, one.watch(name) as own:
            await after(events)
            await after(own)
            await one.register(service(name), ttl=3)
            assert (await change(events)).action is Action.CREATE
            assert (await change(own)).action is Action.CREATE
            assert (await change(events)).reason is Reason.EXPIRED
            assert (await change(own)).reason is Reason.EXPIRED
            assert await absent(one, name) and await absent(other, name)
            await one.register(service(name), ttl=60)
            assert (await change(events)).action is Action.CREATE

    run(main())


def test_who_is_renewed_stays_and_renewing_is_no_event() -> None:
    name = unique()

    async def main() -> None:
        async with two(QUICK) as (one, other), other.watch(name) as events:
            await after(events)
            await one.register(service(name), ttl=3)
            assert (await change(events)).action is Action.CREATE
            loop = asyncio.get_running_loop()
            end = loop.time() + 4.5
            while loop.time() < end:
                await one.register(service(name), ttl=3)
                with pytest.raises(TimeoutError):
                    await after(events, 0.3)
            assert await other.get_service(name) == (service(name),)

    run(main())


def test_a_renewal_costs_no_packet() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as checked:
            registry = checked.unwrap(MdnsRegistry)
            assert registry is not None and registry._station is not None
            transport = registry._station.transport
            sent: list[bytes] = []
            transport.send = lambda packet, link=None: sent.append(packet)  # type: ignore[method-assign]
            await checked.register(service(name))
            assert len(sent) == 1
            for _ in range(10):
                await checked.register(service(name))
            assert len(sent) == 1
            await asyncio.gather(*(checked.register(service(name, f"n{n}")) for n in range(5)))
            assert len(sent) == 2

    run(main())


def test_deregistering_is_idempotent_and_only_for_own_nodes() -> None:
    name = unique()

    async def main() -> None:
        async with two() as (one, other):
            await one.register(service(name))
            await other.deregister(service(name))
            assert await other.get_service(name) == (service(name),)
            await one.deregister(service(name))
            await one.deregister(service(name))
            assert await absent(other, name)

    run(main())


def test_a_close_says_goodbye_and_closing_twice_is_fine() -> None:
    name = unique()

    async def main() -> None:
        async with connect(QUICK) as other, other.watch(name) as events:
            await after(events)
            one = connect(URL)
            await one.open()
            await one.register(service(name))
            assert (await change(events)).action is Action.CREATE
            await asyncio.gather(one.close(), one.close())
            await one.close()
            assert (await change(events)).reason is Reason.DEREGISTERED

    run(main())


def test_what_is_too_large_is_refused_and_nothing_changes() -> None:
    name = unique()
    noise = {f"k{n}": os.urandom(500).hex() for n in range(20)}
    large = Service(name, nodes=[Node("127.0.0.1:8080", id="a", metadata=noise)])

    async def main() -> None:
        async with two() as (one, other):
            with pytest.raises(RecordTooLarge) as caught:
                await one.register(large)
            assert caught.value.size > caught.value.limit == 8000
            assert await absent(other, name)
            await one.register(service(name))
            with pytest.raises(InvalidService):
                await one.register(large)
            assert await other.get_service(name) == (service(name),)

    run(main())


def test_the_second_registration_of_an_id_wins_and_the_first_comes_back() -> None:
    name = unique()

    async def main() -> None:
        async with connect(QUICK) as reader, two(QUICK) as (one, other), reader.watch(name) as events:
            await after(events)
            await one.register(service(name, port=1))
            assert (await change(events)).service.nodes[0].port == 1
            await other.register(service(name, port=2))
            assert (await change(events)).service.nodes[0].port == 2
            await wait_until(lambda: _gave_way(one, name))
            await one.register(service(name, port=1))
            assert await reader.get_service(name) == (service(name, port=2),)
            await other.deregister(service(name))
            assert (await change(events)).action is Action.DELETE
            await one.register(service(name, port=1))
            assert (await change(events)).service.nodes[0].port == 1

    run(main())


def test_a_restart_with_a_clock_that_went_back_is_found() -> None:
    name = unique()

    async def main() -> None:
        async with two(QUICK) as (one, other), other.watch(name) as events:
            await after(events)
            await one.register(service(name, port=1))
            assert (await change(events)).action is Action.CREATE
            first, second = one.unwrap(MdnsRegistry), connect(QUICK)
            assert first is not None and first._station is not None
            first._station.transport.close()  # as dead as after SIGKILL
            async with second:
                back = second.unwrap(MdnsRegistry)
                assert back is not None and back._station is not None
                back._station.responder._clock = lambda: 1000.0
                await second.register(service(name, port=2))
                changed = await change(events)
                assert (changed.action, changed.node.port) == (Action.UPDATE, 2)

    run(main())


def _gave_way(registry: Registry, name: str) -> bool:
    mdns = registry.unwrap(MdnsRegistry)
    assert mdns is not None and mdns._station is not None
    return not mdns._station.responder.owns((name, "a"))


def test_calls_can_be_cancelled_at_any_moment() -> None:
    name = unique()

    async def main() -> None:
        async with two() as (one, other):
            await one.register(service(name), ttl=60)
            open_before = descriptors()
            for steps in range(0, 30, 2):
                calls = [
                    asyncio.ensure_future(call)
                    for call in (other.get_service(name), other.list_services(), one.register(service(name, "b")))
                ]
                for _ in range(steps):
                    await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            assert descriptors() == open_before
            [found] = await other.get_service(name)
            assert {node.id for node in found.nodes} >= {"a"}
            mdns = other.unwrap(MdnsRegistry)
            assert mdns is not None and mdns._station is not None
            assert list(mdns._station.browser.catalog.records()) == []

    run(main())


def test_no_socket_is_left() -> None:
    async def main() -> None:
        before = descriptors()
        for _ in range(3):
            async with connect(URL) as registry:
                await registry.register(service(unique()))
                assert descriptors() > before
        await wait_until(lambda: descriptors() <= before)

    run(main())


def test_a_close_ends_what_is_under_way() -> None:
    async def main() -> None:
        registry = connect(f"{URL}?settle=30s")
        await registry.open()
        call = asyncio.ensure_future(registry.get_service(unique()))
        async with registry.watch(unique()) as events:
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            async with asyncio.timeout(20):
                await registry.close()
                for each in (call, waiting):
                    with pytest.raises(RegistryClosed):
                        await each

    run(main())


def test_two_event_loops_in_two_threads() -> None:
    names = unique("left"), unique("right")
    found: dict[str, tuple[Service, ...]] = {}
    ready = threading.Barrier(2, timeout=60)

    async def main(own: str, other: str) -> None:
        async with connect(URL) as registry:
            await registry.register(service(own))
            await asyncio.to_thread(ready.wait)
            found[other] = await registry.get_service(other)
            await asyncio.to_thread(ready.wait)

    threads = [threading.Thread(target=asyncio.run, args=(main(*pair),)) for pair in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {name: (service(name),) for name in names}
