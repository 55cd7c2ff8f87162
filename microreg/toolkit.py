"""For backend authors: what most stores need, so that a backend stays small.

See also :class:`microreg.catalog.Catalog`, whose ``changes()`` is a ready-made source for a Watch.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar
from weakref import WeakSet

from microreg import codec
from microreg.arguments import shown
from microreg.errors import ConfigError, InvalidService, RegistryTimeout
from microreg.events import Event, Snapshot
from microreg.holdings import Holding, Holdings
from microreg.model import Service
from microreg.process import end, in_child
from microreg.url import RegistryURL

__all__ = [
    "Deadlines",
    "Holding",
    "Holdings",
    "Serial",
    "Sockets",
    "decode_all",
    "end",
    "in_child",
    "in_thread",
    "local_path",
    "poll",
    "resolve",
    "version_number",
]

log = logging.getLogger("microreg.toolkit")

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_SHORTEST = 0.01
"""Seconds between two readings of a store that is polled, at least."""
_AT_ONCE = 500
"""Deadlines that are called in one turn of the loop."""
_TURNS = 100
"""In which the loop has let go of a connection that was shut down: it takes some five."""


async def poll(
    read: Callable[[], Awaitable[Iterable[Service]]],
    interval: float = 1.0,
    *,
    patience: float = 10.0,
    rng: random.Random | None = None,
) -> AsyncGenerator[Event, None]:
    """A source for a Watch over a store that cannot push: read everything every ``interval`` seconds ± 10 %.

    What ``read`` raises ends the source, and so does a store that hangs: RegistryTimeout when a reading takes
    more than ``patience`` seconds. The Watch reopens it with back-off. An interval is at least 10 ms.
    """
    random_source = rng or random.Random()
    while True:
        limit = asyncio.timeout(patience)
        try:
            async with limit:
                services = await read()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise RegistryTimeout(f"the store was not read within {patience:g} s") from error
        yield Snapshot(services)
        await asyncio.sleep(max(_SHORTEST, interval * random_source.uniform(0.9, 1.1)))


async def resolve(host: str, patience: float = 3.0) -> tuple[str, ...]:
    """The addresses of a host as it is known here, sorted; none where it is not, or not within ``patience`` seconds."""
    try:
        async with asyncio.timeout(patience):
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, UnicodeError):  # TimeoutError is an OSError
        return ()
    return tuple(sorted({str(each[4][0]) for each in found}))


def version_number(text: str) -> tuple[int, ...]:
    """Major and minor number of a version text, such as ``2.10.3-RC.1`` or ``1.8.7+dfsg1``, as far as they are told."""
    release = text.partition("-")[0].partition("+")[0]
    return tuple(int(part) for part in release.split(".")[:2] if part.isdigit())


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a blocking function in a worker thread. A cancelled call goes on in its thread, unheard.

    For what changes nothing. A write that goes on unheard must not overtake the one that follows: see Serial.
    """
    return await asyncio.to_thread(function, *args, **kwargs)


class Serial:
    """Calls blocking functions in worker threads, one after the other, in the order in which they were asked for.

    ``await serial(function, *arguments)``. A call that is cancelled, or times out, goes on in its thread, unheard,
    and is over before the next one begins: no late ``register`` brings a node back that was withdrawn after it, and
    a store that hangs holds one thread. A call that is cancelled while it waits its turn is never made.
    Belongs to one loop; needs no closing.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Wait for the turn, then call the function in a thread and return what it returns."""
        await self._turn.acquire()
        work = partial(copy_context().run, function, *args, **kwargs)
        try:
            call = asyncio.get_running_loop().run_in_executor(None, work)
        except BaseException:
            self._turn.release()
            raise
        call.add_done_callback(self._over)
        await asyncio.wait([call])
        return call.result()

    def _over(self, call: asyncio.Future[T]) -> None:
        self._turn.release()
        if not call.cancelled():
            call.exception()


