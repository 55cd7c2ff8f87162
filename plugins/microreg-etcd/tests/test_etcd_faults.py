"""What users see while a server fails, and after it: errors in time, no spinning; then everything as it should be."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

import microreg
from etcd_admin import Admin, metric, store_of
from etcd_store import EtcdFaults
from fleets import BOUND, NAMES, Fleet, gathered
from microreg import Registry, State
from microreg.errors import RegistryUnavailable
from microreg.testing import Proxy, ServerProcess, running
from microreg.toolkit import in_thread
from microreg_etcd.stubs import rpc
from servers import etcd, etcd_cluster, leader
from support import run, wait_until

server = etcd()
proxy = Proxy(server.port)
faults = EtcdFaults(server, proxy)

TIMEOUT = 2.0


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with running(server, proxy):
        yield


async def _warm_up() -> None:
    """What gRPC opens once, and keeps."""
    async with microreg.connect(f"etcd://127.0.0.1:{proxy.port}/warm") as registry:
        await registry.list_services()


@asynccontextmanager
async def fleet(
    prefix: str, *, nodes: int = 15, ports: Sequence[int] = (), direct: int = 0, ttl: float = 3.0
) -> AsyncGenerator[Fleet]:
    """A fleet that has settled; at the end it is taken down, and nothing stays of it in this process."""
    await wait_until(lambda: connections() == 0)
    tasks_before = len(asyncio.all_tasks())
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports or [proxy.port])
    watched = (*NAMES, None) * 2
    async with microreg.connect(f"etcd://{hosts}/{prefix}?timeout={TIMEOUT}s") as registry:
        async with gathered(
            registry, lambda: past(direct or server.port, prefix), nodes=nodes, ttl=ttl, watched=watched
        ) as one:
            await settle(one, port=direct)
            yield one
    # What is kept of errors may keep the frames of calls that were cut short, until it is let go.
    one.announcements.clear()
    one.followers.clear()
    del registry, one
    await wait_until(
        lambda: (len(asyncio.all_tasks()), connections()) == (tasks_before, 0),
        timeout=25,  # gRPC gives up a connection that was dropped half-made after some seconds
        step=0.1,
        what=lambda: f"{len(asyncio.all_tasks()) - tasks_before} tasks, {proxy.connections} connections",
    )


def past(port: int, prefix: str) -> Registry:
    """A new client, which asks a server past the proxy."""
    return microreg.connect(f"etcd://127.0.0.1:{port}/{prefix}")


def prefix_of(fleet: Fleet) -> str:
    """Without slashes."""
    return fleet.registry.url.path.strip("/")


async def settle(fleet: Fleet, *, bound: float = BOUND, port: int = 0) -> None:
    """All say the same, and the store has exactly the fleet's nodes, each on a lease of its own."""
    prefix, port = prefix_of(fleet), port or server.port
    fleet.fresh = lambda: past(port, prefix)
    await fleet.settle(bound)
    async with Admin(port) as admin:
        stored = await admin.under(f"/{prefix}/")
    assert len(stored) == len(fleet.announcements)
    assert len({item.lease for item in stored} - {0}) == len(fleet.announcements)


def connections() -> int:
    """How many there are through the proxy; what gRPC's calls hold in cycles is no leak."""
    gc.collect()
    return proxy.connections


