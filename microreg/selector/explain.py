"""Explanation: every known node of a name, and why it gets calls or gets none, with the numbers behind that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from microreg.layers.cache import Freshness
from microreg.model import Node
from microreg.options import duration_text
from microreg.selector import strategies
from microreg.selector.choosing import Chooser
from microreg.selector.filters import name_of
from microreg.selector.members import Member
from microreg.selector.membership import Rules
from microreg.selector.pool import Pool

__all__ = ["Explanation", "Standing", "Verdict", "aligned", "explained"]

Verdict = Literal["selected", "status", "filter", "ejected", "zone", "strategy"]
"""What decides about a node: that it is selected, or what keeps it from that."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one node stands: whether it gets calls now, and the numbers that this follows from."""

    node: Node
    version: str
    verdict: Verdict
    why: str
    """Why it is not selected, or what else there is to say; may be empty."""
    weight: float
    share: float
    """The part of its share that it gets in its slow start; else 1."""
    portion: float | None
    """The part of all calls that it gets, 0 to 1; None where that depends on load, or on a strategy of others."""
    latency: float | None
    """Mean seconds of a call, the latest counting most; None where none was heard of."""
    outstanding: int
    """Calls under way."""
    failures: int
    """Failed calls since the last one that did not fail."""
    ejected: float
    """Seconds for which it is still ejected."""

    @property
    def selected(self) -> bool:
        """Whether the strategy chooses from it."""
        return self.verdict == "selected"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a Selector knows of one name; ``str()`` of it is for people."""

    name: str
    strategy: str
    filters: tuple[str, ...]
    """The Selector's filters, as they are called in config strings and messages."""
    zone: str
    """The zone that it prefers; may be empty."""
    nodes: tuple[Standing, ...]
    """Every known node, sorted by id."""
    note: str
    """Why there is no node, or that the Selector panics, or calls have left their zone; may be empty."""
    panic: bool
    """Whether so many nodes are ejected that all are used."""
    heard: bool
    """Whether this Selector has heard of any call: without that it knows of no latency, failure or ejection."""
    retries: int
    """How many retries the budget has left."""
    freshness: Freshness
    """How fresh what is known of the nodes is."""

    @property
    def selected(self) -> tuple[Node, ...]:
        """The nodes that the strategy chooses from."""
        return tuple(each.node for each in self.nodes if each.selected)

    @property
    def heading(self) -> str:
        """What stands above the nodes: how many are selected, how fresh the data is, filters and zone."""
        head = f"{self.name}: {len(self.selected)} of {len(self.nodes)} nodes selected by {self.strategy}, "
        fresh = self.freshness
        if fresh.error is not None and str(fresh.error) in self.note:
            fresh = replace(fresh, error=None)  # once is enough
        head += "; ".join(filter(None, [f"{self.retries} retries left", str(fresh), self.note]))
        zone = f"zone {self.zone} is preferred" if self.zone else ""
        rules = "; ".join(filter(None, [" and ".join(self.filters), zone]))
        return f"{head}\n  {rules}" if rules else head

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """Every node as text, under the names of the columns; without columns that say nothing here."""
        rows = [(*_COLUMNS,), *map(_cells, self.nodes)]
        unknown = () if self.heard else ("latency", "calls", "failures")
        told = [any(column[1:]) and column[0] not in unknown for column in zip(*rows, strict=True)]
        return tuple(tuple(cell for cell, shown in zip(row, told, strict=True) if shown) for row in rows)

    def __str__(self) -> str:
        lines = [self.heading, *aligned(self.table)]
        if self.nodes and not self.heard:
            lines.append("  This Selector has heard of no call yet: it knows of no latency, failure or ejection.")
        return "\n".join(lines)


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in which every column is as wide as its widest cell; none where there is nothing below it."""
    if len(table) < 2:
        return []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


_COLUMNS = ("", "node", "version", "address", "status", "weight", "gets", "latency", "calls", "failures", "why")


def _cells(standing: Standing) -> tuple[str, ...]:
    node, portion = standing.node, standing.portion
    gets = "by load" if portion is None else f"{portion:.0%}"
    return (
        "*" if standing.selected else "-",
        node.id,
        standing.version,
        node.address,
        node.status.value,
        f"{standing.weight:g}",
        gets if standing.selected else "",
        "?" if standing.latency is None else duration_text(standing.latency),
        str(standing.outstanding),
        str(standing.failures),
        standing.why,
    )


def explained(pool: Pool, chooser: Chooser, rules: Rules) -> Explanation:
    """The explanation of a pool. Any thread may ask."""
    now, roster = rules.clock(), pool.roster
    members = sorted(tuple(pool.membership.members.values()), key=lambda member: member.id)
    chosen = roster.members if not pool.problem else ()
    notes = [] if chosen else [pool.why()]
    if roster.panic:
        notes.append("panic: too many are ejected, so all are used")
    if roster.spilled and members:
        notes.append(f"zone {rules.zone} has too few nodes, so those of all zones are used")
    portions = _portions(chosen, chooser.strategy, {member.id: _share(member, pool, rules, now) for member in chosen})
    return Explanation(
        name=pool.name,
        strategy=chooser.name,
        filters=tuple(map(name_of, rules.filters)),
        zone=rules.zone,
        nodes=tuple(_standing(member, pool, rules, portions, now) for member in members),
        note="; ".join(notes),
        panic=roster.panic,
        heard=any(member.heard or member.failures or member.ejections or member.calls for member in members),
        retries=int(pool.budget.left(now)),
        freshness=pool.freshness,
    )


def _share(member: Member, pool: Pool, rules: Rules, now: float) -> float:
    return rules.slow_start.share(member, now) if member.id in pool.membership.new else 1.0


def _portions(members: Sequence[Member], strategy: object, shares: dict[str, float]) -> dict[str, float | None]:
    """The part of all calls that each of these gets, as far as the strategy says so by itself."""
    if len(members) > 1 and strategy in (strategies.random, strategies.round_robin):
        parts = shares
    elif len(members) > 1 and strategy in (strategies.weighted, strategies.rendezvous):
        parts = {member.id: member.weight * shares[member.id] for member in members}
    else:
        return {member.id: None if len(members) > 1 else 1.0 for member in members}
    total = sum(parts.values())
    return {id: part / total if total else 1 / len(parts) for id, part in parts.items()}


def _standing(member: Member, pool: Pool, rules: Rules, portions: dict[str, float | None], now: float) -> Standing:
    verdict, why = _verdict(member, pool, rules, member.id in portions, now)
    return Standing(
        node=member.node,
        version=member.service.version,
        verdict=verdict,
        why=why,
        weight=member.weight,
        share=_share(member, pool, rules, now),
        portion=portions.get(member.id, 0.0),
        latency=member.latency or None,
        outstanding=member.outstanding,
        failures=member.failures,
        ejected=max(0.0, member.ejected_until - now),
    )


def _verdict(member: Member, pool: Pool, rules: Rules, selected: bool, now: float) -> tuple[Verdict, str]:
    """What decides about a member, and in words what there is to say."""
    if member.problem:
        return "filter" if member.node.status.selectable else "status", member.problem
    verdict: Verdict = "selected" if selected else "ejected"
    if member.ejected_until > now:
        why = f"ejected for {member.ejected_until - now:.3g} s after {member.failures} failures"
        return verdict, why + " (panic: used all the same)" * selected
    if selected:
        new = member.id in pool.membership.new
        return verdict, f"new: gets {rules.slow_start.share(member, now):.0%} of its share" if new else ""
    if pool.problem:
        return "strategy", pool.problem
    return "zone", f"in zone {member.zone!r}; calls stay in {rules.zone!r}"
