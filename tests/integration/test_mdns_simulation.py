"""mDNS for ten minutes of loss, delay, duplicates, pauses and updates, in virtual time: nobody is lost who is there."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from mdns_neighbours import Fold, service
from mdns_network import Network, stall
from microreg.errors import ServiceNotFound
from microreg.events import Action, Reason
from microreg.registry import Registry
from support import wait_until

NAME = "simulated"


def known(fold: Fold) -> int:
    return sum(1 for _ in fold.catalog.records(NAME))


class Provider:
    """Nodes that are renewed, and changed now and then."""

    def __init__(self, registry: Registry, host: str, count: int, ttl: float) -> None:
        self.registry, self.ttl = registry, ttl
        self.records = {f"{host}-{n}": service(NAME, f"{host}-{n}", 1000 + n) for n in range(count)}

    async def renew(self) -> None:
        for record in self.records.values():
            await self.registry.register(record, ttl=self.ttl)

    async def live(self) -> None:
        while True:
            await self.renew()
            await asyncio.sleep(self.ttl / 3)

    async def update(self, id: str, port: int) -> None:
        self.records[id] = service(NAME, id, port)
        await self.registry.register(self.records[id], ttl=self.ttl)


async def disturb(network: Network, providers: list[Provider], readers: list[str]) -> None:
    """Until cancelled: updates, also two within 5 ms, programs that do not read for seconds, and a loop that stalls."""
    rng = network.rng
    port = 2000
    async with asyncio.TaskGroup() as group:
        for turn in range(10_000):
            await asyncio.sleep(rng.uniform(0.5, 3))
            provider = rng.choice(providers)
            id = rng.choice(list(provider.records))
            for _ in range(rng.choice((1, 2))):
                await provider.update(id, port := port + 1)
                await asyncio.sleep(0.005)
            if turn % 5 == 0:
                group.create_task(network.pause(rng.choice(readers), rng.uniform(0.2, 8)))
            if turn % 7 == 0:
                host = f"host-{rng.randrange(len(providers))}"
                group.create_task(network.pause(host, rng.uniform(0.1, provider.ttl / 6)))
            if turn % 11 == 0:
                stall(rng.uniform(0.1, 2))


@pytest.mark.parametrize(("seed", "loss", "ttl"), [(1, 0.2, 15.0), (2, 0.2, 6.0), (3, 0.05, 6.0)])
def test_ten_minutes_of_loss_and_load_lose_nobody(seed: int, loss: float, ttl: float) -> None:
    network = Network(seed, loss=loss, delay=0.1, twice=0.05)
    readers = [f"reader-{n}" for n in range(3)]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts = [await stack.enter_async_context(network.host(f"host-{n}")) for n in range(4)]
            providers = [Provider(registry, f"host-{n}", 8, ttl) for n, registry in enumerate(hosts)]
            folds: list[Fold] = []
            for reader in readers:
                registry = await stack.enter_async_context(network.host(reader))
                folds.append(await stack.enter_async_context(Fold(registry.watch(NAME))))
            lives = [asyncio.create_task(provider.live()) for provider in providers]
            trouble = asyncio.create_task(disturb(network, providers, readers))
            await asyncio.sleep(600)
            trouble.cancel()
            await asyncio.wait([trouble])
            truth = {record for provider in providers for record in provider.records.values()}
            for fold in folds:
                await fold.until(lambda each: set(each.catalog.records(NAME)) == truth, 20)
                count = Counter(change.action for change in fold.changes)
                assert count[Action.DELETE] == 0 and count[Action.CREATE] <= len(truth)
                assert count[Action.UPDATE] > 200
            for task in lives:
                task.cancel()
            await asyncio.wait(lives)

    network.run(main())


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_host_is_noticed_in_time_by_all(seed: int) -> None:
    network = Network(seed, loss=0.2, delay=0.1)
    ttl = 6.0

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            dies = Provider(await stack.enter_async_context(network.host("dies")), "n", 30, ttl)
            stays = Provider(await stack.enter_async_context(network.host("stays")), "s", 3, ttl)
            folds: list[Fold] = []
            for n in range(3):
                registry = await stack.enter_async_context(network.host(f"reader-{n}"))
                folds.append(await stack.enter_async_context(Fold(registry.watch(NAME))))
            lives = [asyncio.create_task(provider.live()) for provider in (dies, stays)]
            for fold in folds:
                await fold.until(lambda each: known(each) == 33, 10)
            await asyncio.sleep(network.rng.uniform(5, 20))
            network.kill("dies")
            killed = loop.time()
            for fold in folds:
                await fold.until(lambda each: known(each) == 3, ttl + 2, step=0.05)
                assert {change.reason for change in fold.changes} == {None, Reason.EXPIRED}
            assert loop.time() - killed <= ttl + 2
            for task in lives:
                task.cancel()
            await asyncio.wait(lives)

    network.run(main())


def test_a_program_that_cannot_keep_up_neither_answers_too_early_nor_blames_others() -> None:
    """Its own questions have not come back: it waits, in place of saying that nobody is there, or all have gone."""
    network = Network(5)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with network.host("host") as one, network.host("reader") as reader:
            provider = Provider(one, "n", 30, 6.0)
            living = asyncio.create_task(provider.live())
            await asyncio.sleep(10)
            pause = asyncio.create_task(network.pause("reader", 2.5))
            await asyncio.sleep(0)
            begun = loop.time()
            [found] = await reader.get_service(NAME)
            assert len(found.nodes) == 30 and loop.time() - begun > 2.49
            async with Fold(reader.watch(NAME)) as fold:
                for seconds in (8.0, 3.0):
                    await network.pause("reader", seconds)
                    await asyncio.sleep(7)
                stall(7.1)
                await asyncio.sleep(1)
                assert known(fold) == 30 and not fold.changes
            await pause
            living.cancel()
            await asyncio.wait([living])

    network.run(main())


def test_where_multicast_does_not_loop_back_silence_counts_after_a_while() -> None:
    network = Network(6, echo=False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with network.host("host") as one, network.host("reader") as reader:
            living = asyncio.create_task(Provider(one, "n", 3, 6.0).live())
            for _ in range(5):
                assert len((await reader.get_service(NAME))[0].nodes) == 3
            begun = loop.time()
            with pytest.raises(ServiceNotFound):
                await reader.get_service("absent")
            assert loop.time() - begun < 0.5
            async with Fold(reader.watch(NAME)) as fold:
                await asyncio.sleep(20)
                network.kill("host")
                await wait_until(lambda: not fold.catalog.services(NAME), 6 + 2, step=0.05)
            living.cancel()
            await asyncio.wait([living])

    network.run(main())


def test_a_provider_that_stood_still_gets_a_moment_to_renew() -> None:
    """Its own timers came late: who would have renewed could not, and no goodbye says that the nodes have expired."""
    network = Network(7)

    async def main() -> None:
        async with network.host("host") as one, network.host("reader") as reader, Fold(reader.watch(NAME)) as fold:
            living = asyncio.create_task(Provider(one, "n", 3, 3.0).live())
            await fold.until(lambda each: known(each) == 3)
            for _ in range(5):
                await asyncio.sleep(2)
                stall(3.5)
            await asyncio.sleep(2)
            assert known(fold) == 3 and len(fold.changes) == 3
            living.cancel()
            await asyncio.wait([living])
            await fold.until(lambda each: not known(each), 4)

    network.run(main())
