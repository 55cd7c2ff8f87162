"""Watching: what wakes it, what it makes of checks, and how many connections and questions it takes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

import microreg
from consul_store import Raw, record
from microreg import Node, Registry, Service, Status
from microreg.catalog import Catalog
from microreg.errors import RegistryUnavailable, ServiceNotFound
from microreg.events import Change, Event, Reason, Snapshot
from microreg.testing import Proxy, running
from microreg.testing.virtual import run as run_virtual
from microreg.watch import Watch
from microreg_consul.client import Client
from microreg_consul.health import Check, checked
from microreg_consul.queries import answers
from microreg_consul.transport import Transport
from servers import consul
from support import run, wait_until

server = consul(dev=True)
proxy = Proxy(server.port)


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with running(server, proxy):
        yield


@asynccontextmanager
async def opened() -> AsyncGenerator[tuple[Registry, Raw]]:
    """A registry, and what writes past it."""
    async with microreg.connect(f"consul://127.0.0.1:{proxy.port}?timeout=10s") as registry, Raw(server.port) as raw:
        yield registry, raw


async def started(*watches: Watch) -> None:
    """Read the Snapshots."""
    async with asyncio.timeout(40):
        for events in watches:
            assert isinstance(await anext(events), Snapshot)


async def changed(events: Watch, name: str) -> Change:
    """The next change under this name."""
    async with asyncio.timeout(40):
        while True:
            event = await anext(events)
            if isinstance(event, Change) and event.service.name == name:
                return event


def stands(catalog: Catalog, name: str) -> dict[str, int]:
    return {node.id: node.port for service in catalog.services(name) for node in service.nodes}


async def fold(events: Watch, catalog: Catalog) -> None:
    async for event in events:
        catalog.apply(event)


# -- blocking queries --------------------------------------------------------------------------------------------------


class Agent:
    """Answers at once, whatever it is asked."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, float]] = []

    async def ask(self, index: int, wait: float) -> tuple[int, str]:
        self.asked.append((index, wait))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_only_answers_that_differ_are_told() -> None:
    async def main() -> None:
        agent = Agent((5, "a"), (6, "a"), (6, "a"), (9, "b"), (9, "b"), (12, "a"))
        async with aclosing(answers(agent.ask, random.Random(1))) as found:
            assert [await anext(found) for _ in range(3)] == ["a", "b", "a"]
        assert [index for index, _ in agent.asked] == [0, 5, 6, 6, 9, 9]

    run_virtual(main())


def test_an_index_that_falls_is_another_store() -> None:
    async def main() -> None:
        agent = Agent((44, "a"), (13, "a"))
        async with aclosing(answers(agent.ask, random.Random(1))) as found:
            assert await anext(found) == "a"
            with pytest.raises(RegistryUnavailable, match="fell from 44 to 13"):
                await anext(found)

    run_virtual(main())


def test_an_agent_that_answers_at_once_and_nothing_new_is_asked_ever_less_often() -> None:
    async def main() -> None:
        agent = Agent((5, "a"))
        async with aclosing(answers(agent.ask, random.Random(1))) as found:
            await anext(found)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await anext(found)
        assert 60 / 0.25 <= len(agent.asked) <= 60 / 0.125 + 10

    run_virtual(main())


def test_changes_that_come_at_once_are_not_asked_for_more_than_a_hundred_times_a_second() -> None:
    async def main() -> None:
        agent = Agent(*((number, str(number)) for number in range(1, 10_000)))
        count = 0
        async with aclosing(answers(agent.ask, random.Random(1))) as found:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    async for _ in found:
                        count += 1
        assert 450 <= count <= 1010

    run_virtual(main())


def test_the_first_queries_are_short() -> None:
    """Those that are given up stand at the agent until their time is over."""

    async def main() -> None:
        agent = Agent((5, "a"))

        async def ask(index: int, wait: float) -> tuple[int, str]:
            await asyncio.sleep(wait)
            return await agent.ask(index, wait)

        async with aclosing(answers(ask, random.Random(1))) as found:
            await anext(found)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await anext(found)
        waits = [wait for _, wait in agent.asked]
        assert waits[:2] == [0.0, 1.0]
        assert waits[-1] == 10.0
        assert waits == sorted(waits)

    run_virtual(main())


# -- what checks say ---------------------------------------------------------------------------------------------------

PASSING, WARNING, CRITICAL, DRAINING = Status.PASSING, Status.WARNING, Status.CRITICAL, Status.DRAINING


TTL, STATUS = "microreg TTL", "microreg status"


def check(id: str, status: str, kind: str = "", name: str = "") -> Check:
    return {"CheckID": id, "Status": status, "Type": kind, "Name": name}


