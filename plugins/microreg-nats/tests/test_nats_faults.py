"""What happens to registrations and watches while a real nats-server is killed, frozen, emptied and cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from fleets import Fleet, gathered
from microreg import Catalog, Node, Registry, RegistryUnavailable, Service, ServiceNotFound, connect
from microreg.testing import Proxy, ServerProcess, running
from microreg.toolkit import in_thread
from nats_store import NatsFaults, raw_client
from servers import nats, nats_cluster
from support import run, wait_until

NODE = Node("10.0.0.7:80", id="a")
SERVICE = Service("orders", "1", nodes=[NODE])


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with nats() as server:
        yield server


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    with running(proxy):
        yield proxy


@asynccontextmanager
async def fleet(url: str, size: int, *, ttl: float = 2.0) -> AsyncGenerator[Fleet]:
    """So many nodes of one service, announced by one client, and watched by another."""
    async with connect(url) as writer, connect(url) as reader:
        whole = gathered(
            writer, lambda: connect(url), nodes=size, ttl=ttl, reader=reader, names=["orders"], watched=["orders"]
        )
        async with whole as nodes:
            await nodes.settle()
            yield nodes


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_all_are_back_after_the_server_was_killed(server: ServerProcess, proxy: Proxy, storage: str) -> None:
    """With a bucket in memory everything is forgotten, and made again."""

    async def main() -> None:
        faults = NatsFaults(server, proxy)
        bucket = f"killed-{storage}"
        async with fleet(f"nats://127.0.0.1:{proxy.port}?timeout=2s&storage={storage}&bucket={bucket}", 3) as nodes:
            async with faults.down():
                await wait_until(lambda: all(each.state == "lost" for each in nodes.announcements), 15)
            await nodes.settle()
            assert all(each.state == "live" for each in nodes.announcements)

    run(main(), 90)


def test_two_hundred_nodes_outlive_two_restarts(server: ServerProcess, proxy: Proxy) -> None:
    async def main() -> None:
        faults = NatsFaults(server, proxy)
        async with fleet(f"nats://127.0.0.1:{proxy.port}?timeout=3s&bucket=many", 200, ttl=6.0) as nodes:
            for _ in range(2):
                await faults.kill()
                await wait_until(lambda: nodes.followers[0].watch.state == "resyncing", 15)
                await faults.restart()
                await nodes.settle(40)
                await wait_until(lambda: nodes.followers[0].watch.state == "live", 40)
            async with raw_client(server.port, "many") as client:
                assert await client.consumers() == 1

    run(main(), 120)


def test_a_frozen_server_is_noticed_and_nothing_is_lost(server: ServerProcess, proxy: Proxy) -> None:
    """The records outlive it, since the server's clock stands still too."""

    async def main() -> None:
        faults = NatsFaults(server, proxy)
        async with fleet(f"nats://127.0.0.1:{proxy.port}?timeout=2s&bucket=frozen", 2, ttl=30.0) as nodes:
            async with nodes.reader.watch() as watch:
                await anext(watch)
                async with faults.frozen():
                    await wait_until(lambda: watch.state == "resyncing", 20)
                await wait_until(lambda: watch.state == "live", 40)
            await nodes.settle()

    run(main(), 90)


def test_a_black_hole_is_noticed_within_twenty_seconds(server: ServerProcess, proxy: Proxy) -> None:
    async def main() -> None:
        faults = NatsFaults(server, proxy)
        async with fleet(f"nats://127.0.0.1:{proxy.port}?timeout=2s&bucket=hole", 2, ttl=3.0) as nodes:
            async with nodes.reader.watch() as watch:
                await anext(watch)
                async with faults.black_hole():
                    await wait_until(lambda: watch.state == "resyncing", 20)
                    with pytest.raises(RegistryUnavailable):
                        await nodes.reader.get_service("orders")
            await nodes.settle()

    run(main(), 90)


