"""A call to a node failed, and the Selector says so: mDNS asks for the node at once, not when its ttl ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from mdns_neighbours import Fold, service
from mdns_network import Network
from microreg.events import Action, Reason
from microreg.registry import Registry
from microreg.selector import Selector

NAME = "greeter"
TTL = 120.0
DOWN = ConnectionRefusedError("nobody listens there")


@asynccontextmanager
async def hosts(network: Network, *names: str) -> AsyncGenerator[tuple[Registry, Fold, Selector]]:
    """A host with a node for each of these names; and a reader that knows them all."""
    async with AsyncExitStack() as stack:
        for number, name in enumerate(names):
            registry = await stack.enter_async_context(network.host(name))
            await registry.register(service(NAME, name, 8000 + number), ttl=TTL)
        reader = await stack.enter_async_context(network.host("reader"))
        fold = await stack.enter_async_context(Fold(reader.watch(NAME)))
        selector = await stack.enter_async_context(Selector(reader))
        await fold.until(lambda each: ids(each) == set(names), 60)
        await selector.select(NAME)
        yield reader, fold, selector


def ids(fold: Fold) -> set[str]:
    return {record.nodes[0].id for record in fold.catalog.records(NAME)}


def fail(fold: Fold, selector: Selector, id: str) -> None:
    """A call to the node of this id failed."""
    for record in fold.catalog.records(NAME):
        if record.nodes[0].id == id:
            selector.report(record.nodes[0], error=DOWN)


@pytest.mark.parametrize(("seed", "loss"), [(1, 0.0), (2, 0.0), (3, 0.2), (4, 0.2)])
def test_a_node_that_is_dead_and_called_is_gone_in_seconds(seed: int, loss: float) -> None:
    network = Network(seed, loss=loss, delay=0.02)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with hosts(network, "dies", "stays", "dies-uncalled") as (_, fold, selector):
            await asyncio.sleep(5)
            network.kill("dies")
            network.kill("dies-uncalled")
            began = loop.time()
            fail(fold, selector, "dies")
            fail(fold, selector, "stays")
            await fold.until(lambda each: "dies" not in ids(each), 10, step=0.05)
            assert 1.9 < loop.time() - began < 2.5
            assert fold.changes[-1].reason is Reason.EXPIRED
            await asyncio.sleep(10)
            assert ids(fold) == {"stays", "dies-uncalled"}

    network.run(main())


@pytest.mark.parametrize(("seed", "loss"), [(5, 0.0), (6, 0.2)])
def test_a_node_that_answers_mdns_stays_however_often_its_calls_fail_and_is_asked_seldom(
    seed: int, loss: float
) -> None:
    network = Network(seed, loss=loss, delay=0.02)

    async def main() -> None:
        async with hosts(network, "broken", "sound") as (_, fold, selector):
            await asyncio.sleep(70)
            before = network.hosts["reader"].sent["packets"]
            for _ in range(3_000):
                fail(fold, selector, "broken")
                await asyncio.sleep(0.01)
            assert ids(fold) == {"broken", "sound"}
            assert not [change for change in fold.changes if change.action is Action.DELETE]
            assert network.hosts["reader"].sent["packets"] - before <= 30 / 5 * 8 + 5

    network.run(main())


def test_a_node_that_stood_still_is_back_soon_after_it_goes_on() -> None:
    network = Network(7, delay=0.02)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with hosts(network, "frozen", "sound") as (_, fold, selector):
            await asyncio.sleep(30)
            frozen = asyncio.create_task(network.pause("frozen", 9.0))
            await asyncio.sleep(0.1)
            fail(fold, selector, "frozen")
            await fold.until(lambda each: "frozen" not in ids(each), 5)
            await frozen
            goes_on = loop.time()
            await fold.until(lambda each: "frozen" in ids(each), 10)
            assert loop.time() - goes_on < 9

    network.run(main())


def test_what_is_suspected_and_unknown_or_ones_own_is_no_trouble() -> None:
    network = Network(8)

    async def main() -> None:
        async with hosts(network, "other") as (reader, fold, selector):
            await reader.register(service(NAME, "own", 9000), ttl=TTL)
            await fold.until(lambda each: ids(each) == {"own", "other"}, 5)
            for id in ("own", "nobody"):
                reader.suspect(NAME, id)
            reader.suspect("unheard-of", "own")
            fail(fold, selector, "own")
            await asyncio.sleep(10)
            assert ids(fold) == {"own", "other"}
        reader.suspect(NAME, "other")  # it is closed

    network.run(main())


@pytest.mark.parametrize("seconds", [5.0, 20.0, 50.0])
def test_a_network_that_is_out_while_calls_fail_loses_nobody(seconds: float) -> None:
    """Of all nodes none answers: then it is not they who are gone."""
    network = Network(9, delay=0.02)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        names = [f"node-{number}" for number in range(12)]
        async with hosts(network, *names) as (_, fold, selector):
            await asyncio.sleep(5)
            network.loss = 1.0
            end = loop.time() + seconds
            while loop.time() < end:
                for name in names:
                    fail(fold, selector, name)
                await asyncio.sleep(0.1)
            network.loss = 0.0
            await asyncio.sleep(20)
            assert ids(fold) == set(names)
            assert not [change for change in fold.changes if change.action is Action.DELETE]

    network.run(main())


def test_calls_to_thousands_that_fail_at_once_lose_nobody_who_is_there() -> None:
    network = Network(10, delay=0.02)

    async def main() -> None:
        async with hosts(network, "first", "second") as (reader, fold, _):
            async with network.host("many") as many:
                for number in range(2_000):
                    await many.register(service(NAME, f"n{number}", 2000 + number), ttl=TTL)
                await fold.until(lambda each: len(ids(each)) == 2_002, 60)
                before = network.hosts["reader"].sent["packets"]
                for _ in range(20):
                    for name in ids(fold):
                        reader.suspect(NAME, name)
                    await asyncio.sleep(0.5)
                assert len(ids(fold)) == 2_002
                assert network.hosts["reader"].sent["packets"] - before < 500

    network.run(main())