@pytest.mark.parametrize(
    ("said", "checks", "expected"),
    [
        (PASSING, [], PASSING),
        (PASSING, [check("serfHealth", "passing")], PASSING),
        (PASSING, [check("serfHealth", "critical")], None),
        (PASSING, [check("a", "passing", "ttl")], PASSING),
        (PASSING, [check("a", "critical", "ttl")], None),
        (PASSING, [check("a", "warning", "ttl")], WARNING),
        (PASSING, [check("a", "critical", "ttl"), check("b", "passing", "ttl")], CRITICAL),
        (PASSING, [check("a", "critical", "http")], CRITICAL),
        (PASSING, [check("a", "warning", "tcp"), check("b", "passing", "http")], WARNING),
        (PASSING, [check("service:a", "critical")], None),
        (PASSING, [check("_service_maintenance:a", "critical", "maintenance")], CRITICAL),
        (PASSING, [check("_node_maintenance", "critical", "maintenance")], CRITICAL),
        (WARNING, [check("a", "passing", "ttl")], WARNING),
        (CRITICAL, [check("a", "warning", "http")], CRITICAL),
        (DRAINING, [check("a", "critical", "http")], DRAINING),
        (DRAINING, [check("a", "passing", "ttl", TTL), check("b", "critical", "ttl", STATUS)], DRAINING),
        (DRAINING, [check("a", "critical", "ttl", TTL), check("b", "critical", "ttl", STATUS)], None),
        (PASSING, [check("a", "warning", "ttl", TTL)], PASSING),
        (PASSING, [check("a", "passing", "ttl", TTL), check("b", "critical", "ttl", STATUS)], PASSING),
        (PASSING, [check("a", "critical", "ttl", TTL), check("b", "passing", "ttl", TTL)], PASSING),
    ],
)  # fmt: skip
def test_what_checks_say_of_a_node(said: Status, checks: list[Check], expected: Status | None) -> None:
    found = checked(record("s", "a", status=said), {"Checks": checks})
    assert (found and found.nodes[0].status) == expected


def test_entries_that_are_none_hurt_nobody() -> None:
    entries: list[dict[str, object]] = [{}, {"Checks": None}, {"Checks": "x"}, {"Checks": [None, 7, {"Status": 7}]}]
    for entry in entries:
        assert checked(record("s", "a"), entry) == record("s", "a")


# -- with an agent -----------------------------------------------------------------------------------------------------


def test_services_of_others_are_told_with_what_their_checks_say() -> None:
    async def main() -> None:
        async with opened() as (registry, raw), registry.watch("others") as one, registry.watch() as everything:
            await started(one, everything)
            check = {"CheckID": "web-1:disk", "TTL": "60s", "Status": "passing"}
            await raw.register("web-1", "others", Meta={"zone": "a"}, Checks=[check])
            expected = Service("others", nodes=[Node("10.0.0.1:80", id="web-1", metadata={"zone": "a"})])
            for events in (one, everything):
                assert (await changed(events, "others")).service == expected
            await raw.put("/agent/check/warn/web-1:disk")
            for events in (one, everything):
                assert (await changed(events, "others")).node.status is Status.WARNING
            await raw.put("/agent/check/pass/web-1:disk")
            for events in (one, everything):
                assert (await changed(events, "others")).service == expected
            await raw.put("/agent/service/maintenance/web-1?enable=true")
            for events in (one, everything):
                assert (await changed(events, "others")).node.status is Status.CRITICAL
            await raw.put("/agent/service/maintenance/web-1?enable=false")
            for events in (one, everything):
                assert (await changed(events, "others")).service == expected
            await raw.put("/agent/check/fail/web-1:disk")
            for events in (one, everything):
                assert (await changed(events, "others")).reason is Reason.EXPIRED
            assert "others" not in await registry.list_services()
            await raw.deregister("web-1")

    run(main())


def test_a_watch_of_all_names_hears_what_others_change_in_meta_alone() -> None:
    async def main() -> None:
        async with opened() as (registry, raw), registry.watch() as events:
            await started(events)
            await raw.register("bare", "bare", Meta={"zone": "a"})
            assert (await changed(events, "bare")).node.metadata == {"zone": "a"}
            await raw.register("bare", "bare", Meta={"zone": "b"})
            assert (await changed(events, "bare")).node.metadata == {"zone": "b"}
            await raw.deregister("bare")
            assert (await changed(events, "bare")).reason is Reason.DEREGISTERED

    run(main())


def test_names_that_no_record_can_have_hurt_nobody() -> None:
    """Consul takes any; a request for some of them is refused, or means another one."""
    names = ["a\nb", "a\x00b", "..", "a//b", "a/../b", "/a", "a/", "x" * 300]

    async def main() -> None:
        async with opened() as (registry, raw):
            for number, name in enumerate(names):
                await raw.register(f"odd-{number}", name)
            async with registry.watch() as events:
                await started(events)
                await raw.register("odd", "a/b ü?%2f")
                assert (await changed(events, "a/b ü?%2f")).node.id == "odd"
                assert not {*names} & {*await registry.list_services()}
            for number in range(len(names)):
                await raw.deregister(f"odd-{number}")
            await raw.deregister("odd")

    run(main())


