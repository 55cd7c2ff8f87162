"""``etcd://`` keeps the contract of a registry, whatever happens to the server."""

import pytest

from etcd_store import EtcdFaults
from microreg.testing import Harness, Proxy, contract, running
from servers import etcd

pytestmark = pytest.mark.timeout(300)  # the first test runs all checks
server = etcd()
proxy = Proxy(server.port)

TestEtcd = contract(
    Harness(
        f"etcd://127.0.0.1:{proxy.port}?timeout=4s", faults=EtcdFaults(server, proxy), ttl=2.0, grace=5, patience=10
    ),
    around=lambda: running(server, proxy),
)
