"""The contract holds through ``cache+`` and ``namespace+`` around a real etcd, with faults."""

import pytest

from etcd_store import EtcdFaults
from microreg.testing import CHECKS, Harness, Proxy, contract, running
from servers import etcd

pytestmark = pytest.mark.timeout(300)  # the first test runs all checks

# While the store is away the cache goes on with what it last knew: these two ask for RegistryUnavailable.
SERVES_ON = {"general.unavailable", "general.own-errors"}
# What both layers hand on as it is; these take half of the time, and test_etcd_contract.py runs them.
LATE_WRITES = {"deregister.fenced", "deregister.backstop", "general.calling-again"}
# Of the checks that run alone, those in which a namespace has a hand: its watches are made of others.
WATCHED = {"watch.resyncs", "watch.tells-what-was-lost", "watch.leaves-nothing", "general.unavailable"}

cache_server, namespace_server = etcd(), etcd()
cache_proxy, namespace_proxy = Proxy(cache_server.port), Proxy(namespace_server.port)

TestCache = contract(
    Harness(
        f"cache+etcd://127.0.0.1:{cache_proxy.port}?timeout=4s",
        faults=EtcdFaults(cache_server, cache_proxy),
        ttl=2.0,
        grace=5,
        patience=10,
    ),
    [check for check in CHECKS if check.id not in SERVES_ON | LATE_WRITES],
    around=lambda: running(cache_server, cache_proxy),
)
TestNamespace = contract(
    Harness(
        f"namespace+etcd://127.0.0.1:{namespace_proxy.port}?timeout=4s&namespace.prefix=team-a",
        faults=EtcdFaults(namespace_server, namespace_proxy),
        ttl=2.0,
        grace=5,
        patience=10,
    ),
    [check for check in CHECKS if (not check.alone or check.id in WATCHED)],
    around=lambda: running(namespace_server, namespace_proxy),
)
