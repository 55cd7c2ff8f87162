"""What a client remembers of the nodes that it has registered, one caller at a time for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

__all__ = ["Holding", "Holdings"]

K = TypeVar("K", bound=Hashable)
H = TypeVar("H", bound="Holding")

_FEW = 64
"""So many nodes are remembered before any is looked at whether it can be forgotten."""
_FORGET = 60.0
"""Seconds after its end for which a node is remembered at least."""


class Holding:
    """What is remembered of one node. A subclass adds what its store needs, and says when that is nothing."""

    __slots__ = ("lock", "until", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        """How many calls have it, or wait for it."""
        self.until = 0.0
        """When the store forgets the node at the latest, in ``loop.time()``."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remember."""
        return True


class Holdings(Generic[K, H]):
    """What is remembered of each node, by key. Belongs to the running loop.

    Memory is bounded by the nodes that are there, whatever came and went: what is empty is forgotten at once, what
    expired is when there are twice as many as before.
    """

    def __init__(self, make: Callable[[], H]) -> None:
        self._make = make
        self._held: dict[K, H] = {}
        self._limit = _FEW
        self._time = asyncio.get_running_loop().time

    def __len__(self) -> int:
        return len(self._held)

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncGenerator[H]:
        """What is remembered of this node, while no other caller has it."""
        held = self._held.get(key)
        if held is None:
            if len(self._held) >= self._limit:
                self._prune()
            held = self._held[key] = self._make()
        held.users += 1
        try:
            async with held.lock:
                yield held
        finally:
            held.users -= 1
            if not held.users and held.is_empty:
                del self._held[key]

    def _prune(self) -> None:
        now = self._time()
        self._held = {key: held for key, held in self._held.items() if held.users or held.until + _FORGET > now}
        self._limit = max(_FEW, 2 * len(self._held))
