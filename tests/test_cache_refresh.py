"""An error at any await point of a refresh neither shrinks the cache nor poisons it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from caching import Store, at_once, hot, one, opened, ports, several
from microreg.errors import PermissionDenied, RegistryError, RegistryTimeout, RegistryUnavailable, ServiceNotFound
from microreg.events import Change, Snapshot
from microreg.layers.cache import CacheLayer, Freshness
from microreg.model import Service
from microreg.watch import Watch
from support import wait_until
from timeless import run

ERRORS: dict[str, Callable[[], BaseException]] = {
    "unavailable": lambda: RegistryUnavailable("gone"),
    "timeout": lambda: RegistryTimeout("late"),
    "refused": lambda: PermissionDenied("the token has expired"),
    "of a client library": lambda: ValueError("bad frame"),
    "of the system": lambda: OSError("reset"),
    "cancelled": asyncio.CancelledError,
}
each_error = pytest.mark.parametrize("error", list(ERRORS.values()), ids=list(ERRORS))


class Brittle(Store):
    """Awaits at several points of each lookup, of opening a watch and of telling an event; one of them breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0
        self.breaks_at = -1
        self.error: Callable[[], BaseException] = RuntimeError

    def arm(self, point: int, error: Callable[[], BaseException]) -> None:
        """Break at the point that is reached after so many others."""
        self.passed, self.breaks_at, self.error = 0, point, error

    @property
    def broke(self) -> bool:
        return self.passed > self.breaks_at

    async def _point(self) -> None:
        here, self.passed = self.passed, self.passed + 1
        await asyncio.sleep(0)
        if here == self.breaks_at:
            raise self.error()

    async def get_service(self, name: str) -> tuple[Service, ...]:
        await self._point()
        found = await super().get_service(name)
        await self._point()
        return found

    def watch(self, name: str | None = None) -> Watch:
        inner = super().watch(name)
        opened = inner.source

        async def source() -> AsyncGenerator[Snapshot | Change, None]:
            await self._point()
            async for event in opened():
                await self._point()
                yield event
                await self._point()

        return Watch(source, rng=inner.rng)


async def refreshed(cache: CacheLayer, store: Brittle, truth: tuple[Service, ...]) -> None:
    """In the end the cache holds what the store holds, live, and nothing is left of the error."""
    store.arm(-1, RuntimeError)
    await wait_until(lambda: cache.follow("greeter").live, timeout=60)
    await wait_until(lambda: cache.services("greeter") == truth, timeout=60)
    assert cache.freshness("greeter") == Freshness("live")


@each_error
def test_a_watch_that_is_read_again(error: Callable[[], BaseException]) -> None:
    async def main(point: int) -> bool:
        store = Brittle()
        async with opened(store) as (cache, _):
            await cache.register(several(80, 81, 82), ttl=86_400)
            await hot(cache)
            smallest: list[int] = []
            cache.subscribe("greeter", lambda _: smallest.append(len(ports(cache))))
            store.arm(point, error)
            store.store.catalog.interrupt(RegistryUnavailable("the connection was reset"))
            for port in (83, 84):
                await cache.register(one(port), ttl=86_400)
                for _ in range(30):
                    assert len(at_once(cache.get_service("greeter"))[0].nodes) >= 3
                    await asyncio.sleep(0.5)
            await asyncio.sleep(12)
            reached = store.broke
            await refreshed(cache, store, (several(80, 81, 82, 83, 84),))
            assert min(smallest) >= 3
            return reached

    points = 0
    while run(main(points)):
        points += 1
    assert points >= 5


@each_error
def test_a_first_lookup(error: Callable[[], BaseException]) -> None:
    """Callers get the services or an error of this package, never that there is no such name."""

    async def main(point: int) -> bool:
        store = Brittle()
        async with opened(store) as (cache, _):
            await cache.register(several(80, 81), ttl=86_400)
            store.arm(point, error)
            calls = [asyncio.create_task(cache.get_service("greeter")) for _ in range(3)]
            for call in calls:
                try:
                    assert await call == (several(80, 81),)
                except RegistryError as caught:
                    assert not isinstance(caught, ServiceNotFound)
            await asyncio.sleep(1)
            reached = store.broke
            await refreshed(cache, store, (several(80, 81),))
            return reached

    points = 0
    while run(main(points)):
        points += 1
    assert points >= 4


@each_error
def test_lookups_while_the_watch_cannot_be_opened(error: Callable[[], BaseException]) -> None:
    async def main(point: int) -> bool:
        store = Brittle()
        store.watches.clear()
        async with opened(store) as (cache, _):
            await cache.register(several(80, 81), ttl=86_400)
            await cache.get_service("greeter")
            store.arm(point, error)
            for _ in range(3):
                assert await cache.get_service("greeter") == (several(80, 81),)
            reached = store.broke
            store.watches.set()
            await refreshed(cache, store, (several(80, 81),))
            return reached

    points = 0
    while run(main(points)):
        points += 1
    assert points >= 5


@each_error
def test_lookups_of_the_shrink_guard(error: Callable[[], BaseException]) -> None:
    async def main(point: int) -> bool:
        store = Brittle()
        async with opened(store) as (cache, _):
            await cache.register(several(80, 81), ttl=86_400)
            await hot(cache)
            store.store.wipe()
            await wait_until(lambda: cache.freshness("greeter").kind == "stale", timeout=11)
            await wait_until(lambda: cache.follow("greeter").live, timeout=11)
            store.arm(point, error)
            for _ in range(14):
                assert len(at_once(cache.get_service("greeter"))[0].nodes) == 2
                await asyncio.sleep(1)
            reached = store.broke
            await asyncio.sleep(4)
            await refreshed(cache, store, ())
            return reached

    for point in range(6):
        assert run(main(point))
