"""One watch of the registry for all clients: what is there now, what has changed lately, and who is told.

A change is encoded once, whoever hears it. Each has an id, ``<epoch>-<sequence>``: the epoch is of this hub, the
sequence counts its changes. The last changes are kept, so that a client which reconnects hears exactly what it missed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from itertools import islice

from msgspec import Struct

from microreg import Registry, Service
from microreg.catalog import Catalog
from microreg.errors import RegistryError, RegistryUnavailable
from microreg.events import Action, Change, Event, Snapshot
from microreg.server.encoding import Snapshots, View, change_event
from microreg.server.streams import Names, Stream
from microreg.toolkit import end
from microreg.watch import HOPELESS, Watch

__all__ = ["Hub"]

log = logging.getLogger("microreg.server")

_RING_CHANGES = 20_000
_RING_BYTES = 16 * 1024 * 1024
_LOOK = 1.0
_SLOW = 1.0
"""Seconds within which the watch tells what was written."""


class _Entry(Struct, frozen=True, gc=False):
    name: str
    data: bytes


class Hub:
    """The state of a registry, and its changes as server-sent events. ``told`` is called with every change."""

    def __init__(self, registry: Registry) -> None:
        self.told: Callable[[Change], None] | None = None
        self.catalog = Catalog()
        self.epoch = os.urandom(6).hex()
        self.sequence = 0
        self.nodes = 0
        self.names: dict[str, int] = {}
        """How many nodes each name has."""
        self.streams: set[Stream] = set()
        self.opened = {"true": 0, "false": 0}
        """How many streams there were, by whether they were resumed."""
        self.followed = 0
        """How many names they follow, counted for each stream; one that follows all counts none."""
        self.stuck = 0
        """How many of them were ended since their client read nothing."""
        self._registry = registry
        self._ring: deque[_Entry] = deque()
        self._ring_bytes = 0
        self._by_name: dict[str | None, set[Stream]] = {}
        self._touched: dict[str, int] = {}
        self._snapshots = Snapshots()
        self._views: dict[str, View] = {}  # of names that have not changed since somebody asked
        self._sorted: list[str] | None = None
        self._watch: Watch | None = None
        self._read = asyncio.Event()
        self._unheard: dict[tuple[str, str], tuple[float, asyncio.Event, Service | None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to watch the registry, which must be open. Does not wait for it."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._follow(), name="microreg server watch"),
            loop.create_task(self._look(), name="microreg server watch state"),
        ]

    async def close(self) -> None:
        """End all streams and the watch."""
        self.drain()
        await end(*self._tasks)

    def drain(self) -> None:
        """End all streams, in order, and take no new ones."""
        self._draining = True
        self._end_streams()

    async def _follow(self) -> None:
        try:
            async with self._registry.watch() as watch:
                self._watch = watch
                async for event in watch:
                    self._heard(event)
        except RegistryError as error:
            log.error("the registry cannot be watched: %s", error, extra={"error": str(error)})

    async def _look(self) -> None:
        """Looks after the streams. When the registry is away they end: what their clients have may be stale."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK)
            if self.streams and not self.live:
                self._end_streams()
            now = loop.time()
            for stream in tuple(self.streams):
                stream.look(now)

    def _end_streams(self) -> None:
        for stream in tuple(self.streams):
            stream.end()

    # -- what there is ---------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether the registry is being watched."""
        return self._watch is not None and self._watch.state == "live" and self._read.is_set()

    @property
    def kept(self) -> int:
        """How many changes a client may have missed, and still be resumed."""
        return len(self._ring)

    @property
    def id(self) -> bytes:
        """The id of the latest change."""
        return b"%s-%d" % (self.epoch.encode(), self.sequence)

    async def ready(self, timeout: float = 2.0) -> None:
        """Wait until the registry is being watched. Raises RegistryUnavailable when it is not in time, or draining.

        What this server has acknowledged before is in the catalog then, unless its watch is slow to tell.
        """
        if not self.live and not self._draining:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._read.wait()
        for until, heard, _ in tuple(self._unheard.values()):
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await heard.wait()
        if not self.live or self._draining:
            error = None if self._watch is None else self._watch.error
            if isinstance(error, HOPELESS):
                raise error
            raise RegistryUnavailable(f"the registry is not watched: {error or 'the server ends'}")

    def expect(self, name: str, id: str, record: Service | None) -> None:
        """Say that this was written and acknowledged, None for a node that was withdrawn: the watch is to tell it."""
        self._is_heard(name, id)
        now = asyncio.get_running_loop().time()
        for key, (until, _, _) in tuple(islice(self._unheard.items(), 2)):  # the oldest: nothing was told
            if until < now:
                self._is_heard(*key)
        if self.catalog.get(name, id) != record:
            self._unheard[name, id] = now + _SLOW, asyncio.Event(), record

    def _is_heard(self, name: str, id: str) -> None:
        unheard = self._unheard.pop((name, id), None)
        if unheard is not None:
            unheard[1].set()

    def _heard(self, event: Event) -> None:
        if isinstance(event, Snapshot):
            self.catalog.apply(event)
            self._views.clear()
            for record in event.records:
                self._count(record.name, 1)
            for key in tuple(self._unheard):
                self._is_heard(*key)
            self._read.set()
            return
        key = event.service.name, event.node.id
        expected = self._unheard.get(key)
        if expected is not None and expected[2] == (None if event.action is Action.DELETE else event.service):
            self._is_heard(*key)
        name = event.service.name
        self.catalog.apply(event)
        if event.action is not Action.UPDATE:
            self._count(name, -1 if event.action is Action.DELETE else 1)
        self.sequence += 1
        self._touched[name] = self.sequence
        self._views.pop(name, None)
        entry = _Entry(name, change_event(self.id, event))
        self._ring.append(entry)
        self._ring_bytes += len(entry.data)
        while len(self._ring) > _RING_CHANGES or self._ring_bytes > _RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft().data)
        for group in (name, None):
            for stream in self._by_name.get(group, ()):
                stream.put(entry.data)
        if self.told is not None:
            self.told(event)

    def _count(self, name: str, step: int) -> None:
        self.nodes += step
        count = self.names.get(name, 0) + step
        if count == 0 or (count == 1 and step > 0):
            self._sorted = None
        if count:
            self.names[name] = count
        else:
            self.names.pop(name, None)
            self._touched.pop(name, None)

    # -- streams ---------------------------------------------------------------------------------

    def subscribe(self, stream: Stream) -> None:
        """Have a stream hear of its names from now on."""
        names = stream.names
        self.streams.add(stream)
        self.followed += len(names or ())
        for key in (None,) if names is None else names:
            self._by_name.setdefault(key, set()).add(stream)

    def unsubscribe(self, stream: Stream) -> None:
        """Forget a stream that was subscribed."""
        self.streams.discard(stream)
        self.followed -= len(stream.names or ())
        for key in (None,) if stream.names is None else stream.names:
            group = self._by_name.get(key, set())
            group.discard(stream)
            if not group:
                self._by_name.pop(key, None)

    def since(self, last: str, names: Names) -> list[bytes] | None:
        """The changes of these names after the one with the id ``last``; None where they are not known any more."""
        epoch, _, number = last.partition("-")
        if epoch != self.epoch or not number.isascii() or not number.isdigit():
            return None
        missed = self.sequence - int(number[:19])
        if not 0 <= missed <= len(self._ring):
            return None
        entries = islice(self._ring, len(self._ring) - missed, None)
        return [entry.data for entry in entries if names is None or entry.name in names]

    def snapshot(self, names: Names) -> AsyncGenerator[bytes, None]:
        """One snapshot event for each of these names (or one for all), as of now, in pieces of some size.

        Only the last one has an id: who has heard a part of them is not to go on as if it had heard all.
        """
        if self._sorted is None:
            self._sorted = sorted(self.names)
        views = [self._view(name) for name in (self._sorted if names is None else sorted(names))]
        return self._snapshots.of_all(views, self.id) if names is None else self._snapshots.of_each(views, self.id)

    def _view(self, name: str) -> View:
        view = self._views.get(name)
        if view is None:
            view = View(name, self._touched.get(name, 0), tuple(self.catalog.records(name)))
            if view.records:
                self._views[name] = view
        return view
