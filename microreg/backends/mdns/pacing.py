"""What goes out and when: at a pace that others can follow, and so that nobody waits for what others asked."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Pace"]

log = logging.getLogger("microreg.mdns")

T = TypeVar("T")

_BURST = 16
_PAUSE = 0.01
_BACKLOG = 4096
_LATE = 0.5
"""Seconds after which an answer is of no use: who asked has asked again, or has gone."""


class Pace(Generic[T]):
    """Sends 16 packets, then pauses for 10 ms. What is for all goes first; those who asked are served in turn."""

    def __init__(self, send: Callable[[T], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._all: deque[T] = deque()
        self._askers: OrderedDict[Hashable, deque[tuple[float, T]]] = OrderedDict()
        self._answers = 0
        self._credit = _BURST
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._told = False

    def to_all(self, item: T) -> None:
        """Send to the group."""
        if len(self._all) < _BACKLOG:
            self._all.append(item)
            self._idle.clear()
        self._go()

    def to_one(self, asker: Hashable, item: T) -> None:
        """Send an answer to who asked: in turn with the answers to others, and within half a second or not at all."""
        if self._answers < _BACKLOG:
            self._answers += 1
            self._askers.setdefault(asker, deque()).append((self._loop.time() + _LATE, item))
        else:
            self._late()
        self._go()

    def waits(self, asker: Hashable) -> bool:
        """Whether answers to this asker have not been sent yet."""
        return asker in self._askers

    async def drained(self) -> None:
        """Wait until what is for all has been sent."""
        await self._idle.wait()

    def close(self) -> None:
        """Forget what waits."""
        self._all.clear()
        self._askers.clear()
        self._idle.set()
        if self._timer is not None:
            self._timer.cancel()

    def _go(self) -> None:
        while self._credit and self._all:
            self._credit -= 1
            self._send(self._all.popleft())
        if not self._all:
            self._idle.set()
        while self._credit and self._askers:
            asker, answers = self._askers.popitem(last=False)
            until, item = answers.popleft()
            self._answers -= 1
            if answers:
                self._askers[asker] = answers
            if until < self._loop.time():
                self._late()
                continue
            self._credit -= 1
            self._send(item)
        if self._timer is None and self._credit < _BURST:
            self._timer = self._loop.call_later(_PAUSE, self._refill)

    def _refill(self) -> None:
        self._timer, self._credit = None, _BURST
        self._go()

    def _late(self) -> None:
        if not self._told:
            self._told = True
            log.warning("more is asked than can be answered in time: some answers are not sent")
