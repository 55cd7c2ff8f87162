"""``nats://`` keeps the contract of a registry, whatever happens to the server."""

import pytest

from microreg.testing import Harness, Proxy, contract, running
from nats_store import NatsFaults
from servers import nats

pytestmark = pytest.mark.timeout(300)  # the first test runs all checks
server = nats()
proxy = Proxy(server.port)

TestNats = contract(
    Harness(
        f"nats://127.0.0.1:{proxy.port}?timeout=4s", faults=NatsFaults(server, proxy), ttl=2.0, grace=5, patience=10
    ),
    around=lambda: running(server, proxy),
)
