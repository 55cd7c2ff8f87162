"""What goes out and when: at a pace that others can follow, and so that nobody waits for what others asked."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

__all__ = ["Pace"]

log = logging.getLogger("microreg.mdns")

T = TypeVar("T")

_BURST = 16
_AT_ONCE = 64
_PAUSE = 0.01
_BACKLOG = 4096
_LATE = 0.5
"""Seconds after which an answer is of no use: who asked has asked again, or has gone."""


class Pace(Generic[T]):
    """Sends 16 packets to all, and 16 to each of those who asked, but 64 together; then pauses for 10 ms.

    What is for all goes first. Those who asked are served in turn.
    """

    def __init__(self, send: Callable[[T], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._all: deque[T] = deque()
        self._askers: dict[Hashable, deque[tuple[float, T]]] = {}
        self._turns: deque[Hashable] = deque()
        self._resting: list[Hashable] = []
        self._sent: Counter[Hashable] = Counter()
        self._answers = 0
        self._to_all, self._to_askers = _BURST, _AT_ONCE
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
        self._owe(asker, item)
        self._go()

    def to_one_instead(self, asker: Hashable, items: Sequence[T]) -> None:
        """Send these answers in place of what waits for this asker, which asked the same before.

        What it was not sent yet goes first: after each question it is sent everything once.
        """
        waiting = self._askers.get(asker)
        first = len(items)
        if waiting is not None:
            first -= min(first, len(waiting))
            self._answers -= len(waiting)
            waiting.clear()
        for item in (*items[first:], *items[:first]):
            self._owe(asker, item)
        self._go()

    async def drained(self) -> None:
        """Wait until what is for all has been sent."""
        await self._idle.wait()

    def close(self) -> None:
        """Forget what waits."""
        self._all.clear()
        self._askers.clear()
        self._turns.clear()
        self._resting.clear()
        self._idle.set()
        if self._timer is not None:
            self._timer.cancel()

    def _owe(self, asker: Hashable, item: T) -> None:
        if self._answers >= _BACKLOG:
            self._late()
            return
        self._answers += 1
        if asker not in self._askers:
            self._askers[asker] = deque()
            turns = self._turns if self._sent[asker] < _BURST else self._resting
            turns.append(asker)
        self._askers[asker].append((self._loop.time() + _LATE, item))

    def _go(self) -> None:
        while self._to_all and self._all:
            self._to_all -= 1
            self._send(self._all.popleft())
        if not self._all:
            self._idle.set()
        while self._to_askers and self._turns:
            self._serve(self._turns.popleft())
        if self._timer is None and (self._to_all < _BURST or self._to_askers < _AT_ONCE):
            self._timer = self._loop.call_later(_PAUSE, self._refill)

    def _serve(self, asker: Hashable) -> None:
        """Send the next answer to this asker, whose turn it is."""
        answers = self._askers[asker]
        if answers:
            until, item = answers.popleft()
            self._answers -= 1
            if until < self._loop.time():
                self._late()
            else:
                self._to_askers -= 1
                self._sent[asker] += 1
                self._send(item)
        if not answers:
            del self._askers[asker]
        elif self._sent[asker] < _BURST:
            self._turns.append(asker)
        else:
            self._resting.append(asker)

    def _refill(self) -> None:
        self._timer = None
        self._to_all, self._to_askers = _BURST, _AT_ONCE
        self._sent.clear()
        self._turns.extend(self._resting)
        self._resting.clear()
        self._go()

    def _late(self) -> None:
        if not self._told:
            self._told = True
            log.warning("more is asked than can be answered in time: some answers are not sent")
