"""What a watch says, folded, beside what get_service answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from microreg import Catalog, Change, Registry, Service, ServiceNotFound, Snapshot, Watch
from support import wait_until

__all__ = ["Follower", "following", "found"]


@dataclass
class Follower:
    """An open watch, the fold of all that it has said, and its changes one by one."""

    registry: Registry
    watch: Watch
    catalog: Catalog = field(default_factory=Catalog)
    changes: list[str] = field(default_factory=list[str])
    """As ``create greeter/a``, since the last time they were taken."""

    async def run(self) -> None:
        async for event in self.watch:
            self.catalog.apply(event)
            if isinstance(event, Change):
                self.changes.append(f"{event.action} {event.service.name}/{event.node.id}")

    def take(self) -> list[str]:
        """The changes until now."""
        taken = self.changes[:]
        self.changes.clear()
        return taken

    async def agrees(self, *names: str) -> None:
        """Wait until the fold is what get_service answers for these names."""
        for name in names:
            told = await found(self.registry, name)
            await self.until(partial(_holds, name, told))

    async def until(self, condition: Callable[[Follower], object], timeout: float = 40.0) -> None:
        """Wait until this holds."""
        await wait_until(
            lambda: condition(self),
            timeout,
            what=lambda: f"state {self.watch.state}, changes {self.changes}, records {[*self.catalog.records()]}",
        )

    async def hears(self, *changes: str, timeout: float = 40.0) -> None:
        """Wait until exactly these changes have been told, in any order, and take them.

        Changes of one node that nobody has heard yet are told as one, or as none: hear each before the next is made.
        """
        await self.until(lambda each: sorted(each.changes) == sorted(changes), timeout)
        self.changes.clear()


@asynccontextmanager
async def following(registry: Registry, name: str | None = None) -> AsyncGenerator[Follower]:
    """A watch whose Snapshot has been read."""
    async with registry.watch(name) as watch:
        follower = Follower(registry, watch)
        first = await anext(watch)
        assert isinstance(first, Snapshot)
        follower.catalog.apply(first)
        task = asyncio.create_task(follower.run())
        try:
            yield follower
        finally:
            task.cancel()
            await asyncio.wait([task])


def _holds(name: str, services: tuple[Service, ...], follower: Follower) -> bool:
    return follower.catalog.services(name) == services


async def found(registry: Registry, name: str) -> tuple[Service, ...]:
    """What get_service answers; nothing where it is ServiceNotFound."""
    try:
        return await registry.get_service(name)
    except ServiceNotFound:
        return ()
