"""Strategies: each gets the selectable nodes once per change and returns a function that picks one.

``pick`` takes no argument, costs the same at every pool size, and may be called from any thread.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from itertools import cycle

from microreg.model import Node

__all__ = ["Pick", "Strategy", "random", "round_robin"]

Pick = Callable[[], Node]
"""The next node."""

Strategy = Callable[[tuple[Node, ...], _random.Random], Pick]
"""Builds a ``Pick`` for a pool that is never empty; called again whenever the pool changed."""


def random(nodes: tuple[Node, ...], rng: _random.Random) -> Pick:
    """Every node equally often, in no order."""
    size, draw = len(nodes), rng.random
    return lambda: nodes[int(draw() * size)]


def round_robin(nodes: tuple[Node, ...], rng: _random.Random) -> Pick:
    """One after the other, from a random start, so that many clients do not begin with the same node."""
    start = rng.randrange(len(nodes))
    return cycle(nodes[start:] + nodes[:start]).__next__