def test_names_that_differ_in_case_only_are_not_mixed_up() -> None:
    async def main() -> None:
        async with opened() as (registry, raw), registry.watch("Mixed") as one, registry.watch() as everything:
            await started(one, everything)
            await raw.register("m-1", "mixed", Port=81)
            await raw.register("m-2", "Mixed", Port=82)
            change = await changed(one, "Mixed")
            assert change.node.id == "m-2"
            heard = {(await changed(everything, name)).node.id for name in ("mixed", "Mixed")}
            assert heard == {"m-1", "m-2"}
            assert [service.name for service in await registry.get_service("mixed")] == ["mixed"]

    run(main())


def test_what_is_no_business_of_a_watch_is_hardly_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consul wakes whoever asks for a name without nodes, for every service that changes."""
    asked = 0
    entries = Client.entries

    async def counted(self: Client, name: str, index: int = 0, wait: float = 0.0) -> tuple[int, list[Check]]:
        nonlocal asked
        asked += name == "nobody"
        return await entries(self, name, index, wait)

    monkeypatch.setattr(Client, "entries", counted)

    async def main() -> None:
        async with opened() as (registry, raw), registry.watch("nobody") as events:
            assert await anext(events) == Snapshot()
            began = asyncio.get_running_loop().time()
            for number in range(200):
                await raw.register("noise", "noise", Port=1 + number)
            took = asyncio.get_running_loop().time() - began
            assert asked <= 12 + took * 10
            await registry.register(record("nobody", "a"))
            assert (await changed(events, "nobody")).node.id == "a"
            await raw.deregister("noise")
            await registry.deregister(record("nobody", "a"))

    run(main())


def test_many_names_share_few_connections() -> None:
    """An agent allows 200 from one address, which all processes of a machine share."""
    names = [f"many-{number}" for number in range(120)]

    async def main() -> None:
        async with opened() as (registry, _), AsyncExitStack() as stack:
            watches = [await stack.enter_async_context(registry.watch(name)) for name in names]
            async with asyncio.timeout(40):
                assert [await anext(events) for events in watches] == [Snapshot()] * len(names)
            await asyncio.gather(*(registry.register(record(name, "a")) for name in names))
            for name, events in zip(names, watches, strict=True):
                assert (await changed(events, name)).service == record(name, "a")
            assert proxy.connections <= 32 + 2 + 16 + 10  # ten may stand that were given up before
            await asyncio.gather(*(registry.deregister(record(name, "a")) for name in names))
            for name, events in zip(names, watches, strict=True):
                assert (await changed(events, name)).reason is Reason.DEREGISTERED

    run(main())


def test_what_a_watch_reads_first_and_that_there_is_nothing_are_what_the_servers_agree_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that has restarted may answer before it has read its log again."""
    asked: list[str] = []
    uri = Transport.uri

    def noted(self: Transport, path: str, params: Sequence[tuple[str, object]] | None = None) -> str:
        asked.append(uri(self, path, params))
        return asked[-1]

    def taken() -> list[str]:
        paths = [each.rpartition("/")[2] for each in asked if "/v1/health/service/" in each]
        asked.clear()
        return paths

    monkeypatch.setattr(Transport, "uri", noted)

    async def main() -> None:
        async with opened() as (registry, _):
            with pytest.raises(ServiceNotFound):
                await registry.get_service("agreed")
            assert taken() == ["agreed", "agreed?consistent"]
            await registry.register(record("agreed", "a"))
            async with registry.watch("agreed") as events:
                await started(events)
                await wait_until(lambda: len(asked) > 1)
                first, second, *_ = taken()
                assert first == "agreed?consistent"
                assert second.startswith("agreed?index=")
            await registry.get_service("agreed")
            assert "agreed" in taken()
            await registry.deregister(record("agreed", "a"))

    run(main())


def test_watches_of_one_name_share_a_query_also_when_they_follow_each_other() -> None:
    async def main() -> None:
        async with opened() as (registry, _):
            async with registry.watch("shared") as events:
                await anext(events)
            before = proxy.accepted
            for _ in range(20):
                async with registry.watch("shared") as events, registry.watch("shared") as another:
                    assert await anext(events) == await anext(another) == Snapshot()
            assert proxy.accepted - before <= 1

    run(main())


def test_a_connection_that_breaks_costs_no_event() -> None:
    async def main() -> None:
        async with opened() as (registry, _), registry.watch("steady") as one, registry.watch() as everything:
            catalogs = [Catalog(), Catalog()]
            async with asyncio.TaskGroup() as group:
                folding = [group.create_task(fold(*each)) for each in zip((one, everything), catalogs, strict=True)]
                for number in range(20):
                    await registry.register(record("steady", f"n{number}", 8000 + number))
                    if number % 5 == 0:
                        proxy.cut()
                expected = {f"n{number}": 8000 + number for number in range(20)}
                await wait_until(lambda: [stands(each, "steady") for each in catalogs] == [expected] * 2, timeout=40)
                for task in folding:
                    task.cancel()
            heard: list[Event] = []
            async with registry.watch("steady") as events:
                heard.append(await anext(events))
            assert isinstance(heard[0], Snapshot)
            assert len(heard[0].records) == 20

    run(main())
