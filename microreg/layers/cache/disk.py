"""What the cache knows, over restarts: ``cache.disk``.

The file is read once, when the registry is opened, and written by one task, at most every five seconds, in a thread.
A disk that does not work is one warning; the cache goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from microreg import process
from microreg.catalog import Catalog
from microreg.events import Change
from microreg.layers.cache.snapshot import SKEW, Entry, SnapshotFile
from microreg.model import Service
from microreg.toolkit import decode_all, in_thread
from microreg.url import RegistryURL

__all__ = ["Disk", "Known", "Recalled", "key_of"]

log = logging.getLogger("microreg.cache")

Known = dict[str, tuple[Service, ...]]
"""Records by service name."""

_PAUSE = 5.0
"""Seconds from one writing to the next, at least."""
_SHARE = 20
"""Writing takes at most this fraction of the time."""
_PATIENCE = 2.0
"""Seconds that the disk may take, to be read at the start, or written at the end."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What the file says of a name; ``age`` is in seconds."""

    records: tuple[Service, ...]
    age: float


class Disk:
    """The snapshot file of one cache. ``known`` gives the records of the names given, or of all, that are true now."""

    def __init__(
        self,
        path: Path,
        url: RegistryURL,
        max_stale: float,
        known: Callable[[Iterable[str] | None], Known],
        clock: Callable[[], float],
    ) -> None:
        self._path = path = path.absolute()  # wherever the process is later
        self._file = SnapshotFile(path, key_of(url))
        self._max_stale = max_stale
        self._known = known
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._warned: set[str] = set()
        self._undecodable: set[str] = set()
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    async def open(self, catalog: Catalog) -> None:
        """Read the file, and write from now on what changes in the catalog. Takes two seconds at most."""
        if self._task is not None:
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                self._entries, problem = await in_thread(self._file.load)
        except Exception as error:  # whatever a disk does, the registry works without it
            self._warn("disk", "cannot read the snapshot file, and goes on without", error)
        else:
            if problem:
                self._warn("aside", "set a snapshot file aside", problem)
        self._unsubscribe = catalog.subscribe(None, self._note)
        self._task = asyncio.create_task(self._run(), name="microreg cache disk")

    async def close(self) -> None:
        """Write for the last time, within two seconds. Closing twice is fine."""
        task, self._task = self._task, None
        if task is None or self._unsubscribe is None or not process.runs_here(task):
            return
        self._unsubscribe()
        self._closing.set()
        self._wake.set()
        try:
            await asyncio.wait({task}, timeout=_PATIENCE)
        finally:
            await process.end(task)

    def recall(self, name: str) -> Recalled | None:
        """What the file says of a name, None where that is nothing or too old."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        age = self._clock() - entry.at
        if not -SKEW <= age <= self._max_stale:
            return None
        services = decode_all(((name, bytes(raw)) for raw in entry.records), self._undecodable)
        records = tuple(record for service in services if service.name == name for record in service.records())
        return Recalled(records, max(0.0, age)) if records else None

    def answered(self, name: str) -> None:
        """The store itself has spoken: what the file says of this name does not matter any more."""
        self._entries.pop(name, None)

    def _note(self, change: Change) -> None:
        self._changed.add(change.service.name)
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        refresh = max(_PAUSE, self._max_stale / 10)
        due = loop.time() + refresh
        while not self._closing.is_set():
            await _within(self._wake, due - loop.time())
            if self._closing.is_set():
                break
            began = loop.time()
            self._wake.clear()
            changed, self._changed = self._changed, set[str]()
            if began >= due:
                due = began + refresh
                await self._save(None)  # unchanged, and true later than the file says
            else:
                await self._save(changed)
            await _within(self._closing, max(_PAUSE, _SHARE * (loop.time() - began)))
        await self._save(None)

    async def _save(self, names: Iterable[str] | None) -> None:
        known = self._known(names)
        if not known:
            return
        try:
            problem = await in_thread(self._file.save, known, self._clock(), self._max_stale)
        except Exception as error:
            self._changed |= known.keys()
            self._wake.set()
            self._warn("disk", "cannot write the snapshot file, and goes on without", error)
        else:
            self._warned.discard("disk")
            if problem:
                self._warn("aside", "set a snapshot file aside", problem)

    def _warn(self, kind: str, text: str, error: object) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s: %s: %s", text, self._path, error, extra={"path": str(self._path), "error": str(error)})


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, for so long at most."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        pass


def key_of(url: RegistryURL) -> str:
    """The config string of what lies inside the cache, without secrets: whose names these are."""
    inside = url.layers[url.layers.index("cache") + 1 :] if "cache" in url.layers else url.layers
    outside = set(url.layers) - set(inside)
    options = {key: value for key, value in url.options.items() if key.rpartition(".")[0] not in outside}
    return str(replace(url, layers=inside, options=options))
