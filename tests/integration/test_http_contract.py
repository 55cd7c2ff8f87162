"""``http://`` keeps the contract of a registry, whatever happens to the server."""

import asyncio

import pytest

from microreg.testing import CHECKS, Harness, Proxy, ServerFaults, contract, running
from microreg.toolkit import in_thread
from servers import microreg_server

pytestmark = pytest.mark.timeout(300)  # the first test of each class runs all its checks

# A server keeps nothing over a restart, and the kit asks for a store that does: here that is another server, behind
# the one which is killed, frozen and cut off.
store = microreg_server(name="store")
server = microreg_server(registry=f"http://127.0.0.1:{store.port}?timeout=2s")
proxy = Proxy(server.port)


class Faults(ServerFaults):
    """Wiping takes away what the store has too."""

    async def restart(self, *, wipe: bool = False) -> None:
        if wipe:
            await in_thread(store.restart)
        await super().restart(wipe=wipe)


TestHttp = contract(
    Harness(f"http://127.0.0.1:{proxy.port}?timeout=3s", faults=Faults(server, proxy), ttl=2.0, grace=5, patience=10),
    around=lambda: running(store, server, proxy),
)

# With --state the server is a store itself. These are the checks to which that makes a difference.
KEPT = "watch.resyncs watch.tells-what-was-lost register.restores-forgotten general.unavailable".split()
kept = microreg_server(state=True, name="kept")
before_kept = Proxy(kept.port)


class KeptFaults(ServerFaults):
    """What was acknowledged is on the disk within a second, and no sooner for sure."""

    async def kill(self) -> None:
        await asyncio.sleep(1.0)
        await super().kill()


TestHttpWithState = contract(
    Harness(
        f"http://127.0.0.1:{before_kept.port}?timeout=3s",
        faults=KeptFaults(kept, before_kept),
        ttl=2.0,
        grace=5,
        patience=10,
    ),
    [each for each in CHECKS if each.id in KEPT],
    around=lambda: running(kept, before_kept),
)
