"""A network in memory for mDNS registries in virtual time: loss, delay, duplicates, pauses, all from one seed.

It takes the place of the sockets at ``create_datagram_endpoint``; everything above, pacing included, is the real
thing::

    with Network(seed=1, loss=0.2) as network:
        network.run(main(network))

    async def main(network):
        async with network.host("a") as registry: ...
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mdns_neighbours import station
from microreg import connect
from microreg.backends.mdns.sockets import PORT, Address
from microreg.registry import Registry
from microreg.testing.virtual import VirtualLoop
from support import run

GROUP = "224.0.0.251"
NOON = 1_800_000_000.0
"""What the clocks of all hosts show when a network begins."""
_BACKLOG = 400


@dataclass
class Host:
    """A machine with one program: what it opened, whether it reads at the moment, and what waits to be read."""

    name: str
    endpoints: list[Endpoint] = field(default_factory=list)
    dead: bool = False
    paused: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)


class Network:
    """Carries what hosts send: to itself a host sends without loss, to others with the network's faults.

    ``loss`` and ``twice`` are probabilities, ``delay`` the longest delay in seconds; packets overtake each other.
    Without ``echo`` hosts do not hear themselves.
    """

    def __init__(
        self, seed: int, *, loss: float = 0.0, delay: float = 0.001, twice: float = 0.0, echo: bool = True
    ) -> None:
        print(f"seed {seed}")  # noqa: T201 - shown with a failure
        self.rng = random.Random(seed)
        self.loss, self.delay, self.twice, self.echo = loss, delay, twice, echo
        self.hosts: dict[str, Host] = {}
        self._opening: Host | None = None

    def run(self, main: Coroutine[object, object, None], seconds: float = 3600.0) -> None:
        """Run a test in virtual time."""
        run(main, seconds, loop_factory=lambda: _Loop(self))

    @asynccontextmanager
    async def host(self, name: str, *, clock: float = 0.0, options: str = "") -> AsyncGenerator[Registry]:
        """A registry on a host of its own, whose clock is wrong by ``clock`` seconds."""
        host = self.hosts[name] = Host(name)
        registry = connect(f"mdns://127.0.0.1{options}")
        self._opening = host
        await registry.open()
        self._opening = None
        loop = asyncio.get_running_loop()
        own = station(registry)
        own.responder._clock = own.defence._clock = lambda: NOON + clock + loop.time()
        own.browser._nodes._reader._clock = own.responder._clock
        own.responder._rng.seed(self.rng.random())  # shared by all parts of it
        try:
            yield registry
        finally:
            await registry.close()

    def kill(self, name: str) -> None:
        """The host is silent from now on."""
        self.hosts[name].dead = True

    async def pause(self, name: str, seconds: float) -> None:
        """The program on this host reads nothing for a while; then all that waited, as far as it fitted."""
        host = self.hosts[name]
        if host.paused:
            return
        host.paused = True
        try:
            await asyncio.sleep(seconds)
        finally:
            host.paused = False
            waiting, host.waiting = host.waiting, []
            for deliver in waiting:
                deliver()

    def total(self) -> Counter[str]:
        """What all hosts have sent (``packets``, ``bytes``) and ``received``."""
        return sum((host.sent for host in self.hosts.values()), Counter())

    def opened(self, endpoint: Endpoint) -> None:
        assert self._opening is not None
        endpoint.host = self._opening
        self._opening.endpoints.append(endpoint)

    def send(self, sender: Endpoint, data: bytes, to: Address) -> None:
        """To the group, or to the one whose port this is."""
        host = sender.host
        if host.dead:
            return
        host.sent["packets"] += 1
        host.sent["bytes"] += len(data)
        source = "127.0.0.1", PORT if sender.shared else sender.port
        for other in self.hosts.values():
            for endpoint in other.endpoints:
                if endpoint.shared == (to[0] == GROUP) and (endpoint.shared or endpoint.port == to[1]):
                    self._carry(endpoint, data, source, own=other is host)

    def _carry(self, endpoint: Endpoint, data: bytes, source: Address, *, own: bool) -> None:
        loop = asyncio.get_running_loop()
        copies = int(self.echo) if own else int(self.rng.random() >= self.loss) * (1 + (self.rng.random() < self.twice))
        for _ in range(copies):
            delay = 0.0001 if own else self.rng.uniform(self.delay / 10, self.delay)
            loop.call_later(delay, endpoint.arrive, data, source)


class Endpoint(asyncio.DatagramTransport):
    """One socket of a host."""

    def __init__(self, network: Network, protocol: asyncio.DatagramProtocol, port: int, shared: bool) -> None:
        super().__init__()
        self.port, self.shared = port, shared
        self.host = Host("nobody")
        self._network = network
        self._protocol = protocol
        self._closed = False
        network.opened(self)

    def arrive(self, data: bytes, source: Address) -> None:
        if self.host.paused:
            if len(self.host.waiting) < _BACKLOG:
                self.host.waiting.append(lambda: self.arrive(data, source))
        elif not self._closed and not self.host.dead:
            self.host.sent["received"] += 1
            self._protocol.datagram_received(data, source)

    def sendto(self, data: object, addr: object = None) -> None:
        assert isinstance(data, bytes) and isinstance(addr, tuple)
        self._network.send(self, data, (str(addr[0]), int(addr[1])))

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", self.port) if name == "sockname" else default

    def is_closing(self) -> bool:
        return self._closed

    def abort(self) -> None:
        self._closed = True

    close = abort


class _Loop(VirtualLoop):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    async def create_datagram_endpoint(  # type: ignore[override]
        self, factory: Callable[[], asyncio.DatagramProtocol], *, sock: object
    ) -> tuple[Endpoint, asyncio.DatagramProtocol]:
        """The socket is closed at once: only where it was bound counts."""
        address, port = sock.getsockname()[:2]  # type: ignore[attr-defined]
        sock.close()  # type: ignore[attr-defined]
        protocol = factory()
        return Endpoint(self._network, protocol, port, address == GROUP), protocol


def stall(seconds: float) -> None:
    """This process stands still: time passes, and nothing runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._clock.now += seconds
