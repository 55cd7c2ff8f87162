"""cache+: hot names without I/O, one lookup for many callers, an answer while the store is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator

import pytest

import microreg
import support
from caching import Store, Vague, at_once, hot, one, opened, options, ports
from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.errors import (
    ConfigError,
    InvalidService,
    PermissionDenied,
    RegistryClosed,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
    WrongLoop,
)
from microreg.events import Change, Event, Reason, Snapshot
from microreg.layers.cache import CacheLayer, Freshness
from microreg.model import Service
from microreg.options import Options
from microreg.watch import Watch
from support import wait_until
from timeless import run


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


def test_callers_of_a_lookup_that_hangs_get_what_the_watch_tells() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            await cache.register(one())
            store.answer.clear()
            store.watches.clear()
            call = asyncio.create_task(cache.get_service("greeter"))
            await asyncio.sleep(1)
            assert not call.done()
            store.watches.set()
            assert await call == (one(),) and asyncio.get_running_loop().time() < 1.1

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


# -- freshness and max_stale ---------------------------------------------------------------------------


def test_freshness_says_how_true_it_is() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            assert cache.freshness("greeter") == Freshness("unknown")
            await cache.register(one(), ttl=86_400)
            await hot(cache)
            assert cache.freshness("greeter") == Freshness("live") and str(cache.freshness("greeter")) == "live"
            await asyncio.sleep(100)
            store.store.down = True
            await asyncio.sleep(77)
            stale = cache.freshness("greeter")
            assert stale.kind == "stale" and stale.age == pytest.approx(77, abs=0.01)
            assert isinstance(stale.error, RegistryUnavailable) and "stale, 77 s old: the memory store" in str(stale)
            store.store.down = False
            await wait_until(lambda: cache.freshness("greeter").kind == "live", timeout=11)

    run(main())


def test_what_a_lookup_found_is_kept_until_the_watch_speaks() -> None:
    async def main() -> None:
        async with opened() as (cache, store):
            store.watches.clear()
            await cache.register(one(), ttl=86_400)
            assert await cache.get_service("greeter") == (one(),)
            await asyncio.sleep(3)
            assert cache.freshness("greeter") == Freshness("cached", 3.0) and ports(cache) == [80]
            store.store.down = True
            assert await cache.get_service("greeter") == (one(),), "a lookup that failed takes nothing away"
            store.store.down = False
            await cache.deregister(one())
            with pytest.raises(ServiceNotFound):
                await cache.get_service("greeter")
            assert ports(cache) == [] and cache.freshness("greeter").kind == "unknown"
            store.watches.set()
            await wait_until(lambda: cache.freshness("greeter").kind == "live")

    run(main())


@pytest.mark.parametrize("max_stale", [0, 1, 90, 3600])
def test_after_max_stale_what_was_known_is_given_up_and_told_anew_later(max_stale: int) -> None:
    async def main() -> None:
        async with opened(max_stale=f"{max_stale}s") as (cache, store):
            await cache.register(one(), ttl=86_400)
            await cache.register(one(81), ttl=86_400)
            await hot(cache)
            seen: list[Change] = []
            cache.subscribe("greeter", seen.append)
            store.store.down = True
            if max_stale:
                await asyncio.sleep(max_stale - 0.5)
                assert len(at_once(cache.get_service("greeter"))[0].nodes) == 2
            await asyncio.sleep(0.6)
            with pytest.raises(RegistryUnavailable, match=r"\d s old.*\(cache.max_stale\)"):
                await cache.get_service("greeter")
            assert cache.freshness("greeter").kind == "unknown" and "switched off" in cache.follow("greeter").reason
            assert [change.reason for change in seen] == [Reason.LOST] * 2
            store.store.down = False
            await wait_until(lambda: cache.freshness("greeter").kind == "live", timeout=11)
            assert ports(cache) == [80, 81], "the nodes that never changed are told again"

    run(main())


def test_refused_credentials_during_an_outage_take_nothing_away() -> None:
    class Refusing(Store):
        refuse = False

        async def get_service(self, name: str) -> tuple[Service, ...]:
            if self.refuse:
                raise PermissionDenied("the token has expired")
            return await super().get_service(name)

    async def main() -> None:
        store = Refusing()
        async with opened(store) as (cache, _):
            store.watches.clear()
            await cache.register(one())
            await cache.get_service("greeter")
            store.refuse = True
            assert await cache.get_service("greeter") == (one(),)
            with pytest.raises(PermissionDenied):
                await cache.get_service("other")

    run(main())


@pytest.mark.parametrize("max_stale", ["0s", "1s", "1h"])
def test_a_store_that_comes_and_goes_is_not_stormed(max_stale: str) -> None:
    class Flapping(Store):
        def watch(self, name: str | None = None) -> Watch:
            async def source() -> AsyncGenerator[Event, None]:
                self.opened += 1
                yield self.store.catalog.snapshot(name)
                raise RegistryUnavailable("gone again")

            return Watch(source, rng=random.Random(1))

    async def main() -> None:
        async with opened(Flapping(), max_stale=max_stale) as (cache, store):
            await cache.register(one(), ttl=86_400)
            assert await cache.get_service("greeter") == (one(),)
            await asyncio.sleep(600)
            assert store.opened < 400, "every five seconds and a half on average, and each fails at once"

    run(main())


# -- bounds --------------------------------------------------------------------------------------------


def test_a_name_that_nobody_asks_for_is_not_watched_any_more() -> None:
    async def main() -> None:
        async with opened(idle="10m") as (cache, store):
            for name in ("greeter", "asked", "pinned"):
                await cache.register(one(name=name), ttl=86_400)
                await hot(cache, name)
            unpin = cache.subscribe("pinned", lambda _: None)
            for _ in range(20):
                await asyncio.sleep(60)
                at_once(cache.get_service("asked"))
            assert [bool(cache.services(name)) for name in ("greeter", "asked", "pinned")] == [False, True, True]
            assert cache.freshness("greeter") == Freshness("unknown")
            assert sum("cache" in task.get_name() for task in asyncio.all_tasks()) == 2
            unpin()
            unpin()
            await asyncio.sleep(1300)
            assert not cache.services("asked") and not cache.services("pinned")
            assert asyncio.all_tasks() == {asyncio.current_task()}
            opened_before = store.opened
            await hot(cache, "greeter")
            assert ports(cache) == [80] and store.opened == opened_before + 1

    run(main())


def test_no_more_names_are_watched_than_allowed() -> None:
    async def main() -> None:
        async with opened(names="10") as (cache, store):
            await cache.register(one(name="kept"), ttl=86_400)
            await hot(cache, "kept")
            cache.subscribe("kept", lambda _: None)
            for number in range(100):
                with pytest.raises(ServiceNotFound):
                    await cache.get_service(f"nobody-{number}")
            assert sum("microreg cache" in task.get_name() for task in asyncio.all_tasks()) == 10
            assert store.gets == 101, "a name that is not watched is looked up"
            await asyncio.sleep(6)
            with pytest.raises(ServiceNotFound):
                await cache.get_service("nobody-100")
            await asyncio.sleep(1)
            assert cache.freshness("nobody-100").kind == "live"
            assert sum("microreg cache" in task.get_name() for task in asyncio.all_tasks()) == 10
            assert at_once(cache.get_service("kept")) == (one(name="kept"),)

    run(main())


def test_what_is_known_is_not_forgotten_while_the_store_is_away() -> None:
    async def main() -> None:
        async with opened(idle="1m", names="10") as (cache, store):
            for number in range(10):
                await cache.register(one(name=f"name-{number}"), ttl=86_400)
                await hot(cache, f"name-{number}")
            store.store.down = True
            await asyncio.sleep(3500)
            with pytest.raises(RegistryUnavailable):
                await cache.get_service("unknown")
            for number in range(10):
                assert at_once(cache.get_service(f"name-{number}"))
            await asyncio.sleep(300)
            assert asyncio.all_tasks() == {asyncio.current_task()}, "what is too old is forgotten as ever"

    run(main())


def test_names_that_are_followed_make_room_too() -> None:
    async def main() -> None:
        async with opened(names="10") as (cache, _):
            for number in range(50):
                cache.follow(f"name-{number}").used = False
            await asyncio.sleep(1)
            assert sum("microreg cache" in task.get_name() for task in asyncio.all_tasks()) == 10

    run(main())


def test_many_names_are_looked_after_in_small_steps() -> None:
    async def main() -> None:
        async with opened(idle="1m") as (cache, _):
            for number in range(600):
                cache.follow(f"name-{number}")
            await asyncio.sleep(120)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


# -- bad input, and registries that cannot ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"idle": "0s"}, "cache.idle=0: expected more than 0"),
        ({"names": "0"}, "cache.names=0: expected at least 1"),
        ({"disk": "/"}, "cache.disk=/: expected the path of a file"),
        ({"max_stale": "soon"}, "cache.max_stale: expected a duration"),
        ({"stale": "1h"}, "no option cache.stale, did you mean cache.max_stale"),
    ],
)
def test_options_that_cannot_be(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        options(**given)


def test_names_that_are_no_names() -> None:
    async def main() -> None:
        async with opened() as (cache, _):
            wrong: list[object] = [[], {}, None]
            for name in wrong:
                with pytest.raises(InvalidService):
                    await cache.get_service(name)  # type: ignore[arg-type]

    run(main())


def test_a_registry_without_a_watch_is_looked_up_each_time() -> None:
    class Mute(Store):
        def watch(self, name: str | None = None) -> Watch:
            def source() -> object:
                raise Unsupported("nothing to watch")

            return Watch(source)  # type: ignore[arg-type]

    async def main() -> None:
        async with opened(Mute()) as (cache, store):
            await cache.register(one())
            for number in range(1, 4):
                assert await cache.get_service("greeter") == (one(),)
                assert store.gets == number

    run(main())


def test_a_hot_name_belongs_to_its_loop_too() -> None:
    async def main() -> None:
        async with microreg.connect("cache+memory://") as cache:
            await cache.register(one())
            await cache.get_service("greeter")
            layer = cache.unwrap(CacheLayer)
            assert layer is not None
            await wait_until(lambda: layer.follow("greeter").live)

            async def elsewhere() -> None:
                with pytest.raises(WrongLoop):
                    await cache.get_service("greeter")

            await asyncio.to_thread(asyncio.run, elsewhere())

    support.run(main())
