"""What the tests of the Selector share: nodes, members, and a Selector over a memory registry in virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

import microreg
from microreg.model import Node, Service, Status
from microreg.registry import Registry
from microreg.selector import BUDGET, OUTLIERS, Filter, Member, Outliers, RetryBudget, Selector, Strategy
from microreg.selector.members import Peers


def greeters(count: int, status: Status = Status.PASSING, **metadata: str) -> tuple[Node, ...]:
    """So many nodes, n00000 and on."""
    return tuple(
        Node(f"10.0.{n // 250}.{n % 250}:80", id=f"n{n:05}", status=status, metadata=metadata) for n in range(count)
    )


def members(nodes: Iterable[Node]) -> tuple[Member, ...]:
    """The members that a strategy gets for these nodes."""
    peers = Peers()
    return tuple(Member(Service("greeter", nodes=[node]), node, peers) for node in nodes)


@asynccontextmanager
async def selecting(
    strategy: str | Strategy = "random",
    filters: str | Filter | Iterable[str | Filter] = (),
    *,
    url: str = "memory://",
    seed: int = 7,
    zone: str | None = None,
    outliers: Outliers | None = OUTLIERS,
    slow_start: float = 10.0,
    retry_budget: RetryBudget = BUDGET,
    clock: Callable[[], float] | None = None,
) -> AsyncGenerator[tuple[Selector, Registry]]:
    """A Selector with a seeded random source, and its registry."""
    async with microreg.connect(url) as registry:
        async with Selector(
            registry,
            strategy,
            filters,
            zone=zone,
            outliers=outliers,
            slow_start=slow_start,
            retry_budget=retry_budget,
            clock=clock,
            rng=random.Random(seed),
        ) as selector:
            yield selector, registry
