"""``http://`` keeps the contract of a registry, whatever happens to the server."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from microreg.testing import CHECKS, Harness, Proxy, ServerFaults, contract, running
from microreg.toolkit import in_thread
from servers import microreg_server, tls

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
    Harness(f"http://127.0.0.1:{proxy.port}?timeout=4s", faults=Faults(server, proxy), ttl=2.0, grace=5, patience=10),
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
        f"http://127.0.0.1:{before_kept.port}?timeout=4s",
        faults=KeptFaults(kept, before_kept),
        ttl=2.0,
        grace=5,
        patience=10,
    ),
    [each for each in CHECKS if each.id in KEPT],
    around=lambda: running(kept, before_kept),
)

# The registry that a server has in memory answers without a task: server/direct.py. It forgets when it is killed; and
# what takes long is about the network in between, the same as above.
NOT_IN_MEMORY = {"watch.resyncs"}
OF_THE_NETWORK = {"deregister.backstop", "deregister.fenced", "general.calling-again", "watch.notices-silence"}
plain = microreg_server(name="plain")
before_plain = Proxy(plain.port)

TestHttpInMemory = contract(
    Harness(
        f"http://127.0.0.1:{before_plain.port}?timeout=6s",
        faults=ServerFaults(plain, before_plain),
        ttl=2.0,
        grace=5,
        patience=10,
        concurrency=24,
    ),
    [each for each in CHECKS if each.id not in NOT_IN_MEMORY | OF_THE_NETWORK],
    around=lambda: running(plain, before_plain),
)

# With TLS and a token nothing differs but the way: without what disturbs the server, or waits for a ttl.
WAITING = {"watch.reasons", "deregister.stays-gone"}
WRITING = {
    "register.visible",
    "register.round-trip",
    "register.limits",
    "register.versions",
    "register.rejects-invalid",
}
READING = ("get.", "list.", "watch.", "general.", "deregister.")
folder = TemporaryDirectory()
files = tls(Path(folder.name))
writers = Path(folder.name) / "writers"
writers.write_text("a-token-of-a-writer")
guarded = microreg_server("--token-file", writers, name="guarded", tls=files)

TestHttps = contract(
    Harness(
        f"https://127.0.0.1:{guarded.port}?timeout=20s&token={writers.read_text()}&ca={files.ca}",
        grace=5,
        patience=10,
        concurrency=24,
    ),
    [
        each
        for each in CHECKS
        if not each.alone and each.id not in WAITING and (each.id.startswith(READING) or each.id in WRITING)
    ],
    around=lambda: running(folder, guarded),
)
