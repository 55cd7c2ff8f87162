"""The checks, in rooms by verb. Each proves the sentence of its id; CHECKS has them in the order of the sentences."""

from __future__ import annotations

from microreg.testing.check import Check
from microreg.testing.checks.clocks import CHECKS as CLOCKS
from microreg.testing.checks.deregistering import CHECKS as DEREGISTERING
from microreg.testing.checks.foreign import CHECKS as FOREIGN
from microreg.testing.checks.late import CHECKS as LATE
from microreg.testing.checks.lifecycle import CHECKS as LIFECYCLE
from microreg.testing.checks.limits import CHECKS as LIMITS
from microreg.testing.checks.liveness import CHECKS as LIVENESS
from microreg.testing.checks.lookup import CHECKS as LOOKUP
from microreg.testing.checks.numbers import CHECKS as NUMBERS
from microreg.testing.checks.outages import CHECKS as OUTAGES
from microreg.testing.checks.refusals import CHECKS as REFUSALS
from microreg.testing.checks.registering import CHECKS as REGISTERING
from microreg.testing.checks.sharing import CHECKS as SHARING
from microreg.testing.checks.watches import CHECKS as WATCHES
from microreg.testing.checks.watching import CHECKS as WATCHING
from microreg.testing.sentences import SENTENCES

__all__ = ["CHECKS"]

_ROOMS = (
    *(REGISTERING, CLOCKS, LIVENESS, SHARING, REFUSALS, DEREGISTERING, LOOKUP, FOREIGN),
    *(WATCHING, WATCHES, NUMBERS, LIMITS, LIFECYCLE, OUTAGES, LATE),
)
_ORDER = {id: number for number, id in enumerate(SENTENCES)}

CHECKS: tuple[Check, ...] = tuple(
    sorted((check for room in _ROOMS for check in room), key=lambda check: _ORDER[check.id])
)
"""Every check of the kit."""
