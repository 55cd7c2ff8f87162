"""mDNS keeps the contract, as far as a network without a store can: on loopback, with real packets and processes."""

import pytest

from microreg.testing import Harness, contract

pytestmark = pytest.mark.usefixtures("alone")

TestMdns = contract(Harness("mdns://127.0.0.1", patience=10.0, grace=5.0))
