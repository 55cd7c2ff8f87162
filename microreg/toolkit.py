"""For backend authors: what most stores need, so that a backend stays small.

See also :class:`microreg.catalog.Catalog`, whose ``changes()`` is a ready-made source for a Watch.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable
from typing import Generic, ParamSpec, TypeVar

from microreg import codec
from microreg.errors import InvalidService
from microreg.events import Event, Snapshot
from microreg.model import Service

__all__ = ["Deadlines", "decode_all", "in_thread", "poll"]

log = logging.getLogger("microreg.toolkit")

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


async def poll(
    read: Callable[[], Awaitable[Iterable[Service]]],
    interval: float = 1.0,
    *,
    rng: random.Random | None = None,
) -> AsyncGenerator[Event, None]:
    """A source for a Watch over a store that cannot push: read everything every ``interval`` seconds ± 10 %.

    What ``read`` raises ends the source; the Watch reopens it with back-off.
    """
    random_source = rng or random.Random()
    while True:
        yield Snapshot(await read())
        await asyncio.sleep(interval * random_source.uniform(0.9, 1.1))


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a blocking function in a worker thread. A cancelled call goes on in its thread, unheard."""
    return await asyncio.to_thread(function, *args, **kwargs)


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
                log.warning("skipped a record that does not decode", extra={"key": key, "error": str(error)})
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
            while self._heap and self._heap[0][0] <= now:
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
