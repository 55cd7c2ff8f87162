"""cache+: hot names without I/O, one lookup for many callers, an answer while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

import microreg
import support
from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.errors import InvalidService, RegistryClosed, RegistryUnavailable, ServiceNotFound
from microreg.events import Change, Reason, Snapshot
from microreg.layers.cache import CacheLayer
from microreg.model import Node, Service
from microreg.options import Options
from microreg.testing.virtual import VirtualLoop
from microreg.url import RegistryURL
from microreg.watch import Watch
from support import wait_until

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    return support.run(main, timeout=None, loop_factory=VirtualLoop)


class Store(MemoryRegistry):
    """Counts what it is asked; lookups wait for ``answer``, watches for ``watches``."""

    def __init__(self) -> None:
        super().__init__(RegistryURL.parse("memory://"), Options())
        self.gets = 0
        self.opened = 0
        self.answer = asyncio.Event()
        self.answer.set()
        self.watches = asyncio.Event()
        self.watches.set()

    async def get_service(self, name: str) -> tuple[Service, ...]:
        self.gets += 1
        await self.answer.wait()
        return await super().get_service(name)

    def watch(self, name: str | None = None) -> Watch:
        inner = super().watch(name).source

        async def source() -> AsyncGenerator[Snapshot | Change, None]:
            self.opened += 1
            await self.watches.wait()
            async for event in inner():
                yield event

        return Watch(source)


class Vague(Store):
    """Cannot know that a name does not exist, as mDNS."""

    capabilities = MemoryRegistry.capabilities - {"authoritative"}


@asynccontextmanager
async def opened(store: Store | None = None) -> AsyncGenerator[tuple[CacheLayer, Store]]:
    store = store or Store()
    async with CacheLayer(Checked(store), store.url, Options()) as cache:
        yield cache, store


def one(port: int = 80, name: str = "greeter", **more: str) -> Service:
    return Service(name, nodes=[Node(f"10.0.0.1:{port}", id=f"n{port}", metadata=more)])


def at_once(call: Coroutine[object, object, T]) -> T:
    """What a coroutine returns that never suspends."""
    with pytest.raises(StopIteration) as stopped:
        call.send(None)
    value: T = stopped.value.value
    return value


async def hot(cache: CacheLayer, name: str = "greeter") -> None:
    await cache.get_service(name)
    await wait_until(lambda: cache.services(name))


def test_a_hot_name_costs_no_io_and_never_suspends() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(one())
            await hot(cache)
            gets = store.gets
            for _ in range(100):
                assert at_once(cache.get_service("greeter")) == (one(),)
            assert cache.services("greeter") is cache.services("greeter") and store.gets == gets == 1
            await cache.register(one(zone="b"))
            await wait_until(lambda: at_once(cache.get_service("greeter")) == (one(zone="b"),))
            assert store.gets == 1 and store.opened == 1

    run(main())


def test_changes_are_followed_and_reported_to_subscribers() -> None:
    async def main() -> None:
        async with opened() as (cache, _):
            await cache.register(one())
            await hot(cache)
            seen: list[Change] = []
            unsubscribe = cache.subscribe("greeter", seen.append)
            await cache.register(one(81), ttl=5)
            await cache.deregister(one(80))
            await wait_until(lambda: cache.services("greeter") == (one(81),))
            await asyncio.sleep(6)
            assert cache.services("greeter") == ()
            assert [change.reason for change in seen] == [None, Reason.DEREGISTERED, Reason.EXPIRED]
            unsubscribe()
            await cache.register(one(82))
            await wait_until(lambda: cache.services("greeter"))
            assert len(seen) == 3

    run(main())


def test_concurrent_cold_misses_share_one_lookup() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(one())
            store.answer.clear()
            store.watches.clear()
            calls = [asyncio.create_task(cache.get_service("greeter")) for _ in range(100)]
            await asyncio.sleep(1)
            assert store.gets == 1 and not any(call.done() for call in calls)
            store.answer.set()
            assert await asyncio.gather(*calls) == [(one(),)] * 100
            assert store.gets == 1 and store.opened == 1
            assert await cache.get_service("greeter") == (one(),)
            assert store.gets == 2, "not known by the watch yet: a later caller asks again"

    run(main())


def test_a_cancelled_caller_does_not_cancel_the_lookup_of_the_others() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(one())
            store.answer.clear()
            store.watches.clear()
            calls = [asyncio.create_task(cache.get_service("greeter")) for _ in range(3)]
            await asyncio.sleep(1)
            calls[0].cancel()
            await asyncio.wait([calls[0]])
            assert calls[0].cancelled()
            store.answer.set()
            assert await asyncio.gather(*calls[1:]) == [(one(),)] * 2 and store.gets == 1

    run(main())


def test_callers_that_were_all_cancelled_leave_a_lookup_that_ends() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            store.answer.clear()
            store.watches.clear()
            call = asyncio.create_task(cache.get_service("greeter"))
            await asyncio.sleep(1)
            call.cancel()
            await asyncio.wait([call])
            store.answer.set()
            with pytest.raises(ServiceNotFound):
                await cache.get_service("greeter")
            assert store.gets == 1

    run(main())


# -- absence -----------------------------------------------------------------------------------------


def test_absence_is_known_without_asking_once_the_watch_is_live() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            with pytest.raises(ServiceNotFound) as caught:
                await cache.get_service("greeter")
            assert caught.value.authoritative and store.gets == 1
            await wait_until(lambda: cache.follow("greeter").live)
            for _ in range(10):
                with pytest.raises(ServiceNotFound):
                    await cache.get_service("greeter")
            assert store.gets == 1
            await cache.register(one())
            await wait_until(lambda: cache.services("greeter"))
            assert at_once(cache.get_service("greeter")) == (one(),)

    run(main())


def test_absence_is_asked_again_where_nobody_can_know() -> None:
    async def main() -> None:
        async with opened(Vague()) as (cache, store):
            for _ in range(3):
                with pytest.raises(ServiceNotFound) as caught:
                    await cache.get_service("greeter")
                assert not caught.value.authoritative
                await asyncio.sleep(1)
            assert store.gets == 3

    run(main())


def test_a_name_is_never_called_absent_while_the_first_snapshot_is_on_its_way() -> None:
    """Every interleaving of a lookup with the watch that becomes live finds the node."""

    async def main(turns: int) -> None:
        async with opened() as (cache, _):
            await cache.register(one())
            cache.follow("greeter")
            for _ in range(turns):
                await asyncio.sleep(0)
            assert await cache.get_service("greeter") == (one(),)

    for turns in range(20):
        run(main(turns))


# -- the store goes away -------------------------------------------------------------------------------


def test_a_cold_name_is_unavailable_while_the_store_is_down_and_found_later() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(one())
            store.store.down = True
            for _ in range(2):
                with pytest.raises(RegistryUnavailable):
                    await cache.get_service("greeter")
            assert not cache.follow("greeter").live and "switched off" in cache.follow("greeter").reason
            store.store.down = False
            assert await cache.get_service("greeter") == (one(),)
            await wait_until(lambda: cache.services("greeter"), timeout=11)

    run(main())


def test_what_was_known_is_served_while_the_store_is_away() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(one(), ttl=86_400)
            await hot(cache)
            store.store.down = True
            for _ in range(60):
                await asyncio.sleep(60)
                assert at_once(cache.get_service("greeter")) == (one(),)
            assert not cache.follow("greeter").live and store.gets == 1
            store.store.down = False
            await cache.register(one(81))
            await wait_until(lambda: len(cache.services("greeter")[0].nodes) == 2, timeout=11)
            assert cache.follow("greeter").live

    run(main())


def test_absence_is_not_claimed_while_the_store_is_away() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            with pytest.raises(ServiceNotFound):
                await cache.get_service("greeter")
            await wait_until(lambda: cache.follow("greeter").live)
            store.store.down = True
            await asyncio.sleep(1)
            with pytest.raises(RegistryUnavailable):
                await cache.get_service("greeter")

    run(main())


# -- the end -------------------------------------------------------------------------------------------


def test_closing_ends_every_task_and_every_call() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(one())
            await hot(cache)
            store.answer.clear()
            call = asyncio.create_task(cache.get_service("other"))
            await asyncio.sleep(1)
            await cache.close()
            with pytest.raises(RegistryClosed, match="'other'"):
                await call
            assert asyncio.all_tasks() == {asyncio.current_task()}
            for again in (cache.get_service("greeter"), cache.get_service("other")):
                with pytest.raises(RegistryClosed):
                    await again
            with pytest.raises(RegistryClosed):
                cache.follow("greeter")
            await cache.close()

    run(main())


def test_a_cancelled_call_is_cancelled_also_when_the_cache_closes() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            store.answer.clear()
            call = asyncio.create_task(cache.get_service("greeter"))
            await asyncio.sleep(1)
            call.cancel()
            await cache.stop()
            await asyncio.wait([call])
            assert call.cancelled()

    run(main())


def test_stop_leaves_the_registry_of_others_open() -> None:
    async def main() -> None:
        store = Store()
        async with Checked(store) as registry:
            cache = CacheLayer(registry, registry.url, Options())
            await registry.register(one())
            await hot(cache)
            await cache.stop()
            await cache.stop()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await registry.get_service("greeter") == (one(),)

    run(main())


def test_a_registry_that_is_closed_under_the_cache_is_no_longer_answered_for() -> None:
    async def main() -> None:
        async with opened() as (cache, _):
            await cache.register(one())
            await hot(cache)
            await cache.inner.close()
            await asyncio.sleep(1)
            with pytest.raises(RegistryClosed, match="was closed"):
                await cache.get_service("greeter")

    run(main())


def test_a_cache_that_is_not_open_and_names_that_cannot_be() -> None:
    async def main() -> None:
        cache = microreg.connect("cache+memory://")
        with pytest.raises(RegistryClosed, match="not open yet"):
            await cache.get_service("greeter")
        async with cache:
            for name in ("", "x" * 256, "a\nb", "\ud800", 5):
                with pytest.raises(InvalidService):
                    await cache.get_service(name)  # type: ignore[arg-type]
            assert asyncio.all_tasks() == {asyncio.current_task()}
            with pytest.raises(ServiceNotFound):
                await cache.get_service("greeter")

    run(main())


def test_the_other_verbs_go_through() -> None:
    async def main() -> None:
        async with opened() as (cache, _), cache.watch() as events:
            assert await anext(events) == Snapshot()
            await cache.register(one())
            assert await cache.list_services() == ("greeter",)
            assert (await anext(events)).service == one()  # type: ignore[union-attr]
            await cache.deregister(one())
            assert await cache.list_services() == ()
            assert cache.unwrap(MemoryRegistry) is not None and cache.unwrap(CacheLayer) is cache
            assert cache.capabilities == MemoryRegistry.capabilities

    run(main())
