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
from microreg.errors import ConfigError, NoNodeAvailable, RegistryClosed, RegistryError, WrongLoop
from microreg.events import Change
from microreg.layers.cache import CacheLayer
from microreg.model import Node
from microreg.options import Options
from microreg.registry import Registry
from microreg.rules import check_name
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
        self._pools: dict[str, _Pool] = {}
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
        pick = self._picks.get(name)
        if pick is None:
            pool = self._pool(name)
            pick = self._picks.get(name)
            if pick is None:
                raise NoNodeAvailable(f"no node of {name!r} can be selected now: {pool.why()}")
        return pick()

    async def select(self, name: str, *, timeout: float = 5.0) -> Node:
        """The next node; waits up to ``timeout`` seconds for one. Raises NoNodeAvailable after that."""
        pick = self._picks.get(name)
        if pick is not None:
            return pick()
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
        if attempts < 1:
            raise ConfigError(f"attempts={attempts}: expected at least 1")
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

    def _pool(self, name: str) -> _Pool:
        pool = self._pools.get(name)
        if pool is None:
            if self._over:
                raise RegistryClosed(f"this Selector {self._over}")
            if self._cache is None:
                raise RegistryClosed("this Selector is not open: use `async with Selector(registry) as selector:`")
            check_name(name)
            self._check_loop(name)
            pool = _Pool(name, self._cache, self._publish)
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

    def _publish(self, pool: _Pool) -> None:
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


class _Pool:
    """The selectable nodes of one name, kept up to date from the cache."""

    def __init__(self, name: str, cache: CacheLayer, publish: Callable[[_Pool], None]) -> None:
        self.name = name
        self.nodes: tuple[Node, ...] = ()
        self.problem = ""
        self._known = 0
        self._cache = cache
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[None]] = set()
        self._scheduled: asyncio.Handle | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Follow the name and publish what is known."""
        self._followed = self._cache.follow(self.name)
        self._unsubscribe = self._cache.subscribe(self.name, self._changed)
        self._followed.task.add_done_callback(self._over)
        self._build()

    def close(self) -> None:
        """Stop, and end every wait with RegistryClosed."""
        self._unsubscribe()
        self._followed.task.remove_done_callback(self._over)
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._wake(RegistryClosed("the Selector was closed"))

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

    def why(self) -> str:
        """Why there is no node, for an error."""
        if self._followed.error is not None:
            return str(self._followed.error)
        if self.problem:
            return self.problem
        if self._known:
            return f"{self._known} known, none is passing or warning"
        if not self._followed.live:
            reason = self._followed.reason
            return f"the registry is away: {reason}" if reason else "the registry has not answered yet"
        return "none is registered"

    def _changed(self, _change: Change) -> None:
        if self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._build)

    def _build(self) -> None:
        self._scheduled = None
        nodes = [node for service in self._cache.services(self.name) for node in service.nodes]
        self._known = len(nodes)
        self.nodes = tuple(node for node in nodes if node.status.selectable)
        self._publish(self)
        if self.nodes:
            self._wake(None)

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


def _strategy(strategy: str | Strategy) -> Strategy:
    found: object = strategy
    if isinstance(strategy, str):
        from microreg.plugins import load

        found = load("microreg.strategies", strategy)
    if not callable(found):
        raise ConfigError(f"strategy {strategy!r} is {found!r}; expected a name or a function (nodes, rng) -> pick")
    return cast(Strategy, found)
