"""Retries of one call: on nodes not yet tried, as far as the budget reaches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from microreg.errors import NoNodeAvailable
from microreg.model import Node
from microreg.selector.choosing import Chooser
from microreg.selector.membership import Rules
from microreg.selector.pool import Pool
from microreg.selector.settings import check_node
from microreg.selector.strategies import Key

__all__ = ["Retries"]


class Retries:
    """Called with the node that failed: a node not yet tried, or None where the error is to be raised."""

    def __init__(
        self, find: Callable[[], Pool | None], chooser: Chooser, rules: Rules, attempts: int, key: Key | None
    ) -> None:
        self._find = find
        self._chooser = chooser
        self._rules = rules
        self._attempts = attempts
        self._key = key
        self._tried: set[str] = set()
        pool = find()
        if pool is not None:
            pool.budget.call(rules.clock())

    def __call__(self, failed: Node) -> Node | None:
        self._tried.add(check_node(failed).id)
        pool = self._find()
        if pool is None or len(self._tried) >= self._attempts:
            return None
        node = self._untried(pool)
        if node is None:
            return None
        if not pool.budget.retry(self._rules.clock()):
            pool.tally.refused += 1
            return None
        pool.tally.retries += 1
        return node

    def _untried(self, pool: Pool) -> Node | None:
        """One that the strategy picks; else of the others in the roster, else of all that may be called."""
        pick, tried = self._chooser.picks.get(pool.name), self._tried
        if pick is None:
            return None
        if self._key is None:
            with suppress(NoNodeAvailable):  # of a strategy that others wrote
                for _ in range(len(tried) + 1):
                    node = pick()
                    if node.id not in tried:
                        return node
        roster = pool.roster
        for members in (roster.members, roster.eligible):
            rest = tuple(member for member in members if member.id not in tried)
            if rest:
                return self._chooser.among(rest, self._rules.rng, self._key)
        return None
