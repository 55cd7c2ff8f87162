"""The shrink guard: a store that has lost most nodes of a name at once is not believed at once.

A registry that was restarted without its data answers, successfully, that there is nothing, or only the first that
came back; and the nodes that it forgot are well.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable

from microreg.catalog import Catalog
from microreg.errors import ServiceNotFound
from microreg.events import Reason
from microreg.model import Service

__all__ = ["Guard"]

log = logging.getLogger("microreg.cache")

_FIRST = 2.0
_RAREST = 8.0
"""Seconds between two lookups: every one is twice as long in coming, since a fleet of caches asks at the same time."""


class Guard:
    """Keeps nodes of one name that went by ``lost``, more than half of them, until the store has said so for ``grace``.

    Meanwhile ``read`` looks the name up, after two seconds, then more and more rarely, and when a grace ends; the watch
    goes on telling what it hears. A lookup that finds a node begins its grace anew, one
    that fails says nothing. A node is kept until a lookup after its grace does not find it, or the watch tells of
    it again. Where at least half of the nodes are left, the lost ones go at once.
    """

    def __init__(
        self,
        name: str,
        catalog: Catalog,
        grace: float,
        read: Callable[[], Awaitable[tuple[Service, ...]]],
        rng: random.Random,
    ) -> None:
        self.since: float | None = None
        """``loop.time()`` when the nodes that are kept were lost; None while none is kept."""
        self.task: asyncio.Task[None] | None = None
        """What looks the name up; whoever drops the guard for good ends it."""
        self._name = name
        self._catalog = catalog
        self._grace = grace
        self._read = read
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._lost: set[str] = set()  # told in this turn of the loop
        self._decision: asyncio.Handle | None = None
        self._kept: dict[str, float] = {}  # the end of its grace by node id

    def lost(self, node_id: str) -> None:
        """The watch missed this node after a gap. It tells of all such nodes in one turn of the loop."""
        self._lost.add(node_id)
        if self._decision is None:
            self._decision = self._loop.call_soon(self._decide)

    def told(self, node_id: str) -> None:
        """The watch tells of this node: it is not missing (any more)."""
        self._lost.discard(node_id)
        if self._kept.pop(node_id, None) is not None:
            self._settle()

    def drop(self) -> None:
        """Keep nothing: the whole name is given up."""
        if self._decision is not None:
            self._decision.cancel()
            self._decision = None
        self._lost.clear()
        self._kept.clear()
        self._settle()

    def _decide(self) -> None:
        self._decision = None
        lost, self._lost = self._lost, set()
        missing = lost | self._kept.keys()
        known = {record.nodes[0].id for record in self._catalog.records(self._name)}
        if 2 * len(known & missing) <= len(known) or not self._grace:
            for node_id in lost:
                self._catalog.remove(self._name, node_id, Reason.LOST)
            return
        now = self._loop.time()
        self._kept |= dict.fromkeys(lost, now + self._grace)
        if not self._kept:
            return
        if self.since is None:
            self.since = now
            log.warning(
                "the store has lost most nodes of %s at once; they stay until it has said so for %g s",
                self._name,
                self._grace,
                extra={"service": self._name, "nodes": len(self._kept), "grace": self._grace},
            )
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._confirm(), name=f"microreg guard {self._name}")

    async def _confirm(self) -> None:
        pace = _FIRST
        while self._kept:
            await asyncio.sleep(min(self._rng.uniform(0.5, 1.5) * pace, self._left() + self._rng.uniform(0, 1)))
            pace = min(2 * pace, _RAREST)
            try:
                services = await self._read()
            except ServiceNotFound:
                services = ()
            except Exception:
                continue  # says nothing; how long that may go on, cache.max_stale says
            self._judge({node.id for service in services for node in service.nodes})

    def _left(self) -> float:
        """Seconds until the first grace ends."""
        left = min(self._kept.values()) - self._loop.time()
        return left if left > 0 else math.inf

    def _judge(self, found: set[str]) -> None:
        now = self._loop.time()
        for node_id, end in tuple(self._kept.items()):
            if node_id in found:
                self._kept[node_id] = now + self._grace
            elif end <= now:
                del self._kept[node_id]
                self._catalog.remove(self._name, node_id, Reason.LOST)
        self._settle()

    def _settle(self) -> None:
        if not self._kept:
            self.since = None
