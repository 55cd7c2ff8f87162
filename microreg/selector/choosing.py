"""Chooser: makes the function that picks, by the strategy; and says what a strategy of others did wrong."""

from __future__ import annotations

import logging
import random
from typing import cast

from microreg.arguments import raised, shown
from microreg.errors import ConfigError, NoNodeAvailable
from microreg.model import Node
from microreg.selector.filters import is_plain
from microreg.selector.members import Member
from microreg.selector.membership import Rules
from microreg.selector.pool import Pool
from microreg.selector.strategies import BUILT_IN, Key, Keyed, KeyedPick, Pick, Strategy

__all__ = ["Chooser"]

log = logging.getLogger("microreg.selector")


class Chooser:
    """One strategy, and what it made for each name. Only the loop changes ``picks``; any thread may read it."""

    def __init__(self, strategy: str | Strategy) -> None:
        self.strategy = _strategy(strategy)
        named = strategy if isinstance(strategy, str) else getattr(strategy, "__qualname__", None)
        self.name: str = named or shown(strategy)
        self.picks: dict[str, Pick] = {}
        """The ``Pick`` of every name that has a node now."""
        self.trusted = any(self.strategy is own for own in BUILT_IN)
        self._keyed: dict[str, KeyedPick] = {}

    def publish(self, pool: Pool, rules: Rules) -> None:
        """Build for a pool as it is now. A strategy that raises is the pool's problem."""
        before, pool.problem = pool.problem, ""
        members = pool.roster.members
        if members:
            try:
                pick = self._pick(pool, rules)
                if isinstance(self.strategy, Keyed):  # first: who finds a pick in another thread may have a key
                    self._keyed[pool.name] = self.strategy.build(members, rules.rng)
                self.picks[pool.name] = pick
                return
            except Exception as error:
                pool.problem = f"the strategy {raised(error)}"
                if pool.problem != before:
                    log.exception("a strategy failed for %s", pool.name, extra={"service": pool.name})
        self.picks.pop(pool.name, None)
        self._keyed.pop(pool.name, None)

    def _pick(self, pool: Pool, rules: Rules) -> Pick:
        made = self.strategy(pool.roster.members, rules.rng)
        if not self.trusted:
            made = _guarded(made, pool.name)
        new = pool.membership.new
        return rules.slow_start.ramped(made, new) if new else made

    def with_key(self, name: str, key: Key) -> Node:
        """The node of a name for a key; the name has a ``Pick``."""
        if not isinstance(self.strategy, Keyed):
            raise ConfigError(f"the strategy {self.name} takes no key: use one that does, such as 'rendezvous'")
        if not isinstance(key, str | bytes | int):
            raise ConfigError(f"key {shown(key)}: expected str, bytes or int, which are the same in every process")
        pick = self._keyed.get(name)
        if pick is None:
            raise NoNodeAvailable(f"no node of {name!r} can be selected any more")
        try:
            node = pick(key)
        except Exception as error:
            raise _broken(name, error) from error
        return node if isinstance(node, Node) else _strange(name, node)

    def among(self, members: tuple[Member, ...], rng: random.Random, key: Key | None) -> Node:
        """The node that the strategy would pick if there were only these; a random one where it fails."""
        try:
            if key is not None and isinstance(self.strategy, Keyed):
                node = self.strategy.build(members, rng)(key)
            else:
                node = self.strategy(members, rng)()
        except Exception:
            node = None
        return node if isinstance(node, Node) else rng.choice(members).node


def _guarded(pick: Pick, name: str) -> Pick:
    """The ``Pick`` of a strategy that others wrote: what goes wrong in it is a NoNodeAvailable that says so."""
    if not callable(pick):
        raise TypeError(f"returned {shown(pick)}; expected a function that picks")

    def guarded() -> Node:
        try:
            node = pick()
        except Exception as error:
            raise _broken(name, error) from error
        return node if isinstance(node, Node) else _strange(name, node)

    return guarded


def _broken(name: str, error: Exception) -> NoNodeAvailable:
    return NoNodeAvailable(f"no node of {name!r}: the strategy {raised(error)}")


def _strange(name: str, picked: object) -> Node:
    raise NoNodeAvailable(f"no node of {name!r}: the strategy picked {shown(picked)}; expected a Node")


def _strategy(strategy: str | Strategy) -> Strategy:
    found: object = strategy
    if isinstance(strategy, str):
        from microreg.plugins import load

        found = load("microreg.strategies", strategy)
    if not is_plain(found):
        raise ConfigError(f"strategy {shown(found)}: expected a name or a function (members, rng) -> pick")
    return cast(Strategy, found)
