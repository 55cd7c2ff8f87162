"""What was heard last. Whatever strangers can make us remember is kept here, or has another bound."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Recent"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most ``most`` things, each for ``life`` seconds since it was put; the oldest make room for new ones."""

    def __init__(self, most: int, life: float = float("inf")) -> None:
        self._most, self._life = most, life
        self._loop = asyncio.get_running_loop()
        self._things: dict[K, tuple[V, float]] = {}

    def __len__(self) -> int:
        return len(self._things)

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def get(self, key: K) -> V | None:
        """What was put last under this key, a short time ago."""
        value, until = self._things.get(key, (None, 0.0))
        return value if self._loop.time() < until else None

    def put(self, key: K, value: V) -> None:
        """Remember this, as the newest."""
        now = self._loop.time()
        self._things.pop(key, None)
        while self._things and (len(self._things) >= self._most or self._oldest() <= now):
            del self._things[next(iter(self._things))]
        self._things[key] = value, now + self._life

    def _oldest(self) -> float:
        return next(iter(self._things.values()))[1]
