"""One watched name of the cache: its watch, the one lookup that callers share, and how fresh what it knows is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Literal

from microreg import process
from microreg.catalog import Catalog
from microreg.errors import (
    RegistryClosed,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
)
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.layers.cache.disk import Disk
from microreg.layers.cache.freshness import Freshness
from microreg.layers.cache.guard import Guard
from microreg.layers.cache.options import CacheOptions
from microreg.model import Service
from microreg.registry import Registry
from microreg.watch import HOPELESS, Watch

__all__ = ["Followed", "Means", "Task"]

Task = asyncio.Task[None] | asyncio.Task[tuple[Service, ...]]
"""A task of a watched name."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the watched names of one cache share. ``reads`` bounds the lookups that nobody waits for."""

    inner: Registry
    catalog: Catalog
    options: CacheOptions
    rng: random.Random
    disk: Disk | None
    reads: asyncio.Semaphore


_MOMENT = 0.001

_BACKOFF = 5.0
"""Seconds within which a lost watch is opened again: who has a cache can wait, and a fleet must not come at once."""


class _TooOld(RegistryUnavailable):
    """Ends a watch whose store was away for too long: the next one tells everything again."""


class Followed:
    """One watched name. ``task`` runs until the watch has failed for good (``error``) or the name is let go of.

    ``hot`` says that what the catalog holds of the name may be served without asking; ``absent``, that the store, when
    it last had nothing to answer, was sure of it. What is known comes, in this order, from the watch, from a lookup
    while the watch has not spoken, from the disk. Only the watch is believed that a node is gone.
    """

    def __init__(self, name: str, means: Means, forget: Callable[[Followed], None]) -> None:
        self.name = name
        self.error: RegistryError | None = None
        self.hot = False
        self.absent = False
        self.used = True
        self.used_at = 0.0
        self._means = means
        self._watch = self._new_watch()
        self._catalog = means.catalog
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._source: Literal["watch", "lookup", "disk"] | None = None
        self._true_at: float | None = None  # loop.time() when what is or was known was last known to be true
        self._left = False
        self._trouble: RegistryError | None = None  # of the watch before this one
        self._flight: asyncio.Task[tuple[Service, ...]] | None = None
        self._guard = Guard(name, means.catalog, means.options.grace, self._look_again, means.rng)
        self._news: asyncio.Future[None] = self._loop.create_future()  # the watch has spoken, or the disk
        self._wait: asyncio.TimerHandle | None = None  # cache.wait, while the disk may still be used
        self._end: asyncio.TimerHandle | None = None  # of cache.max_stale
        if means.disk is not None and means.disk.recall(name) is not None:
            self._wait = self._loop.call_later(means.options.wait, self._use_disk)
        self.task = asyncio.create_task(self._run(), name=f"microreg cache {name}")

    @property
    def live(self) -> bool:
        """Whether the watch has read the store, the catalog has heard of it, and the watch still hears the store."""
        return self._source == "watch" and self._watch.state == "live"

    @property
    def reason(self) -> str:
        """Why the watch is not live; empty where nothing went wrong so far."""
        return str(self._why() or "")

    @property
    def busy(self) -> bool:
        """Whether a lookup is on its way."""
        return self._flight is not None

    @property
    def precious(self) -> bool:
        """Whether it holds what the store cannot be asked for now."""
        return self._source is not None and not self.live

    def freshness(self) -> Freshness:
        """How fresh what is known is. Any thread may ask."""
        now, since, source, true_at = self._loop.time(), self._guard.since, self._source, self._true_at
        if since is not None:
            grace = f"{self._means.options.grace:g} s (cache.grace)"
            lost = f"the store has lost most nodes of {self.name!r} at once; they stay until it has said so for {grace}"
            return Freshness("stale", now - since, RegistryUnavailable(lost))
        if self.live:
            return Freshness("live")
        if source is None or true_at is None:
            return Freshness("unknown", error=self._why())
        kind: Mapping[str, Literal["stale", "cached", "disk"]] = {"watch": "stale", "lookup": "cached", "disk": "disk"}
        return Freshness(kind[source], now - true_at, self._why())

    def check(self, now: float) -> None:
        """To be called every few seconds: gives up what is too old, and notes what is true."""
        if self.live and self._guard.since is None:
            self._true_at = now
        elif self._source is not None and self._true_at is not None:
            since = self._true_at if self._guard.since is None else self._guard.since
            if now - since > self._means.options.max_stale:
                self._give_up()

    def leave(self) -> Iterator[Task]:
        """Stop following. Yields what goes on for a moment, and a lookup that somebody may wait for."""
        self._forget_disk()
        self._guard.drop()
        self._left = True
        if self._end is not None:
            self._end.cancel()
        for task in (self.task, self._guard.task):
            if task is not None and process.joinable(task) and task.cancel():
                yield task
        if self._flight is not None and process.joinable(self._flight):
            yield self._flight

    def _why(self) -> RegistryError | None:
        return self.error or self._watch.error or self._trouble

    # -- asking ------------------------------------------------------------------------------------

    async def ask(self) -> tuple[Service, ...]:
        """Look the name up in the store; callers at the same time share one lookup, and its error.

        Where the store does not answer, what is known is: from a lookup before, or from the disk (which need not
        wait longer than ``cache.wait`` for an error).
        """
        flight = self._fly()
        first: tuple[Task | asyncio.Future[None], ...] = (flight, self._news)
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not (self.hot and self._catalog.services(self.name)):
            await asyncio.wait({flight})
        if flight.done():
            try:
                return self._landed_with(flight)
            except RegistryError as error:
                absent = isinstance(error, ServiceNotFound) and error.authoritative
                if absent or isinstance(error, HOPELESS) or not (self._use_disk() or self._catalog.services(self.name)):
                    raise self._explained(error) from error.__cause__
        return self._catalog.services(self.name)

    async def _look_again(self) -> tuple[Service, ...]:
        async with self._means.reads:
            flight = self._fly()
            await asyncio.wait({flight})
            return self._landed_with(flight)

    def _fly(self) -> asyncio.Task[tuple[Service, ...]]:
        if self._flight is None:
            lookup = self._means.inner.get_service(self.name)
            self._flight = asyncio.create_task(lookup, name=f"microreg lookup {self.name}")
            self._flight.add_done_callback(self._landed)
        return self._flight

    def _landed_with(self, flight: asyncio.Task[tuple[Service, ...]]) -> tuple[Service, ...]:
        if flight.cancelled():
            raise RegistryClosed(f"the cache was closed before {self.name!r} was found")
        return flight.result()

    def _landed(self, flight: asyncio.Task[tuple[Service, ...]]) -> None:
        """What a lookup says counts until the watch speaks."""
        self._flight = None
        error = None if flight.cancelled() else flight.exception()
        if isinstance(error, ServiceNotFound):
            self.absent = error.authoritative
        if flight.cancelled() or self._left or self._source == "watch":
            return
        if error is None:
            self._forget_disk()
            self._catalog.replace(Snapshot(flight.result()), self.name)
            self._source, self._true_at, self.hot = "lookup", self._loop.time(), False
        elif isinstance(error, ServiceNotFound) and error.authoritative and self._source != "disk":
            self._forget_disk()
            self._catalog.replace(Snapshot(), self.name)
            self._source = self._true_at = None

    def _explained(self, error: RegistryError) -> RegistryError:
        if self._source is not None or self._true_at is None or not isinstance(error, RegistryUnavailable):
            return error
        kind = RegistryTimeout if isinstance(error, RegistryTimeout) else RegistryUnavailable
        age = self._loop.time() - self._true_at
        return kind(
            f"{error}; what was last known of {self.name!r} is {age:.0f} s old, "
            f"more than {self._means.options.max_stale:g} s (cache.max_stale)"
        )

    # -- what is known -----------------------------------------------------------------------------

    def _new_watch(self) -> Watch:
        """A watch that notes the moment at which it loses its source; ``state`` would only tell when asked."""
        watch = self._means.inner.watch(self.name)
        watch.backoff = _BACKOFF
        opened = watch.source

        async def source() -> AsyncGenerator[Event, None]:
            heard = False
            try:
                async with aclosing(opened()) as events:
                    async for event in events:
                        heard = True
                        yield event
            finally:
                if heard and not self._left:
                    self._lost()

        watch.source = source
        return watch

    def _lost(self) -> None:
        if self._source == "watch" and process.running_loop() is self._loop:
            self._true_at = now = self._loop.time()
            if self._end is not None:
                self._end.cancel()
            self._end = self._loop.call_at(now + self._means.options.max_stale + _MOMENT, self._check_now)

    def _check_now(self) -> None:
        self.check(self._loop.time())

    async def _run(self) -> None:
        earliest = 0.0
        try:
            while True:
                if (early := earliest - self._loop.time()) > 0:  # a store that comes and goes is not stormed
                    await asyncio.sleep(early)
                earliest = self._loop.time() + self._means.rng.uniform(0, _BACKOFF)
                with suppress(_TooOld):
                    async with self._watch as events:
                        async for event in events:
                            self._hear(event)
                self._watch = self._new_watch()
        except RegistryError as error:
            self.error = error
            self._forget_disk()
            self._clear()
            self._forget(self)

    def _hear(self, event: Event) -> None:
        match event:
            case Snapshot():
                self._forget_disk()
                self._catalog.replace(event, self.name)
                self._source, self.hot = "watch", True
                if self._means.disk is not None:
                    self._means.disk.answered(self.name)
                self._tell()
            case Change(action=Action.DELETE, reason=Reason.LOST):
                self._guard.lost(event.node.id)
            case Change():
                self._guard.told(event.node.id)
                self._catalog.apply(event)
        self._true_at = self._loop.time()

    def _use_disk(self) -> bool:
        """Serve what the file says, if it is not too old by now; whether it is served from now on."""
        possible = self._wait is not None
        self._forget_disk()
        found = self._means.disk.recall(self.name) if possible and self._means.disk is not None else None
        if found is None:
            return False
        self._catalog.replace(Snapshot.of(found.records), self.name)
        self._source, self._true_at, self.hot = "disk", self._loop.time() - found.age, True
        self._tell()
        return True

    def _forget_disk(self) -> None:
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None

    def _tell(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    def _give_up(self) -> None:
        """Nothing is known any more. The watch begins anew when it can: it would only tell what differs."""
        told = self._source == "watch"
        self._trouble = self._why()
        self._clear()
        if told:
            self._watch.fail(_TooOld(f"what was known of {self.name!r} is too old"))

    def _clear(self) -> None:
        self._guard.drop()
        self._catalog.replace(Snapshot(), self.name)
        self._source, self.hot = None, False
