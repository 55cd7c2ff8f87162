"""Vacant: the names of which no node is known. Callers can make up any number of them, so it is bounded."""

from __future__ import annotations

from collections import OrderedDict

from microreg.selector.pool import Pool

__all__ = ["Vacant"]

_MOST = 1000
"""So many names without a node are followed."""

_CANDIDATES = 16
"""Names that are looked at for one that can make room."""


class Vacant:
    """Those of the ``pools`` that know no node, the one first that has known none for longest."""

    def __init__(self, pools: dict[str, Pool]) -> None:
        self._pools = pools
        self._vacant: OrderedDict[str, Pool] = OrderedDict()

    def note(self, pool: Pool) -> None:
        """A pool has changed."""
        if pool.membership.members:
            self._vacant.pop(pool.name, None)
        else:
            self._vacant[pool.name] = pool

    def make_room(self) -> None:
        """Where these are too many, follow the first one no longer for which nobody waits; a pick follows it anew."""
        for _ in range(_CANDIDATES if len(self._vacant) > _MOST else 0):
            name, pool = self._vacant.popitem(last=False)
            if not pool.awaited:
                del self._pools[name]
                pool.abandon()
                return
            self._vacant[name] = pool

    def clear(self) -> None:
        """There are no pools any more."""
        self._vacant.clear()
