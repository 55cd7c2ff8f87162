"""``nats-pubsub://`` keeps the contract of a registry, whatever happens to the server."""

import pytest

from microreg.testing import Harness, Proxy, contract, running
from pubsub_peers import PubSubFaults
from servers import nats

pytestmark = pytest.mark.timeout(300)  # the first test runs all checks
server = nats("pubsub", jetstream=False)
proxy = Proxy(server.port)

TestPubSub = contract(
    Harness(f"nats-pubsub://127.0.0.1:{proxy.port}?timeout=3s", faults=PubSubFaults(server, proxy), ttl=2.0),
    around=lambda: running(server, proxy),
)
