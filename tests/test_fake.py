"""fake://: one store for every loop and thread of a process, its switches, and its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

import microreg.sync
from microreg import (
    Change,
    ConfigError,
    Node,
    Registry,
    RegistryClosed,
    RegistryTimeout,
    RegistryUnavailable,
    Service,
    ServiceNotFound,
    Snapshot,
    WrongLoop,
    connect,
)
from microreg.testing import Announced, FakeStore, FaultSwitches, VirtualTime
from microreg.testing.switches import Fault
from support import run, wait_until


def orders(id: str = "a") -> Service:
    return Service("orders", nodes=[Node("10.0.0.7:80", id=id)])


def test_loops_and_threads_share_a_store_and_two_stores_share_nothing() -> None:
    async def writes(url: str) -> None:
        async with connect(url) as registry:
            await registry.register(orders())

    with FakeStore() as store, FakeStore() as another:
        run(writes(store.url))
        thread = threading.Thread(target=asyncio.run, args=(writes(another.url),))
        thread.start()
        thread.join()
        with microreg.sync.connect(store.url) as one, microreg.sync.connect(another.url) as two:
            one.register(orders("b"))
            assert [node.id for node in one.get_service("orders")[0].nodes] == ["a", "b"]
            assert two.get_service("orders") == (orders(),)


def test_a_watch_hears_what_other_loops_do_and_leaves_nothing() -> None:
    async def main() -> None:
        async with connect(store.url) as registry, registry.watch("orders") as events:
            assert await anext(events) == Snapshot()
            await asyncio.to_thread(elsewhere.register, orders())
            event = await anext(events)
            assert isinstance(event, Change) and event.action == "create"

    with FakeStore() as store, microreg.sync.connect(store.url) as elsewhere:
        run(main())


def switched(faults: FaultSwitches) -> list[Callable[[], Fault]]:
    return [faults.down, faults.freeze, lambda: faults.slow(30)]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["down", "freeze", "slow"])
def test_a_fault_is_there_at_once_and_ends_with_its_with(which: int) -> None:
    async def main(registry: Registry) -> None:
        await registry.register(orders())
        seen = list[bool]()
        with switched(store.faults)[which]():
            seen.append(store.faults.active)
            with pytest.raises(RegistryTimeout if which else RegistryUnavailable):
                await registry.get_service("orders")
        assert [*seen, store.faults.active] == [True, False]
        assert await registry.get_service("orders") == (orders(),)
        switched(store.faults)[which]()
        store.faults.restore()
        assert await registry.list_services() == ("orders",)

    async def opened() -> None:
        async with connect(f"{store.url}?timeout=300ms") as registry:
            await main(registry)

    with FakeStore() as store:
        run(opened())


def test_of_two_equal_faults_the_outer_one_is_there_after_the_inner_one() -> None:
    with FakeStore() as store:
        with store.faults.slow(0.02):
            with store.faults.slow(0.01), store.faults.down(), store.faults.down():
                pass
            seen = [store.faults.active]
        assert [*seen, store.faults.active] == [True, False]


@pytest.mark.parametrize("seconds", ["much", None, float("nan")])
def test_slow_takes_seconds(seconds: float) -> None:
    with FakeStore() as store, pytest.raises(ConfigError, match="expected a number of seconds"):
        store.faults.slow(seconds)


def test_wiped_it_has_forgotten_all() -> None:
    async def main() -> None:
        async with connect(store.url) as registry, registry.watch("orders") as events:
            await registry.register(orders())
            await anext(events)
            store.faults.wipe()
            with pytest.raises(ServiceNotFound):
                await registry.get_service("orders")
            await wait_until(lambda: events.error is not None)

    with FakeStore() as store:
        run(main())


def test_records_expire_in_the_time_of_the_loop_that_was_given() -> None:
    async def main() -> None:
        async with connect(store.url) as registry:
            await registry.register(orders(), ttl=3600)
            await asyncio.sleep(3599)
            assert await registry.get_service("orders") == (orders(),)
            await asyncio.sleep(2)
            with pytest.raises(ServiceNotFound):
                await registry.get_service("orders")

    with VirtualTime() as time, FakeStore(loop=time.loop) as store:
        time.run(main())
        assert time.time() >= 3601
        with pytest.raises(WrongLoop, match="belongs to an event loop that somebody else runs"):
            run(main())


def test_when_the_store_is_gone_calls_and_watches_say_so() -> None:
    async def main() -> None:
        store.open()
        async with connect(store.url) as registry, registry.watch() as events:
            assert await anext(events) == Snapshot()
            store.faults.slow(30)
            call = asyncio.create_task(registry.list_services())
            await asyncio.sleep(0)
            await asyncio.to_thread(store.close)
            store.close()
            with pytest.raises(RegistryUnavailable):
                await call
            with pytest.raises(RegistryUnavailable, match="is not open"):
                await registry.list_services()
            await wait_until(lambda: events.state == "resyncing")

    store = FakeStore()
    run(main())


@pytest.mark.parametrize("url", ["fake://", "fake://none", "fake://orders/path"])
def test_a_store_that_is_not_there_is_told(url: str) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="there is no such store in this process"):
            await connect(url).open()

    run(main())


def test_what_is_announced_to_a_dead_registry_says_so_and_is_there_when_it_lives() -> None:
    async def main() -> None:
        async with connect(store.url) as registry:
            announced = Announced(registry)
            with store.faults.down():
                orders = await announced("orders", port=8080)
                assert isinstance(orders.error, RegistryUnavailable)
            await orders.wait_live(timeout=60)
            (found,) = await registry.get_service("orders")
            assert [node.address for node in found.nodes] == ["127.0.0.1:8080"]
            await asyncio.gather(*(announced("orders", port=port) for port in (1, 2)))
            await announced.close()
            assert await registry.list_services() == () and orders.state == "gone"

    with VirtualTime() as time, FakeStore(loop=time.loop) as store:
        time.run(main())


def test_a_forked_child_is_told_that_the_store_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeStore() as store:
        monkeypatch.setattr("microreg.process.pid", -1)
        with pytest.raises(RegistryClosed, match="the process that forked this one"):
            store.faults.down()
        monkeypatch.undo()
        store.faults.down()
