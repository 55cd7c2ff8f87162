"""The pool of one name: follows it in the cache, builds its roster once per burst of changes, and wakes who waits."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable

from microreg.errors import NoNodeAvailable, RegistryClosed, RegistryError
from microreg.events import Action, Change
from microreg.layers.cache import CacheLayer, Freshness
from microreg.model import Node, Service
from microreg.selector.budget import Budget
from microreg.selector.members import Member
from microreg.selector.membership import Membership, Rules
from microreg.selector.roster import EMPTY
from microreg.selector.tally import CallStatistics, Tally

__all__ = ["Index", "Pool"]

Index = dict[str, list["Pool"]]
"""The pools that a node id is in; nearly always one."""

_PAUSE = 10e-6
"""Seconds per node between two builds: building 10,000 nodes takes milliseconds, so it happens ten times a second."""

_AT_ONCE = 1e-3
"""A pause that is not worth a timer."""


class Pool:
    """The members of one name, kept up to date from the cache; ``roster`` is what of them may be called now."""

    def __init__(
        self, name: str, cache: CacheLayer, rules: Rules, index: Index, publish: Callable[[Pool], None]
    ) -> None:
        self.name = name
        self.roster = EMPTY
        self.membership = Membership(name, rules)
        self.budget = Budget(rules.retries, rules.clock())
        self.tally = Tally()
        self.problem = ""
        """Why nobody can choose from the roster; empty where somebody can."""
        self._cache = cache
        self._clock = rules.clock
        self._index = index
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._rested = 0.0
        self._waiters: set[asyncio.Future[None]] = set()
        self._scheduled: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Follow the name and publish what is known."""
        self._followed = self._cache.follow(self.name)
        self._unsubscribe = self._cache.subscribe(self.name, self._changed)
        self._followed.task.add_done_callback(self._over)
        for service in self._cache.services(self.name):
            for node in service.nodes:
                self._put(service, node)
        self._build()

    def close(self) -> None:
        """Stop, and end every wait with RegistryClosed."""
        self._unsubscribe()
        self._followed.task.remove_done_callback(self._over)
        for handle in (self._scheduled, self._alarm):
            if handle is not None:
                handle.cancel()
        self._wake(RegistryClosed("the Selector was closed"))

    def abandon(self) -> None:
        """Close, and let the cache forget the name too."""
        self.close()
        self._followed.used, self._followed.used_at = False, -math.inf

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a node."""
        return bool(self._waiters)

    async def wait(self) -> None:
        """Wait until the pool was built again. Raises what ended the watch for good."""
        if self._followed.error is not None:
            raise self._followed.error.with_traceback(None)
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def learn(self, member: Member, latency: float | None, failed: bool | None, now: float) -> None:
        """A call to a member ended, or goes on (None); where that ejects it, the roster changes as after any change."""
        if failed:
            self.tally.failed += 1
            self._cache.suspect(self.name, member.node.id)
        elif failed is not None:
            self.tally.answered += 1
        if self.membership.learn(member, latency, failed, now):
            self.tally.ejections += 1
            if self._rest() > _AT_ONCE:
                self._schedule()
            else:
                self._build()

    @property
    def freshness(self) -> Freshness:
        """How fresh what the cache knows of the name is."""
        return self._cache.freshness(self.name)

    @property
    def statistics(self) -> CallStatistics:
        """How calls went so far, and the nodes that there are now."""
        done = self.tally
        calls = done.answered, done.failed, done.unavailable, done.ejections, done.retries, done.refused
        return CallStatistics(*calls, len(self.roster.members), self.membership.ejected)

    def unavailable(self, when: str) -> NoNodeAvailable:
        """The error for who found no node, counted."""
        self.tally.unavailable += 1
        return NoNodeAvailable(f"no node of {self.name!r} {when}: {self.why()}")

    def why(self) -> str:
        """Why there is no node, for an error."""
        if self._followed.error is not None:
            return str(self._followed.error)
        if self.problem:
            return self.problem
        members = tuple(self.membership.members.values())
        if any(member.eligible for member in members):
            return f"{len(members)} known, some of them since a moment ago; ask again"
        if members:
            return f"{len(members)} known, {_none_of(members)}"
        if not self._followed.live:
            reason = self._followed.reason
            return f"the registry is away: {reason}" if reason else "the registry has not answered yet"
        return "none is registered"

    def _changed(self, change: Change) -> None:
        if change.action is not Action.DELETE:
            self._put(change.service, change.node)
        elif self.membership.remove(change.node.id):
            pools = self._index[change.node.id]
            pools.remove(self)
            if not pools:
                del self._index[change.node.id]
        self._schedule()

    def _put(self, service: Service, node: Node) -> None:
        if self.membership.put(service, node):
            self._index.setdefault(node.id, []).append(self)

    def _schedule(self) -> None:
        """Build at the end of this burst of changes; in a large pool that was built just now, after a pause."""
        if self._scheduled is None:
            if (rest := self._rest()) > _AT_ONCE:
                self._scheduled = self._loop.call_later(rest, self._build)
            else:
                self._scheduled = self._loop.call_soon(self._build)

    def _rest(self) -> float:
        return self._rested - self._loop.time() if self._rested else 0.0

    def _build(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        membership, now = self.membership, self._clock()
        self.roster = membership.roster(now)
        self._publish(self)
        self._set_alarm(membership.due(), now)
        pause = _PAUSE * len(membership.members)
        self._rested = self._loop.time() + pause if pause > _AT_ONCE else 0.0
        if self._waiters and self.roster.members and not self.problem:
            self._wake(None)

    def _set_alarm(self, due: float | None, now: float) -> None:
        """Build again when an ejection or a slow start ends."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if due is not None:
            self._alarm = self._loop.call_later(max(due - now, _AT_ONCE), self._build)

    def _over(self, _task: asyncio.Task[None]) -> None:
        if self._followed.error is not None:
            self._wake(self._followed.error)

    def _wake(self, error: RegistryError | None) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)


def _none_of(members: tuple[Member, ...]) -> str:
    """Why none of them can be selected."""
    if not any(member.node.status.selectable for member in members):
        return "none is passing or warning"
    reasons = Counter(member.problem for member in members).most_common(3)
    return "none fits: " + "; ".join(f"{reason} ({count})" for reason, count in reasons)
