"""What the checks of a node say of it; without an agent."""

from __future__ import annotations

import pytest

from microreg_consul.health import Check, alive


def ttl(status: str, index: int, name: str = "microreg TTL") -> Check:
    return {"CheckID": f"service:web:1:{index}", "Name": name, "Status": status, "Type": "ttl", "ModifyIndex": index}


SERF: Check = {"CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "critical", "Type": ""}
FOREIGN = ttl("passing", 5, "Service 'web' check")


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], True),
        ([ttl("passing", 1)], True),
        ([ttl("critical", 1)], False),
        ([ttl("critical", 1), ttl("passing", 2)], True),
        ([ttl("passing", 1), ttl("critical", 2)], False),  # the agent has not yet taken the old one away
        ([ttl("critical", 2), ttl("warning", 3), ttl("passing", 1)], True),
        ([ttl("critical", 2), FOREIGN], True),
        ([ttl("passing", 2), SERF], False),
    ],
)
def test_of_our_ttl_checks_the_newest_counts(checks: list[Check], expected: bool) -> None:
    assert alive(checks) is expected
    assert alive(checks[::-1]) is expected
