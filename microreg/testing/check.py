"""What a check is, and the error of a registry that breaks the sentence it is there for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microreg.testing.needs import CAPABILITIES, FAULTS, SEAMS
from microreg.testing.sentences import SENTENCES

if TYPE_CHECKING:
    from microreg.testing.case import Case

__all__ = ["Check", "ConformanceError", "check"]


class ConformanceError(AssertionError):
    """A registry broke a sentence of the contract. The text says which, what was expected and what was seen."""


@dataclass(frozen=True, slots=True)
class Check:
    """One sentence of the contract and the coroutine function that proves it.

    ``requires`` are the capabilities, faults and seams without which it is skipped. ``alone`` checks are run while
    no other is running, because they count tasks, or disturb the store or burden it.
    """

    id: str
    sentence: str
    function: Callable[[Case], Awaitable[None]]
    requires: frozenset[str] = frozenset()
    alone: bool = False

    def __str__(self) -> str:
        return self.id


_Function = Callable[["Case"], Awaitable[None]]


def check(
    room: list[Check], id: str, *, requires: tuple[str, ...] = (), alone: bool = False
) -> Callable[[_Function], _Function]:
    """Add the decorated function to a room as the check of this sentence. One that needs a fault runs alone."""
    known = CAPABILITIES | FAULTS | SEAMS
    unknown = frozenset(requires) - known
    if unknown:
        raise ValueError(f"check {id}: requires {sorted(unknown)}; expected {sorted(known)}")

    def add(function: _Function) -> _Function:
        needed = frozenset(requires)
        room.append(Check(id, SENTENCES[id], function, needed, alone or bool(needed & FAULTS)))
        return function

    return add
