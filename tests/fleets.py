"""Announced nodes, and watches that follow them: what has to be well again after every fault."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from following import Follower, following, found
from microreg import Announcement, Registry, State, announce
from support import wait_until

__all__ = ["BOUND", "NAMES", "Fleet", "gathered"]

NAMES = ("orders", "users", "search")
BOUND = 25.0
"""Seconds within which everything is well again."""


@dataclass
class Fleet:
    """Nodes that one registry announces, and watches of the same or of another. ``fresh`` makes a new client."""

    registry: Registry
    reader: Registry
    fresh: Callable[[], Registry]
    announcements: list[Announcement]
    followers: list[Follower]
    turn: int = 0

    async def settle(self, bound: float = BOUND, *, at_once: bool = False) -> None:
        """Every announcement is live, and all watches and a new client say the same.

        With ``at_once`` the new client is asked only once, after everybody else has said it.
        """
        await wait_until(self.live, bound, what=self.describe)
        self.turn += 1  # a change that every watch has to hear of
        await self.announcements[0].update(metadata={"turn": str(self.turn)})
        await wait_until(self.live, bound, what=self.describe)
        for follower in self.followers:
            await follower.until(self._is_told_by, bound)
        async with self.fresh() as fresh:
            if at_once:
                assert await self._is_answered_by(fresh)
            else:
                _: bool = await wait_until(lambda: self._is_answered_by(fresh), bound, step=0.1, what=self.describe)
        await wait_until(self.live, bound, what=self.describe)

    def live(self) -> bool:
        """Whether every announcement is."""
        return all(each.state is State.LIVE for each in self.announcements)

    def deletes(self) -> list[str]:
        """The nodes that watches have said to be gone, as ``delete orders/n1``."""
        return [change for each in self.followers for change in each.changes if change.startswith("delete ")]

    def forget(self) -> None:
        """What was told so far does not count any more."""
        for follower in self.followers:
            follower.take()

    def describe(self) -> str:
        """Who is not as it should be."""
        watches = [(each.watch.name, each.watch.state, each.watch.error) for each in self.followers]
        return f"{[each for each in self.announcements if each.state is not State.LIVE]} {watches}"

    def _nodes(self) -> set[tuple[str, str, str | None]]:
        return {(each.service.name, each.node.id, each.node.metadata.get("turn")) for each in self.announcements}

    def _is_told_by(self, follower: Follower) -> bool:
        """Whether the watch is live and says exactly these nodes, as far as they are of its name."""
        names = {follower.watch.name} if follower.watch.name is not None else {name for name, _, _ in self._nodes()}
        records = [each for each in follower.catalog.records() if each.name in names]
        told = {(each.name, each.nodes[0].id, each.nodes[0].metadata.get("turn")) for each in records}
        return follower.watch.state == "live" and told == {node for node in self._nodes() if node[0] in names}

    async def _is_answered_by(self, fresh: Registry) -> bool:
        """Whether a client finds exactly these nodes, and the watches say the same records."""
        for name in {name for name, _, _ in self._nodes()}:
            services = await found(fresh, name)
            wanted = {id for of, id, _ in self._nodes() if of == name}
            if {node.id for each in services for node in each.nodes} != wanted:
                return False
            mine = [each for each in self.followers if each.watch.name in (name, None)]
            if any(each.catalog.services(name) != services for each in mine):
                return False
        return True


@asynccontextmanager
async def gathered(
    registry: Registry,
    fresh: Callable[[], Registry],
    *,
    nodes: int,
    ttl: float,
    reader: Registry | None = None,
    names: Sequence[str] = NAMES,
    watched: Sequence[str | None] = (*NAMES, None),
) -> AsyncGenerator[Fleet]:
    """So many nodes, announced by one registry and watched by it or by ``reader``; they come and go all at once."""
    seed = random.randrange(10**6)
    sys.stderr.write(f"seed {seed}\n")
    async with AsyncExitStack() as stack:
        watches = (stack.enter_async_context(following(reader or registry, name)) for name in watched)
        followers = await asyncio.gather(*watches)
        announcements = [
            announce(
                registry,
                names[number % len(names)],
                address=f"10.0.0.1:{1000 + number}",
                id=f"n{number}",
                ttl=ttl,
                drain_delay=0,
                rng=random.Random(seed + number),
            )
            for number in range(nodes)
        ]
        stacks = [AsyncExitStack() for _ in announcements]
        try:
            pairs = zip(stacks, announcements, strict=True)
            await asyncio.gather(*(each.enter_async_context(announcement) for each, announcement in pairs))
            yield Fleet(registry, reader or registry, fresh, announcements, followers)
        finally:
            await asyncio.gather(*(each.aclose() for each in stacks))
