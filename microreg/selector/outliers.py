"""Outliers: nodes that fail call after call are left alone for a while; and nodes that are new begin slowly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from microreg.errors import ConfigError
from microreg.model import Node
from microreg.selector.members import Member
from microreg.selector.strategies import Pick

__all__ = ["Outliers", "SlowStart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outliers:
    """When a node is ejected: after so many ``failures`` in a row, as Envoy's ``consecutive_local_origin_failure``.

    It gets no calls for ``pause`` seconds, twice as long the second time and so on, up to ``longest``; each
    ``pause`` that it then stays is forgiven. After that one more failure ejects it again. At most ``share`` of the
    selectable nodes are ejected, never the last one; where more of those that are left have been, all are used
    again (panic mode: who seems to have no good node is probably wrong).
    """

    failures: int = 5
    pause: float = 10.0
    longest: float = 300.0
    share: float = 0.5

    def __post_init__(self) -> None:
        try:
            sound = self.failures >= 1 and 0 < self.pause <= self.longest and 0 <= self.share <= 1
        except TypeError:  # no numbers
            sound = False
        if not sound:
            raise ConfigError(f"{self}: expected failures >= 1, 0 < pause <= longest in seconds, 0 <= share <= 1")

    def most(self, selectable: int) -> int:
        """How many of so many nodes may be ejected."""
        return max(0, min(int(selectable * self.share), selectable - 1))

    def eject(self, member: Member, now: float) -> None:
        """Set until when a member is left alone."""
        forgiven = int(max(0.0, now - member.ejected_until) / self.pause)
        member.ejections = max(0, member.ejections - forgiven) + 1
        member.ejected_until = now + min(self.pause * 2 ** min(member.ejections - 1, 30), self.longest)

    def readmit(self, member: Member) -> None:
        """The time is over: one more failure is enough."""
        member.failures = min(member.failures, self.failures - 1)


@dataclass(frozen=True, slots=True)
class SlowStart:
    """New nodes get a tenth of their share of calls at first, and all of it after ``seconds``."""

    seconds: float
    rng: Random
    clock: Callable[[], float]

    def share(self, member: Member, now: float) -> float:
        """The part of its share that a member gets now."""
        return min(1.0, max(_FIRST_SHARE, (now - member.since) / self.seconds)) if member.since else 1.0

    def ramped(self, pick: Pick, new: Mapping[str, Member]) -> Pick:
        """A ``Pick`` that takes some picks of new members back, and picks again."""
        draw, clock, share = self.rng.random, self.clock, self.share

        def ramping() -> Node:
            node = pick()
            for _ in _TRIES:
                member = new.get(node.id)
                if member is None or draw() < share(member, clock()):
                    break
                node = pick()
            return node

        return ramping


_FIRST_SHARE = 0.1
_TRIES = range(8)
