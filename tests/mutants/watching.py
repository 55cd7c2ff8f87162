"""What a watch tells, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from microreg.backends.memory import MemoryRegistry
from microreg.backlog import Backlog
from microreg.checked import Checked
from microreg.errors import RegistryUnavailable, Unsupported
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Node, Service, Status
from microreg.toolkit import poll
from microreg.watch import Watch
from mutants.frame import Source, dies_by


@dies_by("watch.snapshot-first")
class WaitsForTheFirstNode(Source):
    """A store that says nothing where there is nothing."""

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        while not any(self.store.catalog.records(name)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        async with aclosing(self.memory(name)) as events:
            async for event in events:
                yield event


@dies_by("watch.snapshot-first")
class BeginsEmpty(Source):
    def told(self, event: Event) -> Event | None:
        return Snapshot() if isinstance(event, Snapshot) else event


@dies_by("watch.no-gap")
class ReadsThenFollows(Source):
    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        self.store.require()
        yield self.store.catalog.snapshot(name)
        await asyncio.sleep(0.005)
        async with aclosing(self.memory(name)) as events:
            await anext(events)
            async for event in events:
                yield event


@dies_by("watch.one-name")
class WatchesByPrefix(Checked):
    def watch(self, name: str | None = None) -> Watch:
        return super().watch(None)


@dies_by("watch.all-names", seen="go-micro, consul: Watch of all services is an error")
class WatchesOneNameOnly(MemoryRegistry):
    def watch(self, name: str | None = None) -> Watch:
        if name is None:
            raise Unsupported("must specify a single service to watch")
        return super().watch(name)


@dies_by("watch.all-names", seen="go-micro, mdns: a watch skips services without a version")
class SkipsWithoutVersion(Source):
    def told(self, event: Event) -> Event | None:
        return None if isinstance(event, Change) and not event.service.version else event


@dies_by("watch.actions", "deregister.removes")
class CallsDeletesUpdates(Source):
    def told(self, event: Event) -> Event | None:
        if isinstance(event, Change) and event.action is Action.DELETE:
            ill = Node(event.node.address, id=event.node.id, status=Status.CRITICAL)
            return Change.put(event.service.with_nodes(ill), event.previous)
        return event


@dies_by("watch.reasons")
class KnowsNoReasons(Source):
    def told(self, event: Event) -> Event | None:
        if isinstance(event, Change) and event.action is Action.DELETE:
            return Change.gone(event.service, Reason.REMOVED)
        return event


@dies_by("watch.reasons")
class CallsItLeavingOnceChanged(Source):
    """A node that was ever changed is told as deregistered when it expires."""

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        changed: set[tuple[str, str]] = set()
        async with aclosing(self.memory(name)) as events:
            async for event in events:
                if isinstance(event, Change):
                    key = event.service.name, event.node.id
                    if event.action is Action.UPDATE:
                        changed.add(key)
                    elif event.action is Action.DELETE and key in changed:
                        event = Change.gone(event.service, Reason.DEREGISTERED)
                yield event


@dies_by("register.default-ttl")
class DeafAfterTenSeconds(Source):
    """A watch that hears nothing for ten seconds is cut off by something on the way, and does not notice."""

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        last = loop.time()
        async with aclosing(self.memory(name)) as events:
            async for event in events:
                if loop.time() > last + 10:
                    await loop.create_future()
                last = loop.time()
                yield event


class _Eager(Backlog):
    """Keeps every event."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Event] = []

    def note(self, key: tuple[str, str], record: Service | None, reason: Reason | None) -> None:
        super().note(key, record, reason)
        if self.told and (event := super().take()):
            self._kept.append(event)

    def take(self) -> Event | None:
        return self._kept.pop(0) if self._kept else super().take()


@dies_by("watch.coalesces", "watch.bounded")
class KeepsEveryEvent(Checked):
    def watch(self, name: str | None = None) -> Watch:
        watch = Watch(super().watch(name).source, name)
        vars(watch)["_backlog"] = _Eager()
        return watch


@dies_by(
    *("watch.drops-nothing", "watch.law"),
    seen="go-micro, mdns and memory: what a slow watcher does not take in time is dropped",
)
class DropsWhenFull(Source):
    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        queue: asyncio.Queue[Event] = asyncio.Queue(8)

        def put(change: Change) -> None:
            with suppress(asyncio.QueueFull):
                queue.put_nowait(change)

        self.store.require()
        unsubscribe = self.store.catalog.subscribe(name, put)
        try:
            yield self.store.catalog.snapshot(name)
            while True:
                yield await queue.get()
        finally:
            unsubscribe()


