"""What is counted of the calls to one name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CallStatistics", "Tally"]


@dataclass(slots=True)
class Tally:
    """What the loop and, of retries, other threads count; those may be off by a little."""

    answered: int = 0
    failed: int = 0
    unavailable: int = 0
    ejections: int = 0
    retries: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class CallStatistics:
    """One name of a Selector: how the calls ended that were reported, and how many nodes there are now.

    A pick alone is not counted: it costs nothing. ``acquire``, ``call``, ``track`` and ``report`` say how it went.
    """

    answered: int
    """Calls that a node answered."""
    failed: int
    """Calls that failed by a node's fault."""
    unavailable: int
    """How often there was no node to be picked."""
    ejections: int
    """How often a node was left alone because it failed."""
    retries: int
    """Calls that were made again, on another node."""
    refused: int
    """Calls that were not, because the retry budget was used up."""
    available: int
    """Nodes that are picked from now."""
    ejected: int
    """Nodes that are left alone now."""
