"""Membership: who belongs to one name, what each is known for, and who of them is new, ejected or absent."""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from microreg.model import Node, Service
from microreg.selector.budget import RetryBudget
from microreg.selector.filters import Filter, filtered
from microreg.selector.members import Member, Peers, weight_of
from microreg.selector.outliers import Outliers, SlowStart
from microreg.selector.roster import Roster, enrol

__all__ = ["Membership", "Rules"]

log = logging.getLogger("microreg.selector")

_ABSENCE = 60.0
"""Seconds for which what was learned of a node is kept when it is gone."""

_MOST_ABSENT = 1000
"""Of so many nodes of a name at most."""

_SETTLING = 1.0
"""Nodes that come within so many seconds after the first are not new: not every registry tells all at once."""

_ID = attrgetter("id")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a Selector was told, for all its pools."""

    filters: tuple[Filter, ...]
    zone: str
    outliers: Outliers | None
    slow_start: SlowStart
    retries: RetryBudget
    clock: Callable[[], float]
    rng: random.Random


class Membership:
    """The members of one name. Each change costs the same, however many there are; only ``roster`` looks at all."""

    def __init__(self, name: str, rules: Rules) -> None:
        self.name = name
        self.members: dict[str, Member] = {}
        self.peers = Peers()
        self.new: dict[str, Member] = {}
        """Those in their slow start."""
        self._rules = rules
        self._ordered: tuple[Member, ...] | None = ()
        self._ejected: dict[str, Member] = {}
        self._absent: OrderedDict[str, tuple[Member, float]] = OrderedDict()
        self._begun: float | None = None
        self._eligible = 0
        self._left_alone = 0  # of them, how many are ejected
        self._warned = False

    @property
    def ejected(self) -> int:
        """How many are left alone now."""
        return len(self._ejected)

    def put(self, service: Service, node: Node) -> bool:
        """A node is there, or changed; whether it was not there before."""
        member = self.members.get(node.id)
        joins = member is None
        if member is None:
            member = self._join(service, node)
        filters = self._rules.filters
        member.update(service, node, filtered(filters, node, service) if filters else "")
        if not self._warned and "weight" in node.metadata:
            self._check_weight(node)
        return joins

    def remove(self, node_id: str) -> bool:
        """A node is gone; whether it was there. What is known of it is kept for a minute."""
        member = self.members.pop(node_id, None)
        if member is None:
            return False
        self._ordered = None
        self.new.pop(node_id, None)
        self._ejected.pop(node_id, None)
        self.peers.forget(member)
        now = self._rules.clock()
        self._absent[node_id] = member, now
        self._forget(now)
        if not self.members:
            self._begun = None
        return True

    def learn(self, member: Member, latency: float | None, failed: bool | None, now: float) -> bool:
        """A call to a member ended; whether it is ejected by that."""
        member.learn(latency, failed, now)
        if self.members.get(member.id) is not member:  # it left during the call
            self.peers.forget(member)
            return False
        outliers = self._rules.outliers
        if not failed or outliers is None or member.failures < outliers.failures or member.ejected_until > now:
            return False
        if self._left_alone >= outliers.most(self._eligible):
            return False
        outliers.eject(member, now)
        self._ejected[member.id] = member
        self._left_alone += 1
        extra = {"service": self.name, "node": member.id, "failures": member.failures, "until": member.ejected_until}
        log.info("ejected node %s of %s, which fails", member.id, self.name, extra=extra)
        return True

    def roster(self, now: float) -> Roster:
        """Who may be called now; those whose time is over are readmitted first. O(n)."""
        rules = self._rules
        if self._ejected or self.new:
            self._let_in(now)
        if self._ordered is None:
            self._ordered = tuple(sorted(self.members.values(), key=_ID))
        roster = enrol(self._ordered, rules.zone, rules.outliers if self._ejected else None, now)
        self._eligible = len(roster.eligible)
        self._left_alone = sum(member.eligible for member in self._ejected.values())
        self.peers.zone = "" if roster.spilled else rules.zone
        if self.peers.probes:
            self.peers.probes[:] = [member for member in self.peers.probes if member in roster.members]
        return roster

    def due(self) -> float | None:
        """When the roster changes by itself: an ejection or a slow start ends. None where nothing is to come."""
        if not self._ejected and not self.new:
            return None
        ends = [member.ejected_until for member in self._ejected.values()]
        ends += [member.since + self._rules.slow_start.seconds for member in self.new.values()]
        return min(ends)

    def _let_in(self, now: float) -> None:
        """End the ejections and slow starts whose time is over."""
        rules = self._rules
        for member in [each for each in self._ejected.values() if each.ejected_until <= now]:
            del self._ejected[member.id]
            if rules.outliers is not None:
                rules.outliers.readmit(member)
        for member in [each for each in self.new.values() if rules.slow_start.share(each, now) >= 1]:
            del self.new[member.id]

    def _join(self, service: Service, node: Node) -> Member:
        now = self._rules.clock()
        member = self._returned(node.id, now)
        if member is None:
            member = Member(service, node, self.peers)
            member.since = now
            if self._begun is not None and self._rules.slow_start.seconds and now - self._begun > _SETTLING:
                self.new[node.id] = member
        self._begun = now if self._begun is None else self._begun
        self.members[node.id] = member
        self._ordered = None
        return member

    def _returned(self, node_id: str, now: float) -> Member | None:
        """The member of this id, where it was gone for a short while only."""
        self._forget(now)
        member, _ = self._absent.pop(node_id, (None, now))
        if member is not None and member.ejected_until > now:
            self._ejected[node_id] = member
        return member

    def _forget(self, now: float) -> None:
        absent = self._absent
        while absent and (len(absent) > _MOST_ABSENT or now - next(iter(absent.values()))[1] > _ABSENCE):
            absent.popitem(last=False)

    def _check_weight(self, node: Node) -> None:
        if weight_of(node) is None:
            self._warned = True
            extra = {"service": self.name, "node": node.id, "weight": node.metadata["weight"][:80]}
            log.warning(
                "%(node)s of %(service)s: weight %(weight)r is no number from 0 on; it counts as 1", extra, extra=extra
            )
