"""The shrink guard of cache+: a store that lost everything is not believed at once, nodes that leave are."""

from __future__ import annotations

import asyncio

import pytest

from caching import Store, at_once, hot, one, opened, ports, several
from microreg.errors import ServiceNotFound
from microreg.events import Action, Change, Reason
from microreg.layers.cache import Freshness
from microreg.model import Service
from support import wait_until
from timeless import run


async def lost(store: Store) -> None:
    """The store forgets everything, and the watch has heard so."""
    before = store.opened
    store.store.wipe()
    await wait_until(lambda: store.opened > before, timeout=11)
    await asyncio.sleep(0.01)


def test_nodes_that_are_lost_all_at_once_stay_for_the_grace() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(several(80, 81, 82), ttl=86_400)
            await hot(cache)
            seen: list[Change] = []
            cache.subscribe("greeter", seen.append)
            await lost(store)
            gets = store.gets
            for second in range(15):
                assert at_once(cache.get_service("greeter")) == (several(80, 81, 82),), f"after {second} s"
                fresh = cache.freshness("greeter")
                assert fresh.kind == "stale" and fresh.age == pytest.approx(second, abs=0.1)
                assert "lost most nodes of 'greeter'" in str(fresh.error)
                await asyncio.sleep(1)
            assert 2 <= store.gets - gets <= 5, "looked up more and more rarely"
            assert seen == []
            await asyncio.sleep(1.5)
            assert [change.reason for change in seen] == [Reason.LOST] * 3
            with pytest.raises(ServiceNotFound):
                await cache.get_service("greeter")
            assert cache.freshness("greeter") == Freshness("live")

    run(main())


def test_nodes_that_come_back_within_the_grace_were_never_away() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(several(80, 81, 82), ttl=86_400)
            await hot(cache)
            seen: list[Change] = []
            cache.subscribe("greeter", seen.append)
            await lost(store)
            await asyncio.sleep(3)
            await cache.register(one(81), ttl=86_400)
            await asyncio.sleep(3)
            assert ports(cache) == [80, 81, 82] and seen == [], "the others have their grace"
            await cache.register(one(82, zone="b"), ttl=86_400)
            await wait_until(lambda: seen)
            assert [(change.action, change.node.id) for change in seen] == [(Action.UPDATE, "n82")]
            await asyncio.sleep(10.5)
            assert ports(cache) == [81, 82] and seen[-1].reason is Reason.LOST
            assert cache.freshness("greeter") == Freshness("live")
            assert not any("guard" in task.get_name() for task in asyncio.all_tasks())

    run(main())


def test_the_first_to_come_back_to_an_empty_store_does_not_get_every_call() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(several(80, 81, 82), ttl=86_400)
            await hot(cache)
            store.watches.clear()
            store.store.wipe()
            await cache.register(one(81), ttl=86_400)
            store.watches.set()
            asked = store.gets
            await wait_until(lambda: store.gets > asked, timeout=11)
            assert ports(cache) == [80, 81, 82]
            await cache.register(one(80), ttl=86_400)
            await asyncio.sleep(17)
            assert ports(cache) == [80, 81] and cache.freshness("greeter") == Freshness("live")

    run(main())


def test_where_half_are_left_the_lost_ones_go_at_once() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(several(80, 81), ttl=86_400)
            await hot(cache)
            store.watches.clear()
            store.store.wipe()
            await cache.register(one(81), ttl=86_400)
            store.watches.set()
            await wait_until(lambda: ports(cache) == [81], timeout=11)
            assert cache.freshness("greeter") == Freshness("live")

    run(main())


@pytest.mark.parametrize("way", ["deregistered", "expired"])
def test_a_real_scale_to_zero_passes_at_once(way: str) -> None:
    async def main() -> None:
        async with opened() as (cache, _):
            await cache.register(several(80, 81), ttl=86_400 if way == "deregistered" else 2)
            await hot(cache)
            if way == "deregistered":
                await cache.deregister(several(80, 81))
            else:
                await asyncio.sleep(2)
            await wait_until(lambda: not cache.services("greeter"), timeout=0.1)
            assert cache.freshness("greeter") == Freshness("live")

    run(main())


def test_nodes_that_are_withdrawn_during_the_grace_of_others_go() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(several(80, 81), ttl=86_400)
            await hot(cache)
            await lost(store)
            await cache.register(one(81), ttl=86_400)
            await asyncio.sleep(1)
            await cache.deregister(one(81))
            await wait_until(lambda: ports(cache) == [80], timeout=0.1)
            await asyncio.sleep(17)
            assert ports(cache) == []

    run(main())


def test_a_store_that_goes_away_during_the_grace_has_not_said_that_nodes_are_gone() -> None:
    async def main() -> None:
        async with opened(max_stale="10m") as (cache, store):
            await cache.register(several(80, 81), ttl=86_400)
            await hot(cache)
            await lost(store)
            store.store.down = True
            await asyncio.sleep(500)
            assert at_once(cache.get_service("greeter")) == (several(80, 81),)
            await asyncio.sleep(110)
            assert ports(cache) == [], "beyond max_stale"
            store.store.down = False
            await cache.register(one(80))
            await wait_until(lambda: ports(cache) == [80], timeout=11)

    run(main())


def test_a_lookup_that_finds_a_node_begins_its_grace_anew() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(one(80), ttl=86_400)
            await hot(cache)
            await lost(store)
            store.watches.clear()
            store.store.wipe()  # the watch loses its source again, and hears nothing from now on
            await asyncio.sleep(10)
            await cache.register(one(80), ttl=8)
            await asyncio.sleep(12)
            assert ports(cache) == [80]
            await asyncio.sleep(25)
            assert ports(cache) == []

    run(main())


def test_without_a_grace_the_store_is_believed() -> None:
    async def main() -> None:
        async with opened(grace="0s") as (cache, store):
            await cache.register(several(80, 81), ttl=86_400)
            await hot(cache)
            await lost(store)
            assert ports(cache) == []

    run(main())


def test_many_names_lost_at_once_do_not_storm_the_store() -> None:
    class Slow(Store):
        asking = most = 0

        async def get_service(self, name: str) -> tuple[Service, ...]:
            self.asking += 1
            self.most = max(self.most, self.asking)
            try:
                await asyncio.sleep(0.1)
                return await super().get_service(name)
            finally:
                self.asking -= 1

    async def main() -> None:
        store = Slow()
        async with opened(store) as (cache, _):
            names = [f"name-{number}" for number in range(40)]
            for name in names:
                await cache.register(one(name=name), ttl=86_400)
                cache.follow(name)
            await wait_until(lambda: all(cache.follow(name).live for name in names))
            await lost(store)
            await asyncio.sleep(20)
            assert 0 < store.most <= 8
            await wait_until(lambda: not any(cache.services(name) for name in names), timeout=20)

    run(main())
