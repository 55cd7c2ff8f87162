"""What the tests of the doctor share: an examination, and the one finding that it is about.

Every code of a finding has to be provoked by a test somewhere: ``found(findings, "code")`` is what counts
(tests/test_findings.py looks for it).
"""

from __future__ import annotations

from collections.abc import Iterable

from microreg.doctor import examine
from microreg.findings import Finding, Severity

__all__ = ["absent", "doctor", "found", "well"]


async def doctor(
    url: str, *, write: bool = False, ttl: float = 15.0, timeout: float | None = None
) -> tuple[Finding, ...]:
    """What the doctor finds."""
    return await examine(url, write=write, ttl=ttl, timeout=timeout)


def found(findings: Iterable[Finding], code: str) -> Finding:
    """The finding with this code; fails where there is not exactly one."""
    findings = tuple(findings)
    matching = [each for each in findings if each.code == code]
    assert len(matching) == 1, f"expected {code} once in:\n" + "\n".join(map(str, findings))
    assert matching[0].what
    return matching[0]


def absent(findings: Iterable[Finding], code: str) -> None:
    """Fails where there is a finding with this code."""
    assert [str(each) for each in findings if each.code == code] == []


def well(findings: Iterable[Finding]) -> None:
    """Fails where anything is wrong; calls may be slow, since other tests run on this machine."""
    wrong = [each for each in findings if each.severity in (Severity.WARNING, Severity.ERROR)]
    assert [str(each) for each in wrong if each.code != "renewals.slow"] == []
