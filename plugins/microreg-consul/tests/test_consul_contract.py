"""``consul://`` keeps the contract of a registry, whatever happens to the agent."""

import pytest

from consul_store import ConsulFaults, neighbour
from microreg.testing import Harness, Proxy, contract, running
from servers import consul

pytestmark = pytest.mark.timeout(300)  # the first test runs all checks
server = consul()
proxy = Proxy(server.port)

TestConsul = contract(
    Harness(
        f"consul://127.0.0.1:{proxy.port}?timeout=4s",
        faults=ConsulFaults(server, proxy),
        ttl=2.0,
        grace=5,
        patience=10,
    ),
    around=lambda: running(server, proxy, neighbour(server)),
)
