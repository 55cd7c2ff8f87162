"""``cache+``: lookups without I/O. One watch per name that was asked for keeps a catalog up to date.

While the store is away the cache serves what it last knew (``cache.max_stale``); a store that has lost most nodes of
a name at once is not believed at once (``cache.grace``); a file may keep what is known over restarts (``cache.disk``).
"""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import AbstractEventLoop, get_running_loop
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from microreg import options as config
from microreg import process
from microreg.catalog import Catalog, Subscriber
from microreg.checked import Checked
from microreg.errors import RegistryClosed, ServiceNotFound
from microreg.events import Snapshot
from microreg.findings import Finding
from microreg.layers.cache import examination
from microreg.layers.cache.disk import Disk, Known
from microreg.layers.cache.followed import Followed, Means, Task
from microreg.layers.cache.freshness import Freshness
from microreg.layers.cache.options import CacheOptions
from microreg.model import Service
from microreg.registry import Layer, Registry
from microreg.rules import check_name
from microreg.url import RegistryURL

__all__ = ["CacheLayer", "CacheOptions", "Freshness", "cached"]

_SWEEP = 5.0
"""Seconds from one look at all names to the next; less where ``max_stale`` or ``idle`` are short."""
_SWEEP_FLOOR = 0.05
_SWEEP_STEP = 500
"""Names that are looked at before others of the loop get their turn."""
_READS = 8
"""Lookups at the same time for which nobody waits."""
_CANDIDATES = 16
"""Names that are looked at for one that can make room."""


