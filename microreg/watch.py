"""Watch: an async iterator over a registry that survives a lost source, coalesces, and never gaps.

A backend gives one async generator function that yields a Snapshot and then Changes, and simply raises
when its source is lost. The Watch reopens it with jittered back-off, compares what it reads with what it
has told, and delivers the difference.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self
from weakref import ref

from microreg import process
from microreg.backlog import Backlog
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
from microreg.translation import unexpected

__all__ = ["HOPELESS", "Source", "Tally", "Watch", "reading"]

log = logging.getLogger("microreg.watch")

Source = Callable[[], AsyncGenerator[Event, None]]
"""Opens the stream of a store: a Snapshot, then Changes; raises when the stream is lost."""

HOPELESS = (ConfigError, InvalidService, RegistryClosed, Unsupported, WrongLoop)
"""Errors that calling again does not heal, however long one waits."""

_FIRST_SNAPSHOT = 20.0
"""Seconds after which a source that says nothing at all is opened again."""
_BACKOFF_BASE = 0.1
_BACKOFF_CAP = 10.0
_BACKOFF_FLOOR = 0.05
"""Seconds that a lost source is left alone at least, however the dice fall."""
_STABLE = 5.0
"""Seconds after which a source that is lost again has not failed in a row."""
_STEP = 500
"""Nodes that are gone through before others of the loop get their turn."""

_reading: ContextVar[Callable[[], Watch | None]] = ContextVar("microreg.watch", default=lambda: None)
"""The watch whose source runs here; a weak reference, since tasks that a source starts inherit it."""


@dataclass(slots=True)
class Tally:
    """What is counted of one watch, or of several together."""

    resyncs: int = 0
    """How often a store was read again, after a gap, and the difference told."""


def reading() -> Watch | None:
    """The watch whose source runs here, or started the task that runs here; None elsewhere."""
    return _reading.get()()


def _nobody() -> None:
    """Nobody wants to hear of it."""


class Watch:
    """``async with registry.watch("greeter") as events: async for event in events: ...``

    First one Snapshot, then Changes without a gap. Between two deliveries the changes of a node are
    coalesced: create+update = create, create+delete = nothing, update+delete = delete, delete+create =
    update (nothing if equal). Memory is bounded by the number of nodes, however slow the consumer.

    ``state`` is ``resyncing`` until the store has been read (again), then ``live``; ``error`` is why the
    source was last lost. A watch that the source of another one opens, in the task in which that source runs
    (as a layer does to change what is told), is a part of it until it is closed: while it is ``resyncing``, both
    are, and its errors are told by both. Iteration raises only what cannot heal (:class:`RegistryClosed`,
    :class:`ConfigError`, :class:`InvalidService`, :class:`Unsupported`, :class:`WrongLoop`).
    """

    def __init__(
        self,
        source: Source,
        name: str | None = None,
        *,
        translate: Callable[[Exception], RegistryError] = unexpected,
        rng: random.Random | None = None,
    ) -> None:
        self.source = source
        self.name = name
        self.rng = rng or random.Random()
        self.backoff = _BACKOFF_BASE
        """Seconds within which a lost source is opened again, at some random moment; each failure doubles them."""
        self.error: RegistryError | None = None
        self.tally = Tally()
        """Its resyncs; a registry has all its watches count in one."""
        self.on_state: Callable[[], None] = _nobody
        """Called when ``state`` or ``error`` may be another."""
        self._live = False
        self._doubt: RegistryError | None = None
        self._outer: Watch | None = None
        self._parts: tuple[Watch, ...] = ()
        self._translate = translate
        self._task: asyncio.Task[None] | None = None
        self._fatal: RegistryError | None = None
        self._closed = False
        self._synced = False
        self._backlog = Backlog()
        self._wake: asyncio.Future[None] | None = None

    @property
    def state(self) -> Literal["live", "resyncing"]:
        """``resyncing`` until the store has been read (again), and every part has read its own, then ``live``."""
        sure = self._live and self._doubt is None
        return "live" if sure and all(part.state == "live" for part in self._parts) else "resyncing"

    def doubt(self, error: RegistryError | None) -> None:
        """For a source that joins several stores, and goes on where one is lost: not ``live``, until told None.

        A source that begins anew begins without doubt.
        """
        if error is not self._doubt:
            self._doubt = error
            self._tell(error)

    @property
    def active(self) -> bool:
        """Whether it was entered, and is not over."""
        return self._task is not None and self._fatal is None and not self._closed

    # -- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._fatal is not None:
            raise self._fatal
        if self._closed or self._task is not None:
            raise RegistryClosed("this watch was used before; call registry.watch() again for another")
        outer = _reading.get()()
        if outer is not None and outer._task is asyncio.current_task():  # not in a task that the source started
            self._outer = outer
            self.backoff = max(self.backoff, outer.backoff)
            outer._parts = (*outer._parts, self)
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
        try:
            await self.join()
        finally:
            outer, self._outer = self._outer, None
            if outer is not None:
                outer._parts = tuple(part for part in outer._parts if part is not self)

    async def join(self) -> None:
        """End the task that reads the store and wait until it has let go of it."""
        if self._task is not None:
            await process.end(self._task)

    def fail(self, error: RegistryError) -> None:
        """End the watch with an error that its consumer gets (a registry that closes under it)."""
        if self._fatal is None and not self._closed:
            self._fatal = error
            self._lost(error)
            if self._task is not None and process.runs_here(self._task):
                self._notify()
                self._task.cancel()

    def _lost(self, error: RegistryError) -> None:
        """Not live any more, because of this error; the watches that this one is a part of tell it too."""
        self._live = False
        self._doubt = None
        self._tell(error)

    def _tell(self, error: RegistryError | None) -> None:
        watch: Watch | None = self
        while watch is not None:
            watch.error = error or watch.error
            watch.on_state()
            watch = watch._outer

    # -- consumer --------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._task is None:
            raise RegistryClosed("this watch is not open: use `async with registry.watch(...) as events:`")
        if self._wake is not None and self._fatal is None:
            raise RegistryError("two tasks iterate one watch; open a watch for each")
        while not self._closed:
            if self._fatal is not None:
                raise self._fatal
            event = self._backlog.take() if self._synced else None
            if event is not None:
                return event
            self._wake = process.own_loop(self._task, "this watch").create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        raise StopAsyncIteration

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- source ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        _reading.set(ref(self))
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
            why = self._translate(error)
            self._lost(why)
            if isinstance(why, HOPELESS):
                self._fatal = why
                self._notify()
                return
            attempt = 0 if loop.time() - opened > _STABLE else attempt + 1
            log.info("watch lost its source", extra={"service": self.name or "*", "error": str(why)})
            ceiling = min(_BACKOFF_CAP, self.backoff * 2.0 ** min(attempt, 16))
            await asyncio.sleep(max(_BACKOFF_FLOOR, self.rng.uniform(0, ceiling)))

    def _ending(self) -> bool:
        """Whether this task was told to end. A source may cancel itself, and may raise while it is closed."""
        return self._closed or self._fatal is not None or process.cancelling()

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
                self._backlog.note((name, node_id), record, None)
            if count % _STEP == 0:
                await asyncio.sleep(0)
        for count, key in enumerate(self._backlog.keys(), 1):
            if key[1] not in present[key[0]]:
                self._backlog.note(key, None, reason)
            if count % _STEP == 0:
                await asyncio.sleep(0)
        if self._synced and reason is Reason.LOST:
            self.tally.resyncs += 1
        self._synced = self._live = True
        self._tell(None)
        self._notify()

    def _change(self, change: Change) -> None:
        name = change.service.name
        if self.name is not None and name != self.name:
            return
        if change.action is Action.DELETE:
            self._backlog.note((name, change.node.id), None, change.reason)
        else:
            self._backlog.note((name, change.node.id), change.service, None)
        self._notify()