@dies_by("watch.law")
class DeliversOutOfOrder(Source):
    """Two changes of a node that arrive together change places."""

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        waiting: list[Change] = []
        wake = asyncio.Event()

        def put(change: Change) -> None:
            waiting.append(change)
            wake.set()

        self.store.require()
        unsubscribe = self.store.catalog.subscribe(name, put)
        try:
            yield self.store.catalog.snapshot(name)
            while True:
                await wake.wait()
                await asyncio.sleep(0.01)
                wake.clear()
                batch, waiting[:] = waiting[::-1], []
                for change in batch:
                    yield change
        finally:
            unsubscribe()


@dies_by("watch.independent")
class OneWatchAtATime(Source):
    """A new watch takes the events away from the one before."""

    _latest = 0

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        OneWatchAtATime._latest += 1
        mine = OneWatchAtATime._latest
        async with aclosing(self.memory(name)) as events:
            async for event in events:
                if isinstance(event, Snapshot) or mine == OneWatchAtATime._latest:
                    yield event


class _Stubborn(Watch):
    async def close(self) -> None:
        """Leaves its consumer waiting."""


@dies_by("watch.closes", "watch.leaves-nothing")
class ClosesNothing(Checked):
    def watch(self, name: str | None = None) -> Watch:
        return _Stubborn(super().watch(name).source, name)


@dies_by("watch.leaves-nothing", "general.leaves-nothing")
class ForgetsItsHelpers(Source):
    _helpers: set[asyncio.Task[None]] = set()

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        self._helpers.add(asyncio.create_task(asyncio.sleep(30)))
        async with aclosing(self.memory(name)) as events:
            async for event in events:
                yield event


@dies_by("watch.ends-with-registry")
class ClosesBehindTheWatch(Checked):
    def watch(self, name: str | None = None) -> Watch:
        self._check()
        return Watch(self.inner.watch(name).source, name)


@dies_by("watch.resyncs", "watch.tells-what-was-lost", seen="python-etcd3: a watch hangs when its server dies")
class DeafAfterAnOutage(Source):
    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        with suppress(RegistryUnavailable):
            async with aclosing(self.memory(name)) as events:
                async for event in events:
                    yield event
        await asyncio.get_running_loop().create_future()


@dies_by("watch.resyncs")
class ForgetsWhatItTold(Checked):
    """After a gap everything comes as new, and nothing as gone."""

    def watch(self, name: str | None = None) -> Watch:
        class Amnesiac(Watch):
            async def _reconcile(self, snapshot: Snapshot, reason: Reason) -> None:
                if self._synced:
                    vars(self._backlog)["_seen"].clear()
                await super()._reconcile(snapshot, reason)

        return Amnesiac(super().watch(name).source, name)


@dies_by("watch.resyncs")
class LiveAllTheTime(Checked):
    """A watch around a watch, whose source does not hear how the one inside stands."""

    def watch(self, name: str | None = None) -> Watch:
        async def source() -> AsyncGenerator[Event, None]:
            queue: asyncio.Queue[Event] = asyncio.Queue(1)
            copying = asyncio.create_task(self._copy(name, queue))
            try:
                while True:
                    yield await queue.get()
            finally:
                copying.cancel()
                await asyncio.wait([copying])

        return Watch(source, name)

    async def _copy(self, name: str | None, queue: asyncio.Queue[Event]) -> None:
        async with super().watch(name) as watch:
            async for event in watch:
                await queue.put(event)


@dies_by("watch.pushes")
class ReadsNowAndThen(MemoryRegistry):
    """Says that it pushes, and polls."""

    def watch(self, name: str | None = None) -> Watch:
        async def read() -> tuple[Service, ...]:
            self.store.require()
            return tuple(self.store.catalog.records(name))

        return Watch(lambda: poll(read, 0.7))


@dies_by("watch.leaves-nothing-when-down")
class KeepsDialling(Source):
    """One more task for every attempt to reach a store that is away."""

    _dialling: set[asyncio.Task[None]] = set()

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        if self.store.down:
            self._dialling.add(asyncio.create_task(asyncio.sleep(3600)))
        async with aclosing(self.memory(name)) as events:
            async for event in events:
                yield event