class CacheLayer(Layer):
    """Answers ``get_service`` from a catalog that watches keep true. A hot name costs no I/O and never suspends.

    ``rng`` and ``clock`` (the wall clock that ages what is on disk) are for tests.
    """

    Options = CacheOptions
    inside_composites = False  # who asks for the cache of a composite would get that of one part

    def __init__(
        self,
        inner: Registry,
        url: RegistryURL,
        options: config.Options,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(inner, url, options)
        settings = options if isinstance(options, CacheOptions) else CacheOptions()
        self._catalog = Catalog()
        self._disk = Disk(settings.disk, url, settings.max_stale, self._known, clock) if settings.disk else None
        reads = asyncio.Semaphore(_READS)
        self._means = Means(inner, self._catalog, settings, rng or random.Random(), self._disk, reads)
        self._authoritative = "authoritative" in self.capabilities
        self._followed: dict[str, Followed] = {}
        self._pins: Counter[str] = Counter()
        self._leaving: set[Task] = set()
        self._sweeper: asyncio.Handle | None = None
        self._loop: AbstractEventLoop | None = None  # that the watches run in
        self._over = ""  # why no call is possible any more
        process.in_child(self, CacheLayer._after_fork)
        checked = inner.unwrap(Checked)
        if checked is not None:
            checked.users.add(self)

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open what is inside, and read the snapshot file where there is one."""
        await self.inner.open()
        if self._disk is not None:
            try:
                await self._disk.open(self._catalog)
            except BaseException:
                await self.inner.close()
                raise

    async def close(self) -> None:
        """Stop watching, write the snapshot file for the last time, then close what is inside."""
        try:
            await self.stop()
        finally:
            await self.inner.close()

    async def stop(self) -> None:
        """Stop watching and leave what is inside open: for a cache around a registry that others own."""
        self._over = self._over or "was closed; connect() again for another"
        if self._sweeper is not None:
            self._sweeper.cancel()
        try:
            if self._disk is not None:
                await self._disk.close()
        finally:
            followed = list(self._followed.values())
            self._followed.clear()
            for each in followed:
                self._let_go(each)
            await process.end(*self._leaving)

    def _after_fork(self) -> None:
        if self._followed:
            self._over = process.FORKED
            self._followed.clear()
        self._leaving.clear()
        self._disk = self._sweeper = None

    async def examine(self) -> tuple[Finding, ...]:
        """What is found inside, and what there is to say of this cache's options."""
        return (*await self.inner.examine(), *examination.findings(self._means.options))

    # -- asking ----------------------------------------------------------------------------------

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """What the catalog holds; a name that is not known yet is asked for once, however many callers wait.

        While the store is away: what was last known, for ``cache.max_stale``, then RegistryUnavailable.
        """
        try:
            followed = self._followed.get(name)
        except TypeError:  # it cannot even be looked up
            check_name(name)
            raise
        if followed is not None and followed.hot and get_running_loop() is self._loop:
            services = self._catalog.services(name)
            if services:
                followed.used = True
                return services
        return await self._cold(name)

    async def _cold(self, name: str) -> tuple[Service, ...]:
        if name not in self._followed and not self._over and not self._room():
            return await self.inner.get_service(name)
        followed = self.follow(name)
        if self._authoritative and followed.live and followed.absent:  # a server cannot promise for what is behind it
            raise ServiceNotFound(name)
        return await followed.ask()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are watched now. Any thread may ask."""
        return tuple(self._followed)

    def freshness(self, name: str) -> Freshness:
        """How fresh what is known of a name is: ``live``, ``cached``, ``stale``, ``disk`` or ``unknown``."""
        followed = self._followed.get(name)
        return Freshness("unknown") if followed is None else followed.freshness()

    # -- following -------------------------------------------------------------------------------

    def follow(self, name: str) -> Followed:
        """Start to watch a name, or go on watching it; who wants it to stay watched subscribes to it."""
        if self._over:
            raise RegistryClosed(f"{self.url} {self._over}")
        if self._loop is not None:
            process.check_loop(self._loop, self.url)
        followed = self._followed.get(name)
        if followed is None:
            self._room()
            followed = self._followed[name] = Followed(name, self._means, self._forget)
            self._loop = get_running_loop()
            if self._sweeper is None:
                self._sweep_later()
        followed.used = True
        return followed

    def services(self, name: str) -> tuple[Service, ...]:
        """What is known of a name now, without asking; empty where nothing is."""
        return self._catalog.services(name)

    def subscribe(self, name: str, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with each change of a followed name, until the returned function is called.

        Until then the name is watched, whether or not somebody asks for it.
        """
        unsubscribe: Callable[[], None] | None = self._catalog.subscribe(name, subscriber)
        self._pins[name] += 1

        def end() -> None:
            nonlocal unsubscribe
            if unsubscribe is not None:
                unsubscribe()
                unsubscribe = None
                self._pins[name] -= 1
                if not self._pins[name]:
                    del self._pins[name]

        return end

    def _forget(self, followed: Followed) -> None:
        if self._followed.get(followed.name) is followed:
            del self._followed[followed.name]
            self._let_go(followed)

    def _let_go(self, followed: Followed) -> None:
        for task in followed.leave():
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    # -- bounds ----------------------------------------------------------------------------------

    def _room(self) -> bool:
        """Whether one more name may be watched; one that nobody asked for lately makes room."""
        if len(self._followed) < self._means.options.names:
            return True
        for name, followed in list(islice(self._followed.items(), _CANDIDATES)):
            if self._unused(followed):
                self._unwatch(followed)
                return True
            self._followed[name] = self._followed.pop(name)  # to the end of the line
        return False

    def _unused(self, followed: Followed) -> bool:
        return not (followed.used or followed.busy or followed.precious or followed.name in self._pins)

    def _unwatch(self, followed: Followed) -> None:
        self._forget(followed)
        self._catalog.replace(Snapshot(), followed.name)

    def _sweep_later(self) -> None:
        options = self._means.options
        pause = min(_SWEEP, options.max_stale / 10, options.idle / 2)
        loop = get_running_loop()
        self._sweeper = loop.call_later(max(_SWEEP_FLOOR, pause), self._sweep)

    def _sweep(self, rest: Iterator[Followed] | None = None) -> None:
        """Look after some names, then let others have their turn."""
        rest = iter(tuple(self._followed.values())) if rest is None else rest
        loop = get_running_loop()
        now = loop.time()
        some = tuple(islice(rest, _SWEEP_STEP))
        for followed in some:
            if self._followed.get(followed.name) is not followed:
                continue
            followed.check(now)
            if not self._unused(followed):
                followed.used, followed.used_at = False, now
            elif now - followed.used_at >= self._means.options.idle:
                self._unwatch(followed)
        if len(some) == _SWEEP_STEP:
            self._sweeper = loop.call_soon(self._sweep, rest)
        elif self._followed:
            self._sweep_later()
        else:
            self._sweeper = None

    def _known(self, names: Iterable[str] | None) -> Known:
        """For the disk: the records of these names, or of all, that are true now."""
        known: Known = {}
        for name in tuple(self._followed) if names is None else names:
            followed = self._followed.get(name)
            if followed is not None and followed.freshness().kind == "live":
                known[name] = tuple(self._catalog.records(name))
        return known


def cached(registry: Registry) -> CacheLayer | None:
    """The cache that this registry is, or has behind layers that change no answer; None where it is uncached."""
    while isinstance(registry, Layer) and registry.transparent:
        registry = registry.inner
    return registry if isinstance(registry, CacheLayer) else None
