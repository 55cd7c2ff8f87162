"""What happens to a fleet behind its back: wiped stores, revoked leases, a rival for a node, other threads."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from etcd_admin import Admin
from following import Follower, following
from microreg import Node, Registry, announce, connect
from microreg.announce.announcement import Announcement, State
from microreg.testing import running
from microreg.toolkit import in_thread
from servers import etcd
from support import run, wait_until

server = etcd()
TTL = 3.0
BOUND = 25.0
"""Seconds within which everything is well again."""


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with running(server):
        yield


def announced(registry: Registry, id: str, name: str = "greeter", *, port: int = 80) -> Announcement:
    return announce(registry, name, address=f"10.0.0.1:{port}", id=id, ttl=TTL, drain_delay=0)


def ids(follower: Follower) -> set[str]:
    """The nodes that its fold has."""
    return {f"{record.name}/{record.nodes[0].id}" for record in follower.catalog.records()}


async def settled(*followers: Follower, nodes: set[str]) -> None:
    """Wait until all of these are live and know these nodes."""
    for each in followers:
        name = each.watch.name
        wanted = {node for node in nodes if name is None or node.startswith(f"{name}/")}
        await each.until(partial(_knows, wanted), BOUND)


def _knows(wanted: set[str], follower: Follower) -> bool:
    return follower.watch.state == "live" and ids(follower) == wanted


# -- the server --------------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_wiped_again_and_again() -> None:
    """At any moment of what the watches and announcements do then; each time everything comes back."""
    seed = random.randrange(10**6)

    async def main() -> None:
        sys.stderr.write(f"seed {seed}\n")
        rng = random.Random(seed)
        async with AsyncExitStack() as stack:
            registry = await stack.enter_async_context(connect(f"etcd://127.0.0.1:{server.port}/again?timeout=2s"))
            one = await stack.enter_async_context(following(registry, "greeter"))
            everything = await stack.enter_async_context(following(registry))
            nodes = [("greeter", "a"), ("greeter", "b"), ("other", "a")]
            fleet = [await stack.enter_async_context(announced(registry, id, name)) for name, id in nodes]
            await settled(one, everything, nodes={f"{name}/{id}" for name, id in nodes})
            for _ in range(4):
                await in_thread(server.kill)
                await asyncio.sleep(rng.uniform(0, 0.3))
                await in_thread(server.restart, wipe=True)
                await asyncio.sleep(rng.uniform(0, 1.5))
            await wait_until(lambda: all(each.state is State.LIVE for each in fleet), BOUND)
            async with Admin(server.port) as admin:
                await stand(admin, "again", 3)
            await settled(one, everything, nodes={f"{name}/{id}" for name, id in nodes})
            await everything.agrees("greeter", "other")

    run(main())


async def stand(admin: Admin, prefix: str, count: int) -> None:
    """Wait until so many keys are there."""

    async def there() -> bool:
        return len(await admin.under(f"/{prefix}/")) == count

    _: bool = await wait_until(there, BOUND, step=0.1)


def test_two_loops_in_two_threads_survive_a_server_that_is_wiped() -> None:
    """gRPC has one poller for all loops of a process; each thread sees its own nodes and those of the other."""
    wanted = {f"greeter/{thread}-{number}" for thread in ("one", "two") for number in range(5)}
    ready, wiped = threading.Barrier(3), threading.Event()
    failed: list[str] = []

    async def work(thread: str) -> None:
        async with AsyncExitStack() as stack:
            registry = await stack.enter_async_context(connect(f"etcd://127.0.0.1:{server.port}/threads?timeout=2s"))
            followers = [await stack.enter_async_context(following(registry, name)) for name in ("greeter", None)]
            for number in range(5):
                await stack.enter_async_context(announced(registry, f"{thread}-{number}"))
            await settled(*followers, nodes=wanted)
            await in_thread(ready.wait, BOUND)
            await in_thread(wiped.wait, BOUND)
            await settled(*followers, nodes=wanted)
            await in_thread(ready.wait, BOUND)  # nobody leaves before the other has seen all

    def thread(name: str) -> None:
        try:
            run(work(name))
        except BaseException as error:
            failed.append(f"{name}: {error!r}")
            ready.abort()

    threads = [threading.Thread(target=thread, args=(name,)) for name in ("one", "two")]
    for each in threads:
        each.start()
    try:
        ready.wait(BOUND)
        server.kill()
        server.restart(wipe=True)
        wiped.set()
        ready.wait(BOUND)
    except threading.BrokenBarrierError:
        failed.append("the threads did not come so far")
    finally:
        wiped.set()
        for each in threads:
            each.join()
    assert failed == []


# -- leases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victims", [{"a"}, {"a", "b", "c"}], ids=["one", "all"])
def test_a_lease_that_is_revoked_by_hand_is_replaced_and_nobody_else_is_touched(victims: set[str]) -> None:
    async def main() -> None:
        folder = f"revoked-{len(victims)}"
        async with AsyncExitStack() as stack, Admin(server.port) as admin:
            registry = await stack.enter_async_context(connect(f"etcd://127.0.0.1:{server.port}/{folder}"))
            everything = await stack.enter_async_context(following(registry))
            fleet = {id: await stack.enter_async_context(announced(registry, id)) for id in "abc"}
            await settled(everything, nodes={f"greeter/{id}" for id in "abc"})
            everything.take()
            before = {item.key.decode()[-1]: item for item in await admin.under(f"/{folder}/")}
            for id in victims:
                await admin.revoke(before[id].lease)
            await stand(admin, folder, 3)
            await settled(everything, nodes={f"greeter/{id}" for id in "abc"})
            assert {each.rpartition("/")[2] for each in everything.take()} <= victims
            after = {item.key.decode()[-1]: item for item in await admin.under(f"/{folder}/")}
            for id, announcement in fleet.items():
                assert (after[id].lease != before[id].lease) == (id in victims)
                assert after[id].value == before[id].value
                assert announcement.state is State.LIVE

    run(main())


# -- rivals ------------------------------------------------------------------------------------------------------------


def test_two_programs_that_announce_one_node_leave_one_record_and_one_warning_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They take turns at every renewal; nobody who watches sees the node away while one of them lives."""

    async def main() -> None:
        url = f"etcd://127.0.0.1:{server.port}/rivals"
        async with connect(url) as left, connect(url) as right, connect(url) as third, Admin(server.port) as admin:
            async with following(third, "greeter") as follower:
                async with announced(left, "a", port=81) as one:
                    await follower.hears("create greeter/a")
                    async with announced(right, "a", port=82) as two:
                        await follower.until(lambda at: at.changes.count("update greeter/a") >= 6, BOUND)
                        assert set(follower.take()) == {"update greeter/a"}
                        assert len(await admin.under("/rivals/")) == 1
                        assert one.state is two.state is State.LIVE
                        warnings = [record.getMessage() for record in caplog.records]
                        assert len(warnings) == 2 and all("by somebody else" in each for each in warnings)
                    # Who leaves takes the record along, whoever wrote it; who stays puts it back with the next renewal.
                    await stand(admin, "rivals", 1)
                    await follower.until(lambda at: [node.port for node in nodes(at)] == [81])
                    assert one.state is State.LIVE
                await follower.until(lambda at: not at.catalog.names())
            assert await admin.under("/rivals/") == []

    with caplog.at_level(logging.WARNING, "microreg"):
        run(main())


def nodes(follower: Follower) -> list[Node]:
    """The nodes of the one service."""
    return [node for service in follower.catalog.services("greeter") for node in service.nodes]
