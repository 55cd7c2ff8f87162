"""mDNS with 500 nodes: seen, left, restarted and at rest; what is sent, and what it costs, is counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mdns_neighbours import Fold, station, unique
from mdns_network import Network
from microreg import connect
from microreg.backends.mdns import answers, wire
from microreg.backends.mdns.own import packets
from microreg.backends.mdns.records import name_in
from microreg.events import Action, Reason
from microreg.model import Node, Service
from microreg.registry import Registry
from support import run

pytestmark = pytest.mark.usefixtures("alone")

COUNT = 500


def many(name: str, count: int = COUNT, port: int = 1000) -> Service:
    nodes = [Node(f"127.0.0.1:{port + n}", id=f"n{n:03}", metadata={"zone": "eu"}) for n in range(count)]
    return Service(name, "1", nodes=nodes)


def actions(fold: Fold) -> Counter[tuple[Action, Reason | None]]:
    return Counter((change.action, change.reason) for change in fold.changes)


@pytest.mark.parametrize(("seed", "loss"), [(1, 0.0), (2, 0.05), (3, 0.2)])
def test_many_nodes_are_seen_left_and_restarted_in_time(seed: int, loss: float) -> None:
    network = Network(seed, loss=loss, delay=0.005)
    name = "scale"
    within = 3.0 if loss < 0.2 else 6.0

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack, AsyncExitStack() as first:
            provider = await first.enter_async_context(network.host("first"))
            readers = [await stack.enter_async_context(network.host(f"reader-{n}")) for n in range(3)]
            folds = [await stack.enter_async_context(Fold(reader.watch(name))) for reader in readers]

            async def until(count: int, what: Service | None, within: float) -> None:
                begun = loop.time()
                for fold in folds:
                    await fold.until(lambda each: len(each.changes) == count, within)
                    assert fold.catalog.services(name) == ((what,) if what else ())
                assert loop.time() - begun <= within

            await provider.register(many(name), ttl=15)
            await until(COUNT, many(name), within)
            await asyncio.sleep(5)
            network.kill("first")
            second = await stack.enter_async_context(network.host("second"))
            await second.register(many(name, port=3000), ttl=15)
            await until(2 * COUNT, many(name, port=3000), within)
            await second.deregister(many(name))
            await until(3 * COUNT, None, 1.0 if loss < 0.2 else 18.0)
            for fold in folds:
                gone = Action.DELETE, Reason.DEREGISTERED
                assert (count := actions(fold))[Action.CREATE, None] == count[Action.UPDATE, None] == COUNT
                assert count[gone] == COUNT or (loss == 0.2 and count[gone] > 0.95 * COUNT)

    network.run(main())


def test_at_rest_little_is_sent_and_computed() -> None:
    """Half of it is for the three who watch: where nobody does, nothing is sent at all."""
    network = Network(1)
    minute = 60.0

    async def main() -> None:
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(network.host("provider"))

            async def renew() -> None:
                while True:
                    await provider.register(many("scale"), ttl=15)
                    await asyncio.sleep(5)

            renewing = asyncio.create_task(renew())
            await asyncio.sleep(20)
            before = network.total()
            await asyncio.sleep(minute)
            assert network.total() == before

            readers = [await stack.enter_async_context(network.host(f"reader-{n}")) for n in range(3)]
            folds = [await stack.enter_async_context(Fold(reader.watch("scale"))) for reader in readers]
            await asyncio.sleep(120)
            before, worked = network.total(), time.process_time()
            await asyncio.sleep(minute)
            sent, worked = network.total() - before, time.process_time() - worked
            assert sent["packets"] / minute <= 10
            assert sent["bytes"] / minute <= 13_000
            assert worked / minute < 0.03  # of all four programs together
            assert all(not fold.changes for fold in folds)
            renewing.cancel()
            await asyncio.wait([renewing])

    network.run(main())


def test_who_asks_for_a_name_is_answered_with_that_name_only() -> None:
    network = Network(1)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(network.host("provider"))
            for name in ("wanted", "other"):
                await provider.register(many(name, 50), ttl=600)
            await asyncio.sleep(10)
            reader = await stack.enter_async_context(network.host("reader"))
            texts: Counter[bytes] = Counter()
            receive = station(reader).browser.heard

            def heard(message: wire.Message, *, answer: bool = False) -> None:
                texts.update(name_in(text.data) for text in message.texts)
                receive(message, answer=answer)

            station(reader).browser.heard = heard  # type: ignore[method-assign]
            async with Fold(reader.watch("wanted")) as fold:
                assert fold.catalog.services("wanted") == (many("wanted", 50),)
                await provider.register(many("other", 50, port=4000), ttl=600)  # told to all, as news is
                await asyncio.sleep(0.01)
                assert texts[b"other"] == 50
                await asyncio.sleep(10)
                texts.clear()
                await asyncio.sleep(120)
                assert set(texts) == {b"wanted"}

    network.run(main())


@pytest.mark.parametrize(("clients", "within"), [(1, 0.2), (10, 0.25), (30, 0.5)])
def test_lists_without_pause_are_complete_and_in_time_and_hide_nobody(clients: int, within: float) -> None:
    network = Network(1)
    names = tuple(sorted(f"m{n}" for n in range(300)))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(network.host("provider"))
            for n, name in enumerate(names):
                await provider.register(Service(name, nodes=[Node(f"127.0.0.1:{1 + n}", id="a")]), ttl=300)
            hosts = [await stack.enter_async_context(network.host(f"host-{n}")) for n in range(clients)]
            other = await stack.enter_async_context(network.host("other"))
            await asyncio.sleep(6)
            before, end = network.total()["packets"], loop.time() + 2
            lists = 0

            async def lister(registry: Registry) -> None:
                nonlocal lists
                while (begun := loop.time()) < end:
                    assert await registry.list_services() == names
                    assert loop.time() - begun <= within
                    lists += 1

            async def getter() -> None:
                while (begun := loop.time()) < end:
                    assert await other.get_service("m5")
                    assert loop.time() - begun <= 0.15

            await asyncio.gather(*map(lister, hosts), getter())
            assert (network.total()["packets"] - before) / lists < 150

    network.run(main())


def test_what_many_nodes_answer_is_packed_once_until_one_of_them_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(1)
    packings = 0

    def counting(*args: Any, **options: Any) -> Iterator[bytes]:
        nonlocal packings
        packings += 1
        return packets(*args, **options)

    monkeypatch.setattr(answers, "packets", counting)

    async def main() -> None:
        async with network.host("provider") as provider, network.host("one") as one, network.host("two") as two:
            await provider.register(many("scale", 100), ttl=300)
            await asyncio.sleep(6)
            for count, change in enumerate((many("scale", 100), many("scale", 100, port=4000), many("scale", 101)), 1):
                await provider.register(change, ttl=300)
                for reader in (one, two, one):
                    assert await reader.get_service("scale") == (change,)
                assert packings == count
            await provider.deregister(many("scale", 1))
            assert len((await one.get_service("scale"))[0].nodes) == 100
            assert packings == 4

    network.run(main())


def test_real_packets_of_many_nodes_are_all_heard() -> None:
    """With sockets, and all in one loop: nothing is lost in their buffers."""
    name = unique("scale")

    async def main() -> None:
        async with AsyncExitStack() as stack:
            folds: list[Fold] = []
            for _ in range(3):
                reader: Registry = await stack.enter_async_context(connect("mdns://127.0.0.1?settle=50ms"))
                folds.append(await stack.enter_async_context(Fold(reader.watch(name))))
            async with connect("mdns://127.0.0.1") as provider:
                await provider.register(many(name), ttl=30)
                for fold in folds:
                    await fold.until(lambda each: len(each.changes) == COUNT, 10)
            for fold in folds:
                await fold.until(lambda each: len(each.changes) == 2 * COUNT, 10)
                gone = Action.DELETE, Reason.DEREGISTERED
                assert actions(fold) == {(Action.CREATE, None): COUNT, gone: COUNT}

    run(main())
