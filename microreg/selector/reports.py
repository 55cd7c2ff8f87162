"""Reports: how calls ended, handed on to the pools; from other threads by way of the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from microreg import process
from microreg.checked import Checked
from microreg.model import Node
from microreg.observer import Attempt
from microreg.selector.members import Member
from microreg.selector.pool import Pool

__all__ = ["Reports", "Tracked"]

_Report = tuple[Pool, Member, float | None, bool | None, float]

_GATHERING = 0.01
"""Seconds for which reports of other threads are gathered once the loop was woken for the first."""

_AT_ONCE = 500
"""Reports of other threads that are heard in one turn of the loop: threads may report faster than it can hear."""

_MOST_WAITING = 10_000
"""Reports that wait while the loop is busy; of more the oldest are dropped."""


class Reports:
    """Takes reports from any thread; the pools hear them on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], checked: Checked | None) -> None:
        self.clock = clock
        self._loop = loop
        self._checked = checked
        self._waiting: deque[_Report] = deque(maxlen=_MOST_WAITING)
        self._woken = False
        self._over = False

    def put(self, pool: Pool, member: Member, latency: float | None, failed: bool | None) -> None:
        """A call to a member of a pool ended just now, or, where ``failed`` is None, is answered and goes on."""
        now = self.clock()
        if self._over:
            return
        if process.running_loop() is self._loop:
            pool.learn(member, latency, failed, now)
            return
        self._waiting.append((pool, member, latency, failed, now))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._drain)

    def tracked(
        self, name: str, node: Node, member: Member | None, pool: Pool | None, failures: tuple[type[Exception], ...]
    ) -> Tracked:
        """A call to a node of a name, which the observers of the registry hear of too."""
        observers = () if self._checked is None else self._checked.observers
        attempts = tuple([each.attempt(name, node) for each in observers]) if observers else ()
        return Tracked(node, member, pool, self, failures, attempts)

    def stop(self) -> None:
        """Hear nothing any more."""
        self._over = True
        self._waiting.clear()

    def _drain(self) -> None:
        """Hand on what waits; look again in a moment while there is something, instead of being woken for each."""
        some = 0 if self._over else min(len(self._waiting), _AT_ONCE)
        for _ in range(some):
            pool, member, latency, failed, now = self._waiting.popleft()
            pool.learn(member, latency, failed, now)
        if some == _AT_ONCE:
            self._loop.call_soon(self._drain)
        elif some:
            self._loop.call_later(_GATHERING, self._drain)
        else:
            self._woken = False
            if self._waiting and not self._over:  # it came between the last look and this line
                self._woken = True
                self._loop.call_soon(self._drain)


class Tracked:
    """One call to a node, as a context manager: it is under way inside, and its outcome and latency are reported after.

    An error of ``failures`` is the node's failure. Any other, and a cancellation, is nobody's fault and tells nothing.
    """

    __slots__ = ("_answered", "_attempts", "_begun", "_failures", "_member", "_pool", "_reports", "node")

    def __init__(
        self,
        node: Node,
        member: Member | None,
        pool: Pool | None,
        reports: Reports,
        failures: tuple[type[Exception], ...],
        attempts: tuple[Attempt, ...],
    ) -> None:
        self.node = node
        self._member = member
        self._pool = pool
        self._reports = reports
        self._failures = failures
        self._attempts = attempts
        self._begun = 0.0
        self._answered = False

    def answered(self) -> None:
        """The answer begins now: what follows, such as a long body, is no part of the latency, but of the outcome."""
        self._answered = True
        for attempt in reversed(self._attempts):
            attempt.answered()
        if self._member is not None and self._pool is not None:
            self._reports.put(self._pool, self._member, self._reports.clock() - self._begun, None)

    def __enter__(self) -> Node:
        for attempt in self._attempts:
            attempt.__enter__()
        if self._member is not None:
            self._member.begin()
        self._begun = self._reports.clock()
        return self.node

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for attempt in reversed(self._attempts):
            attempt.__exit__(kind, error, trace)
        member, pool = self._member, self._pool
        if member is None or pool is None:
            return
        member.end()
        if error is None or isinstance(error, self._failures):
            latency = None if self._answered else self._reports.clock() - self._begun
            self._reports.put(pool, member, latency, error is not None)
