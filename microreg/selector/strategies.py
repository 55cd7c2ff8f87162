"""Strategies: each gets the selectable members of a name once per change, and returns a function that picks one.

What ``random``, ``round_robin``, ``weighted`` and ``p2c`` return costs the same at every size of the pool;
``least_outstanding`` and ``rendezvous`` look at every member. It may be called from any thread.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import cycle
from math import log

from microreg.model import Node
from microreg.selector.members import Member

__all__ = [
    "BUILT_IN",
    "Key",
    "Keyed",
    "KeyedPick",
    "Pick",
    "Strategy",
    "least_outstanding",
    "p2c",
    "random",
    "rendezvous",
    "round_robin",
    "weighted",
]

Key = str | bytes | int
"""What a call is about, for strategies that send equal keys to one node; the same in every process and run."""

Pick = Callable[[], Node]
"""The next node."""

KeyedPick = Callable[[Key], Node]
"""The node for a key."""

Strategy = Callable[[tuple[Member, ...], _random.Random], Pick]
"""Builds a ``Pick`` for members, never none of them; called again whenever the pool changed."""


class Keyed:
    """A strategy that knows keys, out of a function ``(members, rng) -> (key) -> Node``; a decorator.

    Without a key it picks any node, all equally often.
    """

    def __init__(self, build: Callable[[tuple[Member, ...], _random.Random], KeyedPick]) -> None:
        self.build = build
        self.__doc__ = build.__doc__
        self.__name__ = self.__qualname__ = build.__name__

    def __call__(self, members: tuple[Member, ...], rng: _random.Random) -> Pick:
        return random(members, rng)

    def __repr__(self) -> str:
        return self.__name__


_BITS = 30
"""Random bits for a draw: what fits in one digit of an int is fast, and thousands of nodes divide it evenly enough."""


def random(members: tuple[Member, ...], rng: _random.Random) -> Pick:
    """Every node equally often, in no order."""
    nodes = tuple(member.node for member in members)
    size, bits = len(nodes), rng.getrandbits
    return lambda: nodes[bits(_BITS) % size]


def round_robin(members: tuple[Member, ...], rng: _random.Random) -> Pick:
    """One after the other, from a random start, so that many clients do not begin with the same node."""
    start = rng.randrange(len(members))
    return cycle([member.node for member in members[start:] + members[:start]]).__next__


def weighted(members: tuple[Member, ...], rng: _random.Random) -> Pick:
    """Each node as often as its metadata ``weight`` says, relative to the others (1 where it says nothing)."""
    if _even(members):
        return random(members, rng)
    nodes = tuple(member.node for member in members)
    size, bits, draw = len(nodes), rng.getrandbits, rng.random
    keep, other = _alias_table([member.weight for member in members])

    def pick() -> Node:
        slot = bits(_BITS) % size
        return nodes[slot] if draw() < keep[slot] else nodes[other[slot]]

    return pick


def p2c(members: tuple[Member, ...], rng: _random.Random) -> Pick:
    """The less loaded of two that are drawn by weight (power of two choices).

    Load is the mean latency, the latest calls counting most, × the calls under way and this one. A node that was
    never heard of counts as the mean of all. Of two that differ by less than a fifth the first drawn is taken, so that
    equal nodes get equally many calls. A node that was not heard of for ten seconds gets one call as a probe, so that
    one that was slow comes back.
    """
    if len(members) == 1:
        return random(members, rng)
    if not _even(members):
        return _p2c_by_weight(members, rng)
    probes, size, bits = members[0].peers.probes, len(members), rng.getrandbits

    def pick() -> Node:
        if probes and (probe := _taken(probes)):
            return probe
        one = two = members[bits(_BITS) % size]
        while two is one:
            two = members[bits(_BITS) % size]
        return two.node if (two.cost or two.load) < (one.cost or one.load) * _CLEARLY else one.node

    return pick


def _p2c_by_weight(members: tuple[Member, ...], rng: _random.Random) -> Pick:
    probes, size, bits, draw = members[0].peers.probes, len(members), rng.getrandbits, rng.random
    keep, other = _alias_table([member.weight for member in members])

    def pick() -> Node:
        if probes and (probe := _taken(probes)):
            return probe
        slot = bits(_BITS) % size
        one = two = members[slot if draw() < keep[slot] else other[slot]]
        for _ in _TRIES:
            slot = bits(_BITS) % size
            two = members[slot if draw() < keep[slot] else other[slot]]
            if two is not one:
                break
        return two.node if (two.cost or two.load) < (one.cost or one.load) * _CLEARLY else one.node

    return pick


_CLEARLY = 0.8
"""How much less load is less: latencies of equal nodes are never quite equal."""

_TRIES = range(8)
"""How often the second of two nodes is drawn again where it is the first: one may hold nearly all the weight."""


def _taken(probes: list[Member]) -> Node | None:
    try:
        return probes.pop().node
    except IndexError:  # another thread was faster
        return None


def least_outstanding(members: tuple[Member, ...], rng: _random.Random) -> Pick:
    """The node with the fewest calls under way for its weight, of several such a random one. O(n)."""
    weights = [member.weight for member in members]
    wanted = [(member, weight) for member, weight in zip(members, weights, strict=True) if weight]
    candidates = wanted or [(member, 1.0) for member in members]

    def pick() -> Node:
        loads = [(len(member.calls) + 1) / weight for member, weight in candidates]
        least = min(loads)
        return rng.choice([at[0] for at, load in zip(candidates, loads, strict=True) if load == least]).node

    return pick


@Keyed
def rendezvous(members: tuple[Member, ...], rng: _random.Random) -> KeyedPick:
    """The same node for the same key, in every process: the highest random weight (Thaler and Ravishankar). O(n).

    When a node leaves, only its keys move, and evenly to all others. The last thousand keys are remembered, so that
    asking again costs the same at every size.
    """
    seeds = [_digest(member.id) for member in members]
    nodes = [member.node for member in members]
    weights = None if _even(members) else [member.weight for member in members]

    @lru_cache(maxsize=1024)
    def pick(key: Key) -> Node:
        number = _digest(key)
        scores = [_mixed(number ^ seed) for seed in seeds]
        if weights is None:
            return nodes[scores.index(max(scores))]
        ranks = [
            weight / -log((score + 0.5) / 2**64) if weight else 0.0
            for score, weight in zip(scores, weights, strict=True)
        ]
        return nodes[ranks.index(max(ranks))]

    return pick


def _digest(key: Key) -> int:
    if isinstance(key, str):
        key = key.encode("utf-8", "surrogatepass")
    elif isinstance(key, int):
        key = key.to_bytes(key.bit_length() // 8 + 1, "big", signed=True)
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


_MASK = 2**64 - 1


def _mixed(number: int) -> int:
    """64 bits of which each depends on all of ``number``'s; a multiply-and-shift finaliser."""
    number = (number ^ number >> 32) * 0xD6E8FEB86659FD93 & _MASK
    number = (number ^ number >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return number ^ number >> 32


def _even(members: Sequence[Member]) -> bool:
    """Whether all have the same weight, so that it says nothing."""
    return len({member.weight for member in members}) == 1


def _alias_table(weights: Sequence[float]) -> tuple[list[float], list[int]]:
    """Walker's alias method, in Vose's form: what makes a draw by weight cost the same for any number of weights.

    Of the slots, all equally likely, slot n is kept with probability ``keep[n]`` and else stands for ``other[n]``.
    At least one weight is more than 0.
    """
    most = max(weights)
    scale = len(weights) / sum(weight / most for weight in weights)  # of the largest: no sum is too large
    keep = [weight / most * scale for weight in weights]
    other = list(range(len(weights)))
    small = [slot for slot, share in enumerate(keep) if share < 1]
    large = [slot for slot, share in enumerate(keep) if share >= 1]
    while small and large:
        less, more = small.pop(), large.pop()
        other[less] = more
        keep[more] -= 1 - keep[less]
        (small if keep[more] < 1 else large).append(more)
    for slot in small + large:  # what rounding left over
        keep[slot] = 1.0
    return keep, other


BUILT_IN: tuple[Strategy, ...] = (least_outstanding, p2c, random, rendezvous, round_robin, weighted)
"""The strategies here, which surely pick a Node and do not raise."""
