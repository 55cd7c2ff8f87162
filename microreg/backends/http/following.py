"""One stream of events for all watches of a client: it is shared, resumed, and opened anew when names are added."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing
from itertools import chain

import msgspec

from microreg.backends.http.client import Client
from microreg.backends.http.eventstream import Parser, Received
from microreg.catalog import Catalog
from microreg.errors import RegistryError, RegistryTimeout, RegistryUnavailable
from microreg.events import Event, Reason, Snapshot
from microreg.model import Service
from microreg.toolkit import decode_all, end

__all__ = ["Following"]

_SILENCE = 12.0
"""Seconds without a byte after which a stream is lost. The server gives a sign of life every five."""
_RESUME = 3.0
"""Seconds that the stream which follows may take to begin: a black hole is told of within 20."""
_GATHER = 0.005
_PAUSE = 0.5
_STABLE = 1.0
_SLICE = 500
_SPARE = 16
"""Names beyond those wanted that a stream may bring, before it is opened anew without them."""
_MOST = 5_000
"""Names from which on a stream brings everything: the server takes ten thousand of them."""
_NOTHING = frozenset[str | None]()


class _Snapshot(msgspec.Struct):
    name: str | None
    services: list[msgspec.Raw]


class _Change(msgspec.Struct):
    action: str
    service: msgspec.Raw
    reason: str | None = None


_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode
_decode_change = msgspec.json.Decoder(_Change).decode
_REASONS = {str(reason): reason for reason in Reason}


class Following:
    """Folds the stream into a catalog, which is the source of every watch.

    While somebody follows, one task reads. A stream that breaks is resumed after the last event, at once; when that
    does not work, everybody who follows gets the error, and follows again when it suits (a Watch does, with
    back-off). What was known is kept for that: where the server can resume, nothing is lost but time.
    """

    def __init__(self, client: Client, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._catalog = Catalog()
        self._wanted: Counter[str | None] = Counter()
        self._waiting: dict[str | None, set[asyncio.Future[None]]] = {}
        self._asked = _NOTHING  # what the stream brings, or will when it is open
        self._open = False
        self._known = set[str | None]()  # what the catalog has, as of the last id
        self._missing = set[str | None]()  # what the stream has yet to bring, of what it was opened for
        self._last = ""
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # another set of names is wanted
        self._settled = asyncio.Event()  # the stream has brought what it was opened for
        self._not_before = 0.0
        self._warned = set[str]()

    async def follow(self, name: str | None) -> AsyncGenerator[Event, None]:
        """A source for a Watch: what there is of this name (None: of all) and then every change.

        Raises RegistryUnavailable or PermissionDenied when the stream is lost.
        """
        self._wanted[name] += 1
        try:
            await self._until_live(name)
            async with aclosing(self._catalog.changes(name)) as events:
                async for event in events:
                    yield event
        finally:
            await self._unfollow(name)

    async def close(self) -> None:
        """End the stream, and wait until its connection is closed."""
        task, self._task = self._task, None
        self._asked, self._open = _NOTHING, False
        if task is not None:
            await end(task)

    async def _until_live(self, name: str | None) -> None:
        if self._open and _covers(self._asked, name) and _covers(self._known, name):
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, set()).add(waiting)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="microreg http stream")
        elif not _covers(self._asked, name):
            self._changed.set()
        try:
            await waiting
        finally:
            self._waiting[name].discard(waiting)
            if not self._waiting[name]:
                del self._waiting[name]

    async def _unfollow(self, name: str | None) -> None:
        self._wanted[name] -= 1
        if not self._wanted[name]:
            del self._wanted[name]
        if not self._wanted:
            await self.close()
        elif None in self._asked:
            if None not in self._names():
                self._changed.set()
        elif len(self._asked) > 2 * len(self._wanted) + _SPARE:
            self._changed.set()

    # -- the stream ------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        resuming = False
        error: RegistryError = RegistryUnavailable("the registry was closed")
        try:
            await asyncio.sleep(self._not_before - loop.time())
            while True:
                await asyncio.sleep(_GATHER)
                began = loop.time()
                lost = await self._one_stream(min(self._timeout, _RESUME) if resuming else self._timeout)
                if lost is None:
                    resuming = False
                    continue
                if not self._open or (resuming and loop.time() - began < _STABLE):
                    error = lost
                    return
                self._open, resuming = False, True
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._asked, self._open = _NOTHING, False
                self._not_before = loop.time() + random.uniform(0, _PAUSE)
                self._fail(error)

    async def _one_stream(self, patience: float) -> RegistryError | None:
        """Read until the stream is lost, and why; None where another set of names is wanted."""
        loop = asyncio.get_running_loop()
        self._changed.clear()
        self._settled.clear()
        self._asked = self._names()
        reading = loop.create_task(self._read(patience), name="microreg http events")
        changed = loop.create_task(self._until_changed(), name="microreg http names")
        try:
            await asyncio.wait([reading, changed], return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            await end(reading, changed)

    def _names(self) -> frozenset[str | None]:
        """What the stream is to bring."""
        return frozenset({None}) if len(self._wanted) > _MOST else frozenset(self._wanted)

    async def _until_changed(self) -> None:
        """A stream is not given up before it has brought something, or else one that grows would never do."""
        await self._settled.wait()
        await self._changed.wait()

    async def _read(self, patience: float) -> RegistryError:
        try:
            await self._read_events(patience)
        except RegistryError as error:
            return error.with_traceback(None)
        return RegistryUnavailable(f"{self._client.where}: the server ended the stream of events")

    async def _read_events(self, patience: float) -> None:
        whole = None in self._asked
        names = None if whole else sorted(name for name in self._asked if name is not None)
        fresh = [name for name in names or () if not _covers(self._known, name)]
        last = "" if whole and None not in self._known else self._last
        limit = asyncio.timeout(patience)
        try:
            async with limit, self._client.events(names, fresh, last) as response:
                self._opened(response.headers.get("Microreg-Resumed") == "true" and bool(last), set(fresh))
                await asyncio.sleep(0)  # who waited for it follows from what was known, and hears why that changed
                parser = Parser()
                while True:
                    limit.reschedule(asyncio.get_running_loop().time() + _SILENCE)
                    chunk = await response.content.readany()
                    if not chunk:
                        return
                    for event in parser.feed(chunk):
                        await self._apply(event)
        except TimeoutError:
            what = f"no stream of events within {patience:g} s: it hangs, or a proxy collects (buffers) what it streams"
            text = f"nothing for {_SILENCE:g} s" if self._open else what
            raise RegistryTimeout(f"{self._client.where}: {text}") from None

    def _opened(self, resumed: bool, fresh: set[str]) -> None:
        """The stream is open: what is known stays known, if it goes on where the last one ended."""
        self._open = True
        if not resumed:
            self._known, self._last = set[str | None](), ""
        elif None not in self._asked:
            self._known = set(self._asked - fresh)
        if None not in self._asked:
            for name in self._catalog.names():
                if name not in self._asked:
                    self._catalog.replace(Snapshot(), name)
        self._missing = {name for name in self._asked if not _covers(self._known, name)}
        self._release(self._waiting)

    def _release(self, names: Iterable[str | None]) -> None:
        """Let those go on who wait for one of these names, if it is followed now."""
        for name in names:
            if _covers(self._asked, name) and _covers(self._known, name):
                for waiting in self._waiting.get(name, ()):
                    if not waiting.done():
                        waiting.set_result(None)
        if not self._missing:
            self._settled.set()

    def _fail(self, error: RegistryError) -> None:
        for waiting in chain.from_iterable(self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(error)
        self._catalog.interrupt(error)

    # -- events ----------------------------------------------------------------------------------

    async def _apply(self, event: Received) -> None:
        try:
            if event.kind == b"change":
                self._change(_decode_change(event.data))
            elif event.kind == b"snapshot":
                await self._snapshot(_decode_snapshot(event.data))
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise RegistryUnavailable(
                f"{self._client.where}: what answers there is no microreg server, or a broken one: {error}"
            ) from None
        if event.id:
            self._last = event.id.decode("latin-1")

    def _change(self, change: _Change) -> None:
        records = decode_all([("an event of the stream", bytes(change.service))], self._warned)
        for record in (record for service in records for record in service.records()):
            if change.action == "delete":
                reason = _REASONS.get(change.reason or "", Reason.REMOVED)
                self._catalog.remove(record.name, record.nodes[0].id, reason)
            else:
                self._catalog.put(record)

    async def _snapshot(self, snapshot: _Snapshot) -> None:
        services: list[Service] = []
        for start in range(0, len(snapshot.services), _SLICE):
            some = snapshot.services[start : start + _SLICE]
            services += decode_all([("a snapshot", bytes(each)) for each in some], self._warned)
            await asyncio.sleep(0)
        self._catalog.replace(Snapshot(services), snapshot.name, Reason.LOST)
        self._known.add(snapshot.name)
        self._missing.discard(snapshot.name)
        self._release(self._waiting if snapshot.name is None else [snapshot.name])


def _covers(names: Collection[str | None], name: str | None) -> bool:
    return name in names or None in names
