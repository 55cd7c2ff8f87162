"""Roster: which of the known members may be called now, and which of those a strategy gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from microreg.selector.members import Member
from microreg.selector.outliers import Outliers

__all__ = ["EMPTY", "Roster", "enrol"]

_ENOUGH = 0.5
"""Calls stay in their own zone while so much of its nodes can take them."""


class Roster(NamedTuple):
    """The members of one name at one moment."""

    members: tuple[Member, ...] = ()
    """Those that a strategy chooses from."""
    eligible: tuple[Member, ...] = ()
    """Those that may be called at all: ejected ones and those of other zones too, for retries."""
    panic: bool = False
    """Whether so many are ejected that all are used."""
    spilled: bool = False
    """Whether the own zone has too few nodes, so that those of all zones are used."""


EMPTY = Roster()


def enrol(known: Sequence[Member], zone: str, outliers: Outliers | None, now: float) -> Roster:
    """The roster for these members; ``outliers`` where any of them is ejected, None where none is."""
    members = eligible = tuple([member for member in known if member.eligible])
    panic = False
    if outliers is not None:
        healthy = tuple([member for member in eligible if member.ejected_until <= now])
        panic = len(eligible) - len(healthy) > outliers.most(len(eligible))
        members = eligible if panic else healthy
    if not zone:
        return Roster(members, eligible, panic)
    here = tuple([member for member in members if member.zone == zone])
    all_here = sum(member.zone == zone and not member.filtered for member in known)
    spilled = not here or len(here) < _ENOUGH * all_here
    return Roster(members if spilled else here, eligible, panic, spilled)
