"""The contract holds through ``cache+`` and ``namespace+`` around mDNS: on loopback, with real packets."""

import pytest

from microreg.testing import CHECKS, Harness, contract

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("alone")]  # the first test runs all checks

# Where a layer has a hand in; how writes travel, test_mdns_conformance.py checks.
READ = ("get.", "list.", "watch.", "general.", "deregister.")
WRITTEN = {
    "register.visible",
    "register.round-trip",
    "register.moves-version",
    "register.publishes-changes",
    "register.limits",
}
WANTED = [check for check in CHECKS if check.id.startswith(READ) or check.id in WRITTEN]

TestCacheMdns = contract(Harness("cache+mdns://127.0.0.1?timeout=10s", patience=10.0, grace=5.0, concurrency=4), WANTED)
TestNamespaceMdns = contract(
    Harness("namespace+mdns://127.0.0.1?timeout=10s&namespace.prefix=team-a", patience=10.0, grace=5.0, concurrency=4),
    WANTED,
)
