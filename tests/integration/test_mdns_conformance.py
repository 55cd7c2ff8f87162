"""mDNS keeps the contract, as far as a network without a store can: on loopback, with real packets and processes."""

import pytest

from microreg.testing import Harness, contract

pytestmark = pytest.mark.timeout(300)
"""All checks run before the first test; a machine that has other things to do takes its time."""

TestMdns = contract(Harness("mdns://127.0.0.1", patience=15.0, grace=5.0, deadline=120.0))
