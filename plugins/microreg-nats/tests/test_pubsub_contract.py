"""``nats-pubsub://`` keeps the contract of a registry, whatever happens to the server."""

import pytest

from microreg.testing import Harness, Proxy, contract, running
from pubsub_peers import PubSubFaults
from servers import nats

pytestmark = pytest.mark.timeout(300)  # the first test runs all checks
server = nats("pubsub", jetstream=False)
proxy = Proxy(server.port)

TestPubSub = contract(
    # Who stood still for a second spares everybody six more, since they may have been heard in vain.
    Harness(
        f"nats-pubsub://127.0.0.1:{proxy.port}?timeout=4s",
        faults=PubSubFaults(server, proxy),
        ttl=2.0,
        grace=14,
        patience=10,
    ),
    around=lambda: running(server, proxy),
)
