"""What a Selector is made with, checked; and what it becomes when the Selector is opened."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from microreg.arguments import is_number, shown
from microreg.errors import ConfigError
from microreg.model import Node
from microreg.selector.budget import RetryBudget
from microreg.selector.filters import Filter
from microreg.selector.membership import Rules
from microreg.selector.outliers import Outliers, SlowStart

__all__ = ["BUDGET", "OUTLIERS", "Errors", "Settings", "check_errors", "check_latency", "check_node"]

OUTLIERS = Outliers()
"""What ``Selector(outliers=…)`` is by default."""

BUDGET = RetryBudget()
"""What ``Selector(retry_budget=…)`` is by default."""

Errors = type[Exception] | tuple[type[Exception], ...]
"""Exception classes, as ``except`` takes them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of a Selector. Raises ConfigError for one of a wrong kind."""

    filters: tuple[Filter, ...]
    zone: str
    outliers: Outliers | None
    slow_start: float
    retry_budget: RetryBudget
    clock: Callable[[], float] | None
    rng: random.Random | None

    def __post_init__(self) -> None:
        if not isinstance(self.zone, str):
            raise ConfigError(f"zone {shown(self.zone)}: expected the name of the zone that this program runs in")
        if not (self.outliers is None or isinstance(self.outliers, Outliers)):
            raise ConfigError(f"outliers {shown(self.outliers)}: expected Outliers(...), or None for no ejections")
        if not isinstance(self.retry_budget, RetryBudget):
            raise ConfigError(f"retry_budget {shown(self.retry_budget)}: expected RetryBudget(...)")
        if not (is_number(self.slow_start) and 0 <= self.slow_start < math.inf):
            raise ConfigError(f"slow_start {shown(self.slow_start)}: expected a number of seconds, 0 for none")

    def rules(self, loop: asyncio.AbstractEventLoop) -> Rules:
        """What the pools go by. Made when the Selector is opened: forked workers would share a random source."""
        clock, rng = self.clock or loop.time, self.rng or random.Random()
        slow_start = SlowStart(self.slow_start, rng, clock)
        return Rules(self.filters, self.zone, self.outliers, slow_start, self.retry_budget, clock, rng)


def check_errors(errors: Errors, what: str) -> tuple[type[Exception], ...]:
    """Exception classes as a tuple. Raises ConfigError for anything else, CancelledError and KeyboardInterrupt too."""
    classes = errors if isinstance(errors, tuple) else (errors,)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise ConfigError(f"{what} {shown(errors)}: expected a subclass of Exception, or a tuple of them")
    return classes


def check_latency(latency: float) -> float:
    """A latency in seconds. Raises ConfigError for what is no finite number from 0 on."""
    if is_number(latency) and 0 <= latency < math.inf:
        with suppress(OverflowError):
            return float(latency)
    raise ConfigError(f"latency {shown(latency)}: expected a number of seconds from 0 on")


def check_node(node: Node) -> Node:
    """A node as ``pick`` returns it. Raises ConfigError for anything else."""
    if not isinstance(node, Node):
        raise ConfigError(f"node {shown(node)}: expected a Node, as pick() returns it")
    return node