def files() -> int:
    """How many this process has open."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def run_cleanly(main: Coroutine[object, object, None]) -> None:
    """Nothing that ``main`` opened is open when its loop has ended."""
    run(_warm_up())
    before = files()
    run(main)
    deadline = time.monotonic() + 20
    while files() > before and time.monotonic() < deadline:  # gRPC closes in threads of its own
        time.sleep(0.05)
    assert files() <= before


def renewals(server: ServerProcess) -> float:
    """How many the server was asked for."""
    return metric(server, "grpc_server_msg_received_total", grpc_method="LeaseKeepAlive")


async def calm(registry: Registry, seconds: float = 3.0) -> None:
    """While the store is away: calls fail in time with the error that says so, and next to nothing is computed."""
    loop = asyncio.get_running_loop()
    begun, used = loop.time(), time.process_time()
    while loop.time() - begun < seconds:
        asked = loop.time()
        with pytest.raises(RegistryUnavailable):
            await registry.get_service("orders")
        assert loop.time() - asked < TIMEOUT + 1.5
        await asyncio.sleep(0.5)
    spent = (time.process_time() - used) / (loop.time() - begun)
    assert spent < 0.05, f"{spent:.1%} of a core"


# -- one server --------------------------------------------------------------------------------------------------------


async def killed(fleet: Fleet) -> None:
    async with faults.down():
        await calm(fleet.registry)


async def wiped(fleet: Fleet) -> None:
    await faults.kill()
    await faults.restart(wipe=True)


async def frozen(fleet: Fleet) -> None:
    async with faults.frozen():
        await calm(fleet.registry, 10)


async def swallowed(fleet: Fleet) -> None:
    async with faults.black_hole():
        await calm(fleet.registry, 4)


async def cut_again_and_again(fleet: Fleet) -> None:
    for _ in range(20):
        proxy.cut()
        await asyncio.sleep(0.1)


async def slow(fleet: Fleet) -> None:
    async with faults.slow(0.2):
        for _ in range(4):
            assert await fleet.registry.get_service("orders")
        await settle(fleet)


async def emptied(fleet: Fleet) -> None:
    async with Admin(server.port) as admin:
        await admin.delete(f"/{prefix_of(fleet)}/".encode(), f"/{prefix_of(fleet)}0".encode())


async def revoked(fleet: Fleet) -> None:
    async with Admin(server.port) as admin:
        for item in await admin.under(f"/{prefix_of(fleet)}/"):
            await admin.revoke(item.lease)


@pytest.mark.parametrize(
    "fault",
    [killed, wiped, frozen, swallowed, cut_again_and_again, slow, emptied, revoked],
    ids=lambda each: each.__name__,
)
def test_everything_is_well_again_after(fault: Callable[[Fleet], Awaitable[None]]) -> None:
    async def main() -> None:
        async with fleet(fault.__name__.replace("_", "-")) as one:
            await fault(one)
            await settle(one)
            # What went on over the one before may still be on it.
            await wait_until(lambda: connections() <= 2, timeout=25)

    run_cleanly(main())


def test_two_hundred_nodes_are_back_after_two_restarts() -> None:
    async def main() -> None:
        async with fleet("crowd", nodes=200, ttl=5) as one:
            for wipe in (False, True):
                await faults.kill()
                await faults.restart(wipe=wipe)
            await settle(one, bound=40)

    run_cleanly(main())


def test_a_full_disk_lets_nodes_live_on_and_new_ones_in_when_it_is_over() -> None:
    small = etcd("etcd-small", quota=8 * 2**20)

    async def main() -> None:
        async with fleet("full", ports=[small.port], direct=small.port) as one, Admin(small.port) as admin:
            junk = await admin.grant(600)
            with pytest.raises(rpc.AioRpcError, match="database space exceeded"):
                for number in range(40):
                    await admin.write([(b"/junk/%d" % number, bytes(2**20))], lease=junk)
            async with microreg.announce(one.registry, "late", address="10.0.0.9:80", id="new", drain_delay=0) as late:
                assert late.state is State.REGISTERING
                assert isinstance(late.error, RegistryUnavailable)
                assert "alarm disarm" in str(late.error)
                before = renewals(small)
                await wait_until(lambda: renewals(small) > before + 30, timeout=40, step=0.1)
                assert one.live()
                assert all([await one.registry.get_service(name) for name in NAMES])
                await admin.revoke(junk)
                await admin.compact()
                await admin.defragment()
                assert await admin.disarm() == 1
                await late.wait_live(BOUND)
            await settle(one, port=small.port)

    with small:
        run_cleanly(main())


# -- three servers -----------------------------------------------------------------------------------------------------


def test_a_cluster_may_lose_its_leader_and_the_member_that_is_asked() -> None:
    def asked(one: Fleet, members: Sequence[ServerProcess]) -> ServerProcess:
        address = store_of(one.registry)._client.endpoint.address
        return next(member for member in members if address.endswith(f":{member.port}"))

    async def main(members: Sequence[ServerProcess]) -> None:
        ports = [member.port for member in members]
        async with fleet("cluster", ports=ports, direct=ports[0], ttl=5) as one:
            first = await in_thread(leader, members)
            assert first is not None
            await in_thread(first.kill)
            others = [member for member in members if member is not first]
            await settle(one, port=others[0].port)
            await in_thread(first.restart)

            still = asked(one, members)
            awake = next(member for member in members if member is not still)
            await in_thread(still.freeze)
            try:
                await wait_until(lambda: asked(one, members) is not still, timeout=BOUND)
                await settle(one, port=awake.port)
            finally:
                await in_thread(still.thaw)
            await settle(one, port=still.port)

    with etcd_cluster(3) as members:
        run_cleanly(main(members))
