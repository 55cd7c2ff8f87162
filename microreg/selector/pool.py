"""The pool of one name: its selectable nodes, followed in the cache, built once per change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from microreg.errors import RegistryClosed, RegistryError
from microreg.events import Change
from microreg.layers.cache import CacheLayer
from microreg.model import Node

__all__ = ["Pool"]


class Pool:
    """The selectable nodes of one name, kept up to date from the cache."""

    def __init__(self, name: str, cache: CacheLayer, publish: Callable[[Pool], None]) -> None:
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
