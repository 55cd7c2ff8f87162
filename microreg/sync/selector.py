"""The blocking Selector."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import TypeVar

from microreg.arguments import shown
from microreg.errors import ConfigError, RegistryClosed
from microreg.model import Node
from microreg.selector import (
    BUDGET,
    OUTLIERS,
    CallStatistics,
    Errors,
    Explanation,
    Filter,
    Key,
    Outliers,
    RetryBudget,
    Strategy,
    Tracked,
)
from microreg.selector import Selector as AsyncSelector
from microreg.selector.settings import check_errors
from microreg.sync.mirror import Part
from microreg.sync.portal import Portal
from microreg.sync.registry import Registry, checked

__all__ = ["Selector"]

T = TypeVar("T")


class Selector(Part[AsyncSelector]):
    """Picks nodes of services; to be used with ``with``. See :class:`microreg.Selector`.

    A name that was selected before is picked without another thread's help: ``pick``, ``select``, ``acquire`` and
    ``call`` then cost what they cost on an event loop. Any number of threads may use one Selector.
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
        inner = AsyncSelector(
            checked(registry, "a microreg.sync.Selector").inner,
            strategy,
            filters,
            zone=zone,
            outliers=outliers,
            slow_start=slow_start,
            retry_budget=retry_budget,
            failures=failures,
            clock=clock,
            rng=rng,
        )
        super().__init__(registry, inner)
        self.registry = registry
        self._picks = inner.picks

    def pick(self, name: str, *, key: Key | None = None) -> Node:
        """The next node, without I/O. Raises NoNodeAvailable; the first pick of a name starts to follow it."""
        try:
            choose = self._picks[name]
        except (KeyError, TypeError):  # TypeError: it cannot even be looked up
            return self._opened().run(self.inner.pick, name, key=key)
        return choose() if key is None else self.inner.pick(name, key=key)

    def select(self, name: str, *, timeout: float = 5.0, key: Key | None = None) -> Node:
        """The next node; waits up to ``timeout`` seconds for one. Raises NoNodeAvailable after that."""
        try:
            choose = self._picks[name]
        except (KeyError, TypeError):
            return self._opened().call(self.inner.select, name, timeout=timeout, key=key)
        return choose() if key is None else self.inner.pick(name, key=key)

    @contextmanager
    def acquire(self, name: str, *, timeout: float = 5.0, key: Key | None = None) -> Generator[Node]:
        """``with selector.acquire("greeter") as node``: selects a node, and reports how the body ended.

        See :meth:`microreg.Selector.acquire`; the body runs in this thread.
        """
        node = self.select(name, timeout=timeout, key=key)
        with self.track(name, node):
            yield node

    def track(self, name: str, node: Node, *, failures: Errors = ()) -> Tracked:
        """The same for a node that was picked before: ``with selector.track(name, node): …``."""
        return self.inner.track(name, node, failures=failures)

    def report(self, node: Node, *, latency: float | None = None, error: BaseException | None = None) -> None:
        """Say how a call to a picked node ended: its latency in seconds, and the error where the node failed."""
        self.inner.report(node, latency=latency, error=error)

    def call(
        self,
        name: str,
        function: Callable[[Node], T],
        *,
        attempts: int = 3,
        timeout: float = 5.0,
        retry_on: Errors = (OSError, EOFError),
        key: Key | None = None,
    ) -> T:
        """Call ``function(node)``, a plain function, in this thread; retry as :meth:`microreg.Selector.call` does.

        At most ``attempts`` calls, each on a node not yet tried, and only after an error of ``retry_on``.
        Raises what the last call raised, or NoNodeAvailable where there was no node at all.
        """
        if not callable(function):
            raise ConfigError(f"function {shown(function)}: expected a function that takes a node")
        errors = check_errors(retry_on, "retry_on")
        following = self.retries(name, attempts, key=key)
        node = self.select(name, timeout=timeout, key=key)
        while True:
            try:
                with self.track(name, node, failures=errors):
                    return function(node)
            except errors:
                again = following(node)
                if again is None:
                    raise
                node = again

    def retries(self, name: str, attempts: int, *, key: Key | None = None) -> Callable[[Node], Node | None]:
        """What ``call`` asks after a failed attempt: a node not yet tried, None where the error is to be raised."""
        return self.inner.retries(name, attempts, key=key)

    def explain(self, name: str) -> Explanation:
        """Every known node of a name, and why it is selected or not, with numbers; ``print`` it."""
        return self._opened().run(self.inner.explain, name)

    @property
    def statistics(self) -> Mapping[str, CallStatistics]:
        """How the calls to each name went so far, of the names that are followed. Any thread may ask."""
        return self.inner.statistics

    def close(self) -> None:
        """Stop following. Waiting ``select`` calls end with RegistryClosed. Closing twice is fine."""
        self._leave(self.inner.close)

    def _opened(self) -> Portal:
        if not self._entered:
            raise RegistryClosed("this Selector is not open: use `with microreg.sync.Selector(...) as selector:`")
        return self.portal
