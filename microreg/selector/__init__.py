"""Selector: which node to call next. Client-side load balancing on top of any registry.

The event loop publishes one immutable pool per name by a single assignment, built once per change;
``pick`` only reads it, so it needs no lock, works from any thread, and costs the same at every size.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

from microreg.arguments import check_attempts, check_timeout, shown
from microreg.checked import Checked
from microreg.errors import ConfigError
from microreg.model import Node
from microreg.registry import Registry
from microreg.selector.budget import RetryBudget
from microreg.selector.choosing import Chooser
from microreg.selector.explain import Explanation, Standing, explained
from microreg.selector.filters import Filter, parse
from microreg.selector.members import Member
from microreg.selector.names import Names
from microreg.selector.outliers import Outliers
from microreg.selector.reports import Tracked
from microreg.selector.retries import Retries
from microreg.selector.settings import BUDGET, OUTLIERS, Errors, Settings, check_errors, check_latency, check_node
from microreg.selector.strategies import Key, Keyed, KeyedPick, Pick, Strategy
from microreg.selector.tally import CallStatistics

__all__ = [
    "BUDGET",
    "OUTLIERS",
    "CallStatistics",
    "Errors",
    "Explanation",
    "Filter",
    "Key",
    "Keyed",
    "KeyedPick",
    "Member",
    "Outliers",
    "Pick",
    "RetryBudget",
    "Selector",
    "Standing",
    "Strategy",
    "Tracked",
]
T = TypeVar("T")


class Selector:
    """Picks nodes of services; to be used with ``async with``.

    - ``strategy``: ``p2c``, ``random``, ``round_robin``, ``weighted``, ``least_outstanding``, ``rendezvous``, the name
      of one that a plugin provides, or a function of the same form (see :mod:`microreg.selector.strategies`).
    - ``filters``: which nodes may be selected at all; text such as ``"version:>=2"`` (see
      :mod:`microreg.selector.filters`), or functions ``(node, service) -> bool``.
    - ``zone``: where this program runs. Calls stay there while at least half of that zone's nodes can take them.
    - ``outliers``: when nodes that fail are left alone; None for never.
    - ``slow_start``: for how many seconds new nodes get fewer calls; 0 for none.
    - ``retry_budget``: how many of the calls may be retries.
    - ``failures``: errors in ``acquire``, ``track`` and ``call`` that are the node's fault. By default those of a
      connection, as Python has them; give your client's own where it has others.
    - ``clock`` (seconds; the loop's by default) and ``rng``: for tests.

    An uncached registry is wrapped in a cache of the Selector's own; the registry itself stays the caller's to close.
    """

    def __init__(
        self,
        registry: Registry,
        strategy: str | Strategy = "p2c",
        filters: str | Filter | Iterable[str | Filter] = (),
        *,
        zone: str | None = None,
        outliers: Outliers | None = OUTLIERS,
        slow_start: float = 10.0,
        retry_budget: RetryBudget = BUDGET,
        failures: Errors = (OSError, EOFError),
        clock: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not isinstance(registry, Registry):
            raise ConfigError(f"a Selector takes the registry that connect() made, got {type(registry).__name__}")
        self.registry = registry
        self._chooser = Chooser(strategy)
        self._picks = self._chooser.picks
        settings = Settings(parse(filters), zone or "", outliers, slow_start, retry_budget, clock, rng)
        self._failures = check_errors(failures, "failures")
        self._names = Names(registry, self._chooser, settings)

    async def __aenter__(self) -> Self:
        self._names.open()
        checked = self.registry.unwrap(Checked)
        if checked is not None:
            checked.users.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop following. Waiting ``select`` calls end with RegistryClosed. Closing twice is fine."""
        await self._names.close()

    @property
    def picks(self) -> Mapping[str, Pick]:
        """The ``Pick`` of every name that has a node now. Only the loop changes it; any thread may read it."""
        return self._picks

    @property
    def statistics(self) -> Mapping[str, CallStatistics]:
        """How the calls to each name went so far, of the names that are followed. Any thread may ask."""
        return {pool.name: pool.statistics for pool in tuple(self._names.pools.values())}

    def pick(self, name: str, *, key: Key | None = None) -> Node:
        """The next node, at once and without I/O. Raises NoNodeAvailable; the first pick of a name starts to follow it.

        ``key`` is what the call is about, for a strategy that sends equal keys to one node (``rendezvous``). From
        another thread than the loop's, only names that were selected before can be picked.
        """
        try:
            choose = self._picks[name]
        except (KeyError, TypeError):  # TypeError: it cannot even be looked up
            choose = self._first_pick(name)
        return choose() if key is None else self._chooser.with_key(name, key)

    async def select(self, name: str, *, timeout: float = 5.0, key: Key | None = None) -> Node:
        """The next node; waits up to ``timeout`` seconds for one. Raises NoNodeAvailable after that."""
        try:
            choose = self._picks[name]
        except (KeyError, TypeError):
            choose = await self._awaited(name, timeout)
        return choose() if key is None else self._chooser.with_key(name, key)

    @asynccontextmanager
    async def acquire(self, name: str, *, timeout: float = 5.0, key: Key | None = None) -> AsyncGenerator[Node]:
        """``async with selector.acquire("greeter") as node``: selects a node, and reports how the body ended.

        While the body runs, the call counts as outstanding; its time is the latency. Errors of ``failures`` count
        against the node; others, and a cancellation, do not.
        """
        node = await self.select(name, timeout=timeout, key=key)
        with self.track(name, node):
            yield node

    def track(self, name: str, node: Node, *, failures: Errors = ()) -> Tracked:
        """The same for a node that was picked before: ``with selector.track(name, node): …``. Any thread may use it.

        Errors of ``failures`` count against the node, beside those that the Selector was given.
        """
        pool, node = self._names.known(name), check_node(node)
        member = pool.membership.members.get(node.id) if pool is not None else None
        errors = self._failures + check_errors(failures, "failures")
        return self._names.opened().tracked(name, node, member, pool, errors)

    def report(self, node: Node, *, latency: float | None = None, error: BaseException | None = None) -> None:
        """Say how a call to a picked node ended: its latency in seconds, and the error where the node failed.

        A CancelledError is nobody's fault and is not counted. A node that is not known any more is not either. Any
        thread may report.
        """
        if latency is not None:
            latency = check_latency(latency)
        reports = self._names.opened()
        if isinstance(error, asyncio.CancelledError):
            return
        for pool in tuple(self._names.index.get(check_node(node).id, ())):
            member = pool.membership.members.get(node.id)
            if member is not None and member.node.address == node.address:
                reports.put(pool, member, latency, error is not None)

    async def call(
        self,
        name: str,
        function: Callable[[Node], Awaitable[T]],
        *,
        attempts: int = 3,
        timeout: float = 5.0,
        retry_on: Errors = (OSError, EOFError),
        key: Key | None = None,
    ) -> T:
        """Call ``function(node)``; where it raises one of ``retry_on``, again on a node not yet tried.

        At most ``attempts`` calls, and no more retries than the budget has; each outcome and latency is reported.
        ``timeout`` is how long to wait for a node: how long a call may take is for ``function`` to say. The default
        errors are those of a connection (ConnectionError, TimeoutError, a stream that ended early); pass your
        client's own, and only for calls that may be repeated. Raises what the last call raised, or NoNodeAvailable
        where there was no node at all.
        """
        if not callable(function):
            raise ConfigError(f"function {shown(function)}: expected an async function that takes a node")
        errors = check_errors(retry_on, "retry_on")
        following = self.retries(name, attempts, key=key)
        node = await self.select(name, timeout=timeout, key=key)
        while True:
            try:
                with self.track(name, node, failures=errors):
                    return await function(node)
            except errors:
                again = following(node)
                if again is None:
                    raise
                node = again

    def retries(self, name: str, attempts: int, *, key: Key | None = None) -> Callable[[Node], Node | None]:
        """What ``call`` asks after a failed attempt: a node not yet tried, None where the error is to be raised.

        For whoever calls in another way than ``call``; to be made once per call, because the retry budget is a share
        of the calls. Any thread may ask, one at a time.
        """
        attempts = check_attempts(attempts)
        self._names.opened()
        return Retries(lambda: self._names.known(name), self._chooser, self._names.rules, attempts, key)

    def explain(self, name: str) -> Explanation:
        """Every known node of a name, and why it is selected or not, with numbers; ``print`` it.

        Like ``pick``, the first call for a name starts to follow it.
        """
        return explained(self._names.pool(name), self._chooser, self._names.rules)

    def _first_pick(self, name: str) -> Pick:
        pool = self._names.pool(name)
        pick = self._picks.get(name)
        if pick is None:
            raise pool.unavailable("can be selected now")
        return pick

    async def _awaited(self, name: str, timeout: float) -> Pick:
        timeout = check_timeout(timeout)
        pool = self._names.pool(name)
        self._names.check_loop(name)
        try:
            async with asyncio.timeout(timeout):
                while (pick := self._picks.get(name)) is None:
                    await pool.wait()
        except TimeoutError:
            raise pool.unavailable(f"within {timeout:g} s") from None
        return pick