def test_a_write_that_was_held_back_brings_nobody_back(server: ServerProcess, proxy: Proxy) -> None:
    """It arrives with the black hole's end, on a connection that its client has given up."""

    async def main() -> None:
        faults = NatsFaults(server, proxy)
        url = f"nats://127.0.0.1:{proxy.port}?timeout=3s&bucket=late"
        async with connect(url) as client, connect(f"nats://127.0.0.1:{server.port}?bucket=late") as other:
            await client.list_services()
            async with faults.black_hole():
                with pytest.raises(RegistryUnavailable):
                    await client.register(SERVICE)
                await other.deregister(SERVICE)
            async with raw_client(server.port, "late") as raw:
                before = await raw.last(raw.keys.subject("orders", "a"))
                await client.list_services()
                after = await raw.last(raw.keys.subject("orders", "a"))
                assert before is not None and after is not None and before.seq == after.seq
            with pytest.raises(ServiceNotFound):
                await other.get_service("orders")

    run(main())


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "deleted-and-made-again"])
def test_a_bucket_that_is_deleted_behind_our_back(server: ServerProcess, again: bool) -> None:
    """It is made again by the next call, and the renewals fill it; a watch never waits for a stream that is gone."""

    async def main() -> None:
        bucket = f"deleted-{again}"
        async with fleet(f"nats://127.0.0.1:{server.port}?bucket={bucket}", 3) as nodes:
            async with raw_client(server.port, bucket) as client:
                config = (await client.js.stream_info(client.stream)).config
                for _ in range(2):
                    await client.js.delete_stream(client.stream)
                    if again:
                        await client.js.add_stream(config)
                    await nodes.settle()

    run(main())


def test_a_slow_network_only_delays(server: ServerProcess, proxy: Proxy) -> None:
    async def main() -> None:
        faults = NatsFaults(server, proxy)
        async with fleet(f"nats://127.0.0.1:{proxy.port}?timeout=5s&bucket=slow", 3, ttl=6.0) as nodes:
            async with faults.slow(0.3):
                async with connect(f"nats://127.0.0.1:{proxy.port}?bucket=slow") as late:
                    await late.register(SERVICE)
                    await wait_until(lambda: len(nodes.followers[0].catalog.services("orders")) == 2, 40)
                    await late.deregister(SERVICE)
                    await wait_until(lambda: len(nodes.followers[0].catalog.services("orders")) == 1, 40)
            await nodes.settle()

    run(main())


def test_a_cluster_goes_on_without_the_leader_of_the_bucket() -> None:
    async def main(members: list[ServerProcess]) -> None:
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in members)
        async with fleet(f"nats://{hosts}?replicas=3&timeout=3s", 5, ttl=8.0) as nodes:
            async with raw_client(members[0].port) as client:
                cluster = (await client.js.stream_info(client.stream)).cluster
            assert cluster is not None
            leader = next(member for member in members if member.name == cluster.leader)
            await in_thread(leader.kill)
            late = Service("orders", "2", nodes=[Node("10.0.0.8:80", id="late")])
            async with connect(f"nats://{hosts}?timeout=3s") as client_after:
                await wait_until(lambda: cast("Awaitable[bool]", _registered(client_after, late)), 30, step=0.2)
            await wait_until(lambda: len(nodes.followers[0].catalog.services("orders")) == 2, 30)
            async with connect(f"nats://{hosts}?timeout=3s") as reader:
                await reader.deregister(late)
            await nodes.settle(40)

    with nats_cluster() as members:
        run(main(members), 120)


async def _registered(registry: Registry, service: Service) -> bool:
    try:
        await registry.register(service)
        return True
    except RegistryUnavailable:
        return False


def test_a_watch_whose_consumer_is_gone_reads_again(server: ServerProcess) -> None:
    async def main() -> None:
        url = f"nats://127.0.0.1:{server.port}?bucket=consumer"
        async with fleet(url, 2) as nodes, raw_client(server.port, "consumer") as client:
            for info in await client.js.consumers_info(client.stream):
                await client.js.delete_consumer(client.stream, info.name)
            async with connect(url) as other:
                await other.register(SERVICE)
                await wait_until(lambda: len(nodes.followers[0].catalog.services("orders")) == 2, 40)

    run(main())


def test_a_slow_reader_misses_nothing(server: ServerProcess) -> None:
    """The server keeps what is not asked for, and whoever looks away for a while hears the last of it."""

    async def main() -> None:
        url = f"nats://127.0.0.1:{server.port}?bucket=slow-reader"
        async with connect(url) as writer, connect(url) as reader:
            async with reader.watch("orders") as events:
                catalog = Catalog()
                catalog.apply(await anext(events))
                for version in range(40):
                    nodes = [Node(f"10.0.0.7:{1000 + number}", id=f"n{number}") for number in range(50)]
                    await writer.register(Service("orders", str(version), nodes=nodes))
                wanted = await writer.get_service("orders")
                async with asyncio.timeout(40):
                    while catalog.services("orders") != wanted:
                        catalog.apply(await anext(events))
                assert [service.version for service in wanted] == ["39"]

    run(main())
