"""Explanation: every known node of a name, and why it gets calls or gets none, with the numbers behind that."""

from __future__ import annotations

from dataclasses import dataclass

from microreg.layers.cache import Freshness
from microreg.model import Node
from microreg.selector.members import Member
from microreg.selector.membership import Rules
from microreg.selector.pool import Pool

__all__ = ["Explanation", "Standing", "explained"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one node stands: whether it gets calls now, and the numbers that this follows from."""

    node: Node
    version: str
    selected: bool
    """Whether the strategy chooses from it."""
    why: str
    """Why it is not selected, or what else there is to say; may be empty."""
    weight: float
    share: float
    """The part of its share that it gets in its slow start; else 1."""
    latency: float | None
    """Mean seconds of a call, the latest counting most; None where none was heard of."""
    outstanding: int
    """Calls under way."""
    failures: int
    """Failed calls since the last one that did not fail."""
    ejected: float
    """Seconds for which it is still ejected."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a Selector knows of one name; ``str()`` of it is for people."""

    name: str
    strategy: str
    nodes: tuple[Standing, ...]
    """Every known node, sorted by id."""
    note: str
    """Why there is no node, or that the Selector panics, or calls have left their zone; may be empty."""
    retries: int
    """How many retries the budget has left."""
    freshness: Freshness
    """How fresh what is known of the nodes is."""

    @property
    def selected(self) -> tuple[Node, ...]:
        """The nodes that the strategy chooses from."""
        return tuple(each.node for each in self.nodes if each.selected)

    def __str__(self) -> str:
        head = f"{self.name}: {len(self.selected)} of {len(self.nodes)} nodes selected by {self.strategy}, "
        head += "; ".join(filter(None, [f"{self.retries} retries left", str(self.freshness), self.note]))
        rows = [_row(each) for each in self.nodes]
        if not rows:
            return head
        rows.insert(0, ("", "node", "address", "status", "weight", "latency", "calls", "failures", "why"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join([head, *lines])


def _row(standing: Standing) -> tuple[str, ...]:
    node = standing.node
    return (
        "*" if standing.selected else "-",
        node.id,
        node.address,
        node.status.value,
        f"{standing.weight:g}",
        _seconds(standing.latency),
        str(standing.outstanding),
        str(standing.failures),
        standing.why,
    )


def _seconds(latency: float | None) -> str:
    if latency is None:
        return "?"
    return f"{latency:.3g} s" if latency >= 1 else f"{latency * 1e3:.3g} ms"


def explained(pool: Pool, strategy: str, rules: Rules) -> Explanation:
    """The explanation of a pool. Any thread may ask."""
    now, roster = rules.clock(), pool.roster
    selected = {member.id for member in roster.members} if not pool.problem else set[str]()
    members = sorted(tuple(pool.membership.members.values()), key=lambda member: member.id)
    notes = [] if selected else [pool.why()]
    if roster.panic:
        notes.append("panic: too many are ejected, so all are used")
    if roster.spilled and members:
        notes.append(f"zone {rules.zone} has too few nodes, so those of all zones are used")
    return Explanation(
        pool.name,
        strategy,
        tuple(_standing(member, pool, rules, member.id in selected, now) for member in members),
        "; ".join(notes),
        int(pool.budget.left(now)),
        pool.freshness,
    )


def _standing(member: Member, pool: Pool, rules: Rules, selected: bool, now: float) -> Standing:
    new = member.id in pool.membership.new
    share = rules.slow_start.share(member, now) if new else 1.0
    ejected = max(0.0, member.ejected_until - now)
    why = ""
    if member.problem:
        why = member.problem
    elif ejected:
        why = f"ejected for {ejected:.3g} s after {member.failures} failures" + (
            " (panic: used all the same)" * selected
        )
    elif not selected:
        why = pool.problem or f"in zone {member.zone!r}; calls stay in {rules.zone!r}"
    elif new:
        why = f"new: gets {share:.0%} of its share"
    return Standing(
        node=member.node,
        version=member.service.version,
        selected=selected,
        why=why,
        weight=member.weight,
        share=share,
        latency=member.latency or None,
        outstanding=member.outstanding,
        failures=member.failures,
        ejected=ejected,
    )
