"""Watch: an async iterator over a registry that survives a lost source, coalesces, and never gaps.

A backend gives one async generator function that yields a Snapshot and then Changes, and simply raises
when its source is lost. The Watch reopens it with jittered back-off, compares what it reads with what it
has told, and delivers the difference.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import chain
from types import TracebackType
from typing import Literal, Self

from microreg.errors import (
    ConfigError,
    InvalidService,
    RegistryClosed,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    Unsupported,
    WrongLoop,
)
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Service

__all__ = ["Source", "Watch"]

log = logging.getLogger("microreg.watch")

Source = Callable[[], AsyncGenerator[Event, None]]
"""Opens the stream of a store: a Snapshot, then Changes; raises when the stream is lost."""

_FINAL = (ConfigError, InvalidService, RegistryClosed, Unsupported, WrongLoop)
_FIRST_SNAPSHOT = 20.0
_BACKOFF_BASE = 0.1
_BACKOFF_CAP = 10.0
_BACKOFF_FLOOR = 0.05
_STABLE = 5.0
_STEP = 500

_Entry = tuple[Service | None, Reason | None]


def _as_is(error: Exception) -> RegistryError:
    if isinstance(error, RegistryError):
        return error
    found = RegistryError(f"{type(error).__name__}: {error}")
    found.__cause__ = error
    return found


class Watch:
    """``async with registry.watch("greeter") as events: async for event in events: ...``

    First one Snapshot, then Changes without a gap. Between two deliveries the changes of a node are
    coalesced: create+update = create, create+delete = nothing, update+delete = delete, delete+create =
    update (nothing if equal). Memory is bounded by the number of nodes, however slow the consumer.

    ``state`` is ``resyncing`` until the store has been read (again), then ``live``; ``error`` is why the
    source was last lost. Iteration raises only what cannot heal (:class:`RegistryClosed`,
    :class:`ConfigError`, :class:`InvalidService`, :class:`Unsupported`, :class:`WrongLoop`).
    """

    def __init__(
        self,
        source: Source,
        name: str | None = None,
        *,
        translate: Callable[[Exception], RegistryError] = _as_is,
        rng: random.Random | None = None,
    ) -> None:
        self.source = source
        self.name = name
        self.rng = rng or random.Random()
        self.state: Literal["live", "resyncing"] = "resyncing"
        self.error: RegistryError | None = None
        self._translate = translate
        self._task: asyncio.Task[None] | None = None
        self._fatal: RegistryError | None = None
        self._closed = False
        self._synced = False
        self._told = False
        self._seen: dict[str, dict[str, Service]] = {}
        self._dirty: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._wake: asyncio.Future[None] | None = None

    # -- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._fatal is not None:
            raise self._fatal
        if self._closed or self._task is not None:
            raise RegistryClosed("this watch was used before; call registry.watch() again for another")
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"microreg watch {self.name or '*'}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the watch and join its task. Closing twice is fine; a waiting iteration stops."""
        self._closed = True
        self._notify()
        await self.join()

    async def join(self) -> None:
        """End the task that reads the store and wait until it has let go of it."""
        task = self._task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])

    def fail(self, error: RegistryError) -> None:
        """End the watch with an error that its consumer gets (a registry that closes under it)."""
        if self._fatal is None and not self._closed:
            self._fatal = error
            self.error = error
            self.state = "resyncing"
            self._notify()
            if self._task is not None:
                self._task.cancel()

    # -- consumer --------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._task is None:
            raise RegistryClosed("this watch is not open: use `async with registry.watch(...) as events:`")
        if self._wake is not None:
            raise RegistryError("two tasks iterate one watch; open a watch for each")
        while not self._closed:
            if self._fatal is not None:
                raise self._fatal
            event = self._take()
            if event is not None:
                return event
            self._wake = self._task.get_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        raise StopAsyncIteration

    def _take(self) -> Event | None:
        if not self._told:
            return self._first() if self._synced else None
        while self._dirty:
            (name, node_id), (record, reason) = self._dirty.popitem(last=False)
            change = self._deliver(name, node_id, record, reason)
            if change is not None:
                return change
        return None

    def _first(self) -> Snapshot:
        self._told = True
        return Snapshot.of(chain.from_iterable(records.values() for records in self._seen.values()))

    def _deliver(self, name: str, node_id: str, record: Service | None, reason: Reason | None) -> Change | None:
        records = self._seen.get(name)
        if record is not None:
            if records is None:
                records = self._seen[name] = {}
            previous = records.get(node_id)
            records[node_id] = record
            return Change.put(record, previous)
        gone = records.pop(node_id, None) if records else None
        if gone is None:
            return None
        if not records:
            del self._seen[name]
        return Change.gone(gone, reason or Reason.REMOVED)

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- source ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            opened = loop.time()
            try:
                await self._pump()
                error: Exception = RegistryUnavailable("the stream ended")
            except asyncio.CancelledError:
                if self._ending():
                    raise
                error = RegistryUnavailable("the stream was cancelled")
            except Exception as caught:
                error = caught
            if self._ending():
                return
            self.state = "resyncing"
            self.error = self._translate(error)
            if isinstance(self.error, _FINAL):
                self._fatal = self.error
                self._notify()
                return
            attempt = 0 if loop.time() - opened > _STABLE else attempt + 1
            log.info("watch lost its source", extra={"service": self.name or "*", "error": str(self.error)})
            ceiling = min(_BACKOFF_CAP, _BACKOFF_BASE * 2.0 ** min(attempt, 16))
            await asyncio.sleep(max(_BACKOFF_FLOOR, self.rng.uniform(0, ceiling)))

    def _ending(self) -> bool:
        """Whether this task was told to end. A source may cancel itself, and may raise while it is closed."""
        task = asyncio.current_task()
        return self._closed or self._fatal is not None or (task is not None and task.cancelling() > 0)

    async def _pump(self) -> None:
        async with aclosing(self.source()) as events:
            limit = asyncio.timeout(_FIRST_SNAPSHOT)
            try:
                async with limit:
                    first = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise RegistryTimeout(f"the store sent no snapshot within {_FIRST_SNAPSHOT:g} s") from error
            if not isinstance(first, Snapshot):
                raise RegistryError(f"the source began with {type(first).__name__}; expected a Snapshot")
            await self._reconcile(first, Reason.LOST)
            count = 0
            async for event in events:
                if isinstance(event, Snapshot):
                    await self._reconcile(event, Reason.REMOVED)
                else:
                    self._change(event)
                count += 1
                if count % _STEP == 0:
                    await asyncio.sleep(0)

    async def _reconcile(self, snapshot: Snapshot, reason: Reason) -> None:
        present: defaultdict[str, set[str]] = defaultdict(set)
        for count, record in enumerate(snapshot.records, 1):
            name, node_id = record.name, record.nodes[0].id
            if self.name is None or name == self.name:
                present[name].add(node_id)
                self._note((name, node_id), record, None)
            if count % _STEP == 0:
                await asyncio.sleep(0)
        # What the consumer takes meanwhile goes from dirty to seen: every key that matters is in these copies.
        known = [(name, tuple(records)) for name, records in self._seen.items()]
        keys = chain(((name, node_id) for name, ids in known for node_id in ids), tuple(self._dirty))
        for count, key in enumerate(keys, 1):
            if key[1] not in present[key[0]]:
                self._note(key, None, reason)
            if count % _STEP == 0:
                await asyncio.sleep(0)
        self._synced = True
        self.state = "live"
        self._notify()

    def _change(self, change: Change) -> None:
        name = change.service.name
        if self.name is not None and name != self.name:
            return
        if change.action is Action.DELETE:
            self._note((name, change.node.id), None, change.reason)
        else:
            self._note((name, change.node.id), change.service, None)
        self._notify()

    def _note(self, key: tuple[str, str], record: Service | None, reason: Reason | None) -> None:
        """The store now holds ``record`` for this node: remember it where the consumer does not know."""
        if not self._told:
            self._deliver(*key, record, reason)
            return
        records = self._seen.get(key[0])
        seen = records.get(key[1]) if records else None
        if record is seen or record == seen:
            self._dirty.pop(key, None)
            return
        waiting = self._dirty.get(key)
        if waiting is None or waiting[0] != record:
            self._dirty[key] = record, reason
