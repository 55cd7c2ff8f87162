"""Selector: which node to call next. Client-side load balancing on top of any registry.

The event loop publishes one immutable pool per name by a single assignment, built once per change;
``pick`` only reads it, so it needs no lock, works from any thread, and costs the same at every size.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar, cast

from microreg import process
from microreg.arguments import check_timeout, shown
from microreg.errors import ConfigError, NoNodeAvailable, RegistryClosed, WrongLoop
from microreg.layers.cache import CacheLayer
from microreg.model import Node
from microreg.options import Options
from microreg.registry import Registry
from microreg.rules import check_name
from microreg.selector.pool import Pool
from microreg.selector.strategies import Pick, Strategy

__all__ = ["Selector"]

log = logging.getLogger("microreg.selector")

T = TypeVar("T")
_Errors = type[Exception] | tuple[type[Exception], ...]


class Selector:
    """Picks nodes of services; to be used with ``async with``.

    ``strategy`` is a name (``random``, ``round_robin``, or one that a plugin provides) or a function of
    the same form. An uncached registry is wrapped in a cache of the Selector's own; the registry itself
    stays the caller's to close.
    """

    def __init__(
        self, registry: Registry, strategy: str | Strategy = "random", *, rng: random.Random | None = None
    ) -> None:
        if not isinstance(registry, Registry):
            raise ConfigError(f"a Selector takes the registry that connect() made, got {type(registry).__name__}")
        self.registry = registry
        self._strategy = _strategy(strategy)
        self._given_rng = rng
        self._rng = rng or random.Random()
        self._cache: CacheLayer | None = None
        self._own: CacheLayer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = ""  # why no call is possible any more
        self._pools: dict[str, Pool] = {}
        self._picks: dict[str, Pick] = {}

    async def __aenter__(self) -> Self:
        if self._cache is not None or self._over:
            raise RegistryClosed("this Selector was used before; make another")
        self._rng = self._given_rng or random.Random()  # made here: forked workers would share one of their parent's
        self._loop = asyncio.get_running_loop()
        process.in_child(self, Selector._after_fork)
        if isinstance(self.registry, CacheLayer):
            self._cache = self.registry
        else:
            self._cache = self._own = CacheLayer(self.registry, self.registry.url, Options())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop following. Waiting ``select`` calls end with RegistryClosed. Closing twice is fine."""
        self._over = self._over or "was closed; make another"
        pools = list(self._pools.values())
        self._pools.clear()
        self._picks.clear()
        for pool in pools:
            pool.close()
        if self._own is not None:
            await self._own.stop()

    @property
    def picks(self) -> Mapping[str, Pick]:
        """The ``Pick`` of every name that has a node now. Only the loop changes it; any thread may read it."""
        return self._picks

    def pick(self, name: str) -> Node:
        """The next node, at once and without I/O. Raises NoNodeAvailable; the first pick of a name starts to follow it.

        From another thread than the loop's, only names that were selected before can be picked.
        """
        try:
            pick = self._picks.get(name)
        except TypeError:  # it cannot even be looked up
            check_name(name)
            raise
        if pick is None:
            pool = self._pool(name)
            pick = self._picks.get(name)
            if pick is None:
                raise NoNodeAvailable(f"no node of {name!r} can be selected now: {pool.why()}")
        return pick()

    async def select(self, name: str, *, timeout: float = 5.0) -> Node:
        """The next node; waits up to ``timeout`` seconds for one. Raises NoNodeAvailable after that."""
        try:
            pick = self._picks.get(name)
        except TypeError:  # it cannot even be looked up
            check_name(name)
            raise
        if pick is not None:
            return pick()
        timeout = check_timeout(timeout)
        pool = self._pool(name)
        self._check_loop(name)
        try:
            async with asyncio.timeout(timeout):
                while (pick := self._picks.get(name)) is None:
                    await pool.wait()
        except TimeoutError:
            raise NoNodeAvailable(f"no node of {name!r} within {timeout:g} s: {pool.why()}") from None
        return pick()

    async def call(
        self,
        name: str,
        function: Callable[[Node], Awaitable[T]],
        *,
        attempts: int = 3,
        timeout: float = 5.0,
        retry_on: _Errors = (OSError, EOFError),
    ) -> T:
        """Call ``function(node)``; where it raises one of ``retry_on``, again on a node not yet tried.

        At most ``attempts`` calls. The default errors are those of a connection (ConnectionError,
        TimeoutError, a stream that ended early); pass your client's own, and only for calls that may
        be repeated. Raises what the last call raised, or NoNodeAvailable where there was no node at all.
        """
        if not callable(function):
            raise ConfigError(f"function {shown(function)}: expected an async function that takes a node")
        following = self.retries(name, attempts)
        node = await self.select(name, timeout=timeout)
        while True:
            try:
                return await function(node)
            except retry_on:
                again = following(node)
                if again is None:
                    raise
                node = again

    def retries(self, name: str, attempts: int) -> Callable[[Node], Node | None]:
        """What ``call`` asks after a failed attempt: a node not yet tried, None where the error is to be raised.

        For whoever calls in another way than ``call``. Any thread may ask, one at a time.
        """
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ConfigError(f"attempts={shown(attempts)}: expected at least 1, a whole number")
        tried: set[str] = set()

        def following(failed: Node) -> Node | None:
            tried.add(failed.id)
            return self._untried(name, tried) if len(tried) < attempts else None

        return following

    def _after_fork(self) -> None:
        self._over = process.FORKED
        self._pools.clear()
        self._picks.clear()

    def _untried(self, name: str, tried: set[str]) -> Node | None:
        pick, pool = self._picks.get(name), self._pools.get(name)
        if pick is None or pool is None:
            return None
        for _ in range(len(tried) + 1):
            node = pick()
            if node.id not in tried:
                return node
        rest = [node for node in pool.nodes if node.id not in tried]
        return self._rng.choice(rest) if rest else None

    def _pool(self, name: str) -> Pool:
        pool = self._pools.get(name)
        if pool is None:
            if self._over:
                raise RegistryClosed(f"this Selector {self._over}")
            if self._cache is None:
                raise RegistryClosed("this Selector is not open: use `async with Selector(registry) as selector:`")
            check_name(name)
            self._check_loop(name)
            pool = Pool(name, self._cache, self._publish)
            pool.start()
            self._pools[name] = pool
        return pool

    def _check_loop(self, name: str) -> None:
        running = None
        with suppress(RuntimeError):
            running = asyncio.get_running_loop()
        if running is not self._loop:
            raise WrongLoop(
                f"no node of {name!r} is known yet, and only the loop that opened this Selector can follow it: "
                "select() the name once there"
            )

    def _publish(self, pool: Pool) -> None:
        if not pool.nodes:
            self._picks.pop(pool.name, None)
            return
        try:
            self._picks[pool.name] = self._strategy(pool.nodes, self._rng)
            pool.problem = ""
        except Exception as error:
            self._picks.pop(pool.name, None)
            pool.problem = f"the strategy raised {type(error).__name__}: {error}"
            log.exception("a strategy failed", extra={"service": pool.name})


def _strategy(strategy: str | Strategy) -> Strategy:
    found: object = strategy
    if isinstance(strategy, str):
        from microreg.plugins import load

        found = load("microreg.strategies", strategy)
    if not callable(found):
        raise ConfigError(f"strategy {shown(found)}: expected a name or a function (nodes, rng) -> pick")
    return cast(Strategy, found)
