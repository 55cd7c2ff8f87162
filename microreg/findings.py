"""Findings: what an examination of a set-up found, how bad that is, and its mend.

``await registry.examine()`` returns them, ``microreg doctor`` prints them. Each is made by a :class:`Kind`, which is
declared once: the table of all kinds in the documentation is made from the declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "CLOCK_AGREES",
    "CLOCK_DIFFERS",
    "EXAMINE_FAILED",
    "NO_LEADER",
    "SERVER_HIDDEN",
    "SERVER_OLD",
    "SERVER_VERSION",
    "SETTLE_SHORT",
    "Finding",
    "Kind",
    "Severity",
    "clock",
    "clock_by_date",
]


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    """As it should be."""
    NOTE = "note"
    """Good to know; nothing has to be done."""
    WARNING = "warning"
    """Works, and may fail one day or for others."""
    ERROR = "error"
    """Does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. ``code`` is for programs and stays the same; it has no secret in it."""

    severity: Severity
    code: str
    what: str
    """What was found, here and now."""
    mend: str = ""
    """What to do about it; empty where nothing is to be done."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}" + (f"; {self.mend}" if self.mend else "") + f" [{self.code}]"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding: called with what was found, it makes one, with this mend unless another is given.

    ``meaning`` is for the documentation: what such a finding says.
    """

    code: str
    severity: Severity
    meaning: str
    mend: str = ""

    def __call__(self, what: str, mend: str = "") -> Finding:
        return Finding(self.severity, self.code, what, mend or self.mend)


EXAMINE_FAILED = Kind(
    "examine.failed",
    Severity.WARNING,
    "the backend could not be examined to the end; what else is said stands",
    "see the other findings first: mostly the registry is away, or refuses",
)
SERVER_VERSION = Kind("server.version", Severity.OK, "which server answers, in which version")
SERVER_HIDDEN = Kind(
    "server.hidden", Severity.NOTE, "what the server is may not be asked", "nothing has to be done for that alone"
)
SERVER_OLD = Kind(
    "server.old",
    Severity.WARNING,
    "the server is older than what is tested, or lacks what this backend uses",
    "upgrade the server",
)
NO_LEADER = Kind(
    "server.no-leader",
    Severity.ERROR,
    "the cluster has no leader: nothing can be written",
    "start its servers: more than half of them must be up and see each other",
)
CLOCK_AGREES = Kind("clock.agrees", Severity.OK, "this clock and the server's agree")
CLOCK_DIFFERS = Kind(
    "clock.differs",
    Severity.WARNING,
    "this clock and the server's differ by more than two seconds. Times to live do not depend on that; certificates, "
    "tokens, the cache's file and the order of mDNS records do",
    "let both follow a time server (NTP)",
)
SETTLE_SHORT = Kind(
    "settle.short",
    Severity.WARNING,
    "the option settle is short for this network: who answers later is taken to be absent",
    "give it more: settle=1s",
)

_TOLERANCE = 2.0
"""Seconds by which clocks may differ."""


def clock(who: str, theirs: float, ours: float, *, precision: float = 0.5) -> Finding:
    """Whether two clocks agree (seconds since 1970), of which the other is known to ``precision`` seconds."""
    difference = theirs - ours
    if -_TOLERANCE - precision < difference < _TOLERANCE + precision:
        return CLOCK_AGREES(f"this clock agrees with that of {who}")
    side = "behind" if difference > 0 else "ahead of"
    return CLOCK_DIFFERS(f"this clock is {abs(difference):.0f} s {side} that of {who}")


def clock_by_date(who: str, date: str, ours: float) -> tuple[Finding, ...]:
    """The same from the header Date of an answer (RFC 9110, whole seconds); nothing where that is no date."""
    from email.utils import parsedate_to_datetime  # no program but the doctor's needs it

    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return ()
    return (clock(who, theirs + 0.5, ours),)
