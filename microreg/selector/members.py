"""Members: the nodes of one name, each with what is known of the calls to it.

A member is kept by node id, so that a change of metadata, status or version, another order, or a short absence
costs no knowledge. Only the event loop changes what is learned; what every thread changes is the list of calls under
way, by operations that the interpreter does at once.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from microreg.model import Node, Service

__all__ = ["Member", "Peers", "weight_of"]

_MEMORY = 5.0
"""Seconds in which what was learned of a node's latency loses two thirds of its weight (as ever, a little less)."""

_LEAST_SHARE = 0.1
"""What the latest latency counts at least, however soon it comes after the one before."""

_QUICKEST = 1e-6
"""No call takes less than a microsecond: a latency of nothing would make a node infinitely good."""

_SLOWEST = 86_400.0
"""No call counts as more than a day: sums and products of latencies stay numbers."""

_PENALTY = 10.0
"""A failed call counts as one that took so many times the mean: failing fast must not attract calls."""

_SILENCE = 10.0
"""A node that was not heard of for so many seconds is due for a probe."""

_BETWEEN_PROBES = 10
"""At most one of so many calls is a probe."""


class Peers:
    """What the members of one name share: their mean latency, and which of them are due for a probe."""

    __slots__ = ("_count", "_heard", "_since", "latency", "probes", "zone")

    def __init__(self) -> None:
        self.latency = 1.0
        """The mean latency of answered calls in seconds; what a node is taken for that was never heard of."""
        self.probes: list[Member] = []
        """Members that a strategy should pick once, whatever it thinks of them; who picks one takes it off."""
        self.zone = ""
        """The zone that calls stay in now; empty where they do not."""
        self._count = 0
        self._since = 0
        self._heard: OrderedDict[str, Member] = OrderedDict()

    @property
    def known(self) -> bool:
        """Whether any call was answered yet, so that ``latency`` is more than a guess."""
        return self._count > 0

    def answered(self, latency: float) -> None:
        """Fold one latency into the mean: of all so far, then of about the last hundred."""
        self._count += 1
        self.latency += (latency - self.latency) / min(self._count, 100)

    def heard(self, member: Member, now: float) -> None:
        """Note that a member was heard of; put the one that was silent for longest up for a probe where it is due.

        O(1): members lie in the order in which they were heard of.
        """
        self._touch(member, now)
        self._since += 1
        first = next(iter(self._heard.values()))
        if self._since < _BETWEEN_PROBES or now - first.asked < _SILENCE:
            return
        self._touch(first, now)
        possible = first.eligible and first.weight and first.ejected_until <= now
        if not self.probes and possible and self.zone in ("", first.zone):
            self._since = 0
            self.probes.append(first)

    def _touch(self, member: Member, now: float) -> None:
        member.asked = now
        self._heard[member.id] = member
        self._heard.move_to_end(member.id)

    def forget(self, member: Member) -> None:
        """The member is gone."""
        if self._heard.get(member.id) is member:
            del self._heard[member.id]
        if member in self.probes:
            self.probes.remove(member)


class Member:
    """One node of a name, and what is known of the calls to it. Strategies read it and change nothing."""

    __slots__ = (
        "asked",
        "calls",
        "cost",
        "ejected_until",
        "ejections",
        "eligible",
        "failures",
        "filtered",
        "heard",
        "id",
        "latency",
        "node",
        "peers",
        "service",
        "since",
        "weight",
        "zone",
    )

    def __init__(self, service: Service, node: Node, peers: Peers | None = None) -> None:
        self.id = node.id
        self.peers = peers or Peers()
        """What it shares with the other members of its name."""
        self.calls: list[None] = []
        """One entry for each call under way."""
        self.cost = 0.0
        """The load, kept ready for strategies that compare it; 0 where the latency is not known."""
        self.latency = 0.0
        """Mean seconds of a call, the latest counting most (EWMA); 0 where none was heard of yet."""
        self.heard = 0.0
        self.asked = 0.0
        self.failures = 0
        """How many calls failed since the last one that did not."""
        self.ejections = 0
        self.ejected_until = 0.0
        self.since = 0.0
        """When it came."""
        self.update(service, node)

    def update(self, service: Service, node: Node, filtered: str = "") -> None:
        """The node's record is another now; ``filtered`` says why a filter leaves it out."""
        self.service = service
        """The service that the node offers: its version, metadata and endpoints."""
        self.node = node
        weight = weight_of(node)
        self.weight = 1.0 if weight is None else weight
        """Its share of the calls, relative to the others: metadata ``weight``, 1 where there is none or no number."""
        self.zone = node.metadata.get("zone", "")
        self.filtered = filtered
        self.eligible = not filtered and node.status.selectable
        """Whether calls may go there, by its status and the filters."""

    @property
    def problem(self) -> str:
        """Why it is not eligible; empty where it is."""
        return self.filtered if self.node.status.selectable else f"its status is {self.node.status.value}"

    @property
    def outstanding(self) -> int:
        """How many calls are under way, of those that ``acquire``, ``call`` and ``track`` know of."""
        return len(self.calls)

    @property
    def load(self) -> float:
        """Mean latency × (outstanding calls + 1): how long one more call there would take. Less is better.

        A node that was never heard of counts as the mean of its peers.
        """
        return (self.latency or self.peers.latency) * (len(self.calls) + 1)

    def begin(self) -> None:
        """A call begins. Any thread may say so; then ``cost`` may be off until the next one begins or ends."""
        self.calls.append(None)
        self.cost = self.latency * (len(self.calls) + 1)

    def end(self) -> None:
        """A call that began is over."""
        self.calls.pop()
        self.cost = self.latency * (len(self.calls) + 1)

    def learn(self, latency: float | None, failed: bool | None, now: float) -> None:
        """A call ended: its latency in seconds where it is known, and whether the node failed (None: not known yet)."""
        if failed:
            self.failures += 1
            if self.peers.known:
                latency = max(latency or 0.0, _PENALTY * self.peers.latency)
        elif failed is not None:
            self.failures = 0
        if latency is not None:
            self._fold(min(max(latency, _QUICKEST), _SLOWEST), bool(failed), now)
        self.peers.heard(self, now)

    def _fold(self, latency: float, failed: bool, now: float) -> None:
        if not failed:
            self.peers.answered(latency)
        if not self.latency:
            self.latency = latency
        else:
            share = max(_LEAST_SHARE, 1 - math.exp(min(0.0, self.heard - now) / _MEMORY))
            self.latency += share * (latency - self.latency)
        self.cost = self.latency * (len(self.calls) + 1)
        self.heard = now


def weight_of(node: Node) -> float | None:
    """Metadata ``weight`` as a number, 1 where there is none; None where it is no finite number from 0 on."""
    text = node.metadata.get("weight")
    if text is None:
        return 1.0
    try:
        weight = float(text)
    except ValueError:
        return None
    return weight if 0 <= weight < math.inf else None