class Sockets:
    """The TCP sockets that a client library opens, to end what is open still when it has been closed.

    A TLS connection whose request was cancelled is closed in order by asyncio, for which it waits up to 30 s for the
    other side, and aiohttp's ``close()`` knows nothing of it. ``TCPConnector(socket_factory=sockets.make)``, and at
    the end ``await sockets.close()``.
    """

    def __init__(self) -> None:
        self._made: WeakSet[socket.socket] = WeakSet()

    def make(self, address: tuple[int, int, int, str, object]) -> socket.socket:
        """A socket for an address as ``getaddrinfo()`` tells it."""
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        self._made.add(made)
        return made

    async def close(self) -> None:
        """End every connection at once, and let the running loop see it."""
        left = [each for each in self._made if each.fileno() >= 0]
        for each in left:
            with suppress(OSError):  # it is not connected, or not any more
                each.shutdown(socket.SHUT_RDWR)
        for _ in range(_TURNS):
            if all(each.fileno() < 0 for each in left):
                return
            await asyncio.sleep(0)


def local_path(url: RegistryURL) -> Path:
    """The file or directory that ``scheme:///absolute/path`` names. Raises ConfigError for any other form."""
    if url.location or url.user or url.password or not url.path:
        raise ConfigError(
            f"{url}: expected three slashes and an absolute path, for example {url.scheme}:///var/lib/services"
        )
    return Path("/", url.path)


def decode_all(records: Iterable[tuple[str, bytes]], warned: set[str]) -> list[Service]:
    """The services in these (key, JSON) pairs. One that does not decode is skipped, with one warning per key.

    ``warned`` remembers the keys that were warned about; keep it as long as the registry.
    """
    services: list[Service] = []
    for key, data in records:
        try:
            services.append(codec.decode(data))
        except InvalidService as error:
            if key not in warned and len(warned) < 1000:
                warned.add(key)
                log.warning("skipped the record at %s: %s", shown(key), error, extra={"key": key, "error": str(error)})
    return services


class Deadlines(Generic[K]):
    """Calls ``due(key)`` when the deadline of a key has passed; moving a deadline costs O(log n), no timer each.

    Belongs to the running loop. Times are ``loop.time()`` in seconds.
    """

    def __init__(self, due: Callable[[K], None]) -> None:
        self._due = due
        self._loop = asyncio.get_running_loop()
        self._when: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, key: K, when: float) -> None:
        """Set or move the deadline of a key. A later deadline than before costs O(1)."""
        before = self._when.get(key)
        self._when[key] = when
        if before is None or when < before:
            self._push(key, when)
            if self._heap[0][0] >= when:
                self._arm()

    def get(self, key: K) -> float | None:
        """The deadline of a key, None where it has none."""
        return self._when.get(key)

    def drop(self, key: K) -> None:
        """Forget the deadline of a key."""
        self._when.pop(key, None)

    def close(self) -> None:
        """Forget all deadlines."""
        self._when.clear()
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _push(self, key: K, when: float) -> None:
        if len(self._heap) > 2 * len(self._when) + 64:
            self._heap = [(moment, count, each) for count, (each, moment) in enumerate(self._when.items())]
            heapq.heapify(self._heap)
            self._count += len(self._heap)
            return
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, key))

    def _arm(self) -> None:
        if self._timer is not None:
            if self._timer.when() <= self._heap[0][0]:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._heap[0][0], self._run)

    def _run(self) -> None:
        self._timer = None
        now = self._loop.time() + 1e-6
        try:
            for _ in range(_AT_ONCE):  # others get their turn in between
                if not self._heap or self._heap[0][0] > now:
                    break
                _, _, key = heapq.heappop(self._heap)
                when = self._when.get(key)
                if when is None:
                    continue
                if when <= now:
                    del self._when[key]
                    self._due(key)
                else:
                    self._push(key, when)
        finally:
            if self._heap:
                self._arm()
