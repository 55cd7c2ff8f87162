"""The line between clients and a memory store: what can be wrong with it, and the switches for that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from microreg.model import Node, Service
from microreg.registry import Registry
from microreg.testing.faults import MemoryFaults

__all__ = ["RAW", "Line", "LineFaults"]

RAW = "raw:1"
"""The address of a record whose bytes another program wrote; they are its metadata ``data``."""


class Line:
    """The way between clients and their store, and what is wrong with it. All times are seconds."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.rng = rng or random.Random()
        self.delay = 0.0
        """Every call is applied and answered this much later, every event told this much later."""
        self.jitter = 0.0
        """Up to this much later still, drawn anew each time: calls and events overtake each other."""
        self.duplicates = False
        """Every write is applied once more, later; every event is told twice."""
        self.skew = 0.0
        """How wrong the wall clock of the clients is."""
        self._cut = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def cut(self) -> bool:
        """Whether nothing gets through, in either direction, and nobody is told."""
        return self._cut

    @cut.setter
    def cut(self, value: bool) -> None:
        self._cut = value
        if not value:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def through(self) -> None:
        """Wait while the line is cut."""
        while self._cut:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def late(self) -> float:
        """How late the next call or event is."""
        return self.delay + (self.rng.uniform(0.0, self.jitter) if self.jitter else 0.0)


class LineFaults(MemoryFaults):
    """What can be done to a :class:`FaultyMemory` whose clients share one line: every fault there is."""

    def __init__(self, client: Callable[[], Registry], line: Line) -> None:
        super().__init__(client)
        self._line = line

    async def freeze(self) -> None:
        """Nothing gets through."""
        self._line.cut = True

    async def thaw(self) -> None:
        """All gets through that waited."""
        self._line.cut = False

    @asynccontextmanager
    async def black_hole(self) -> AsyncGenerator[None]:
        """Nothing gets through."""
        async with self.frozen():
            yield

    @asynccontextmanager
    async def slow(self, seconds: float) -> AsyncGenerator[None]:
        """Every call and event is late."""
        self._line.delay = seconds
        try:
            yield
        finally:
            self._line.delay = 0.0

    @asynccontextmanager
    async def skew(self, seconds: float) -> AsyncGenerator[None]:
        """The clients' wall clock is wrong."""
        self._line.skew = seconds
        try:
            yield
        finally:
            self._line.skew = 0.0

    async def write_raw(self, name: str, id: str, data: bytes | None) -> None:
        """Put the bytes as they are, until they are taken away."""
        async with self._store() as store:
            if data is None:
                store.catalog.remove(name, id)
            else:
                node = Node(RAW, id=id, metadata={"data": data.decode("latin-1")})
                store.catalog.put(Service(name, nodes=[node]))
