"""The checks, in rooms by verb. Each proves the sentence of its id; CHECKS has them in the order of the sentences."""

from __future__ import annotations

from microreg.testing.check import Check
from microreg.testing.checks import (
    deregistering,
    lifecycle,
    liveness,
    lookup,
    outages,
    refusals,
    registering,
    watching,
    watches,
)
from microreg.testing.sentences import SENTENCES

__all__ = ["CHECKS"]

_ROOMS = (registering, liveness, refusals, deregistering, lookup, watching, watches, lifecycle, outages)
_ORDER = {id: number for number, id in enumerate(SENTENCES)}

CHECKS: tuple[Check, ...] = tuple(
    sorted((check for room in _ROOMS for check in room.CHECKS), key=lambda check: _ORDER[check.id])
)
"""Every check of the kit."""
