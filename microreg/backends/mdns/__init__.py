"""``mdns://[interface,…]``: DNS-SD over multicast DNS (RFC 6762, RFC 6763), without any server. The default.

Every program answers for its own nodes; who wants to know asks. Nothing is certain on such a network: nobody
who answers within the ``settle`` option may still mean that a packet was lost. What cannot fit a packet
raises RecordTooLarge; see :data:`microreg.backends.mdns.records.MAX_TXT`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from microreg import url as config
from microreg.backends.mdns.interfaces import Link, best, choose, follows, look, parse_location
from microreg.backends.mdns.names import key_of
from microreg.backends.mdns.station import Station
from microreg.errors import ConfigError, RegistryClosed, RegistryUnavailable, ServiceNotFound
from microreg.events import Event, Reason
from microreg.findings import Finding
from microreg.model import Service
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.url import Duration, RegistryURL
from microreg.watch import Watch

__all__ = ["MdnsOptions", "MdnsRegistry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MdnsOptions(config.Options):
    """Options of ``mdns://``."""

    settle: Duration = config.option(
        Duration(0.3), "seconds without an answer after which a name is taken to be absent"
    )


class MdnsRegistry(Registry):
    """Registry over multicast DNS on the interfaces named, by default on the sensible ones."""

    Options = MdnsOptions
    capabilities = frozenset({"reasons", "push"})

    def __init__(self, url: RegistryURL, options: config.Options) -> None:
        super().__init__(url, options)
        if url.path or url.user or url.password:
            raise ConfigError(f"{url}: mDNS has no server, so neither user nor path: expected mdns://[interface,…]")
        assert isinstance(options, MdnsOptions)
        self._settle = options.settle
        if not 0.01 <= self._settle <= 60:
            raise ConfigError(f"{url}: settle is {self._settle:g} s; expected 10ms to 60s")
        self._named = parse_location(url.location)
        self._chosen: str | None = None
        self._station: Station | None = None

    @classmethod
    def about(cls) -> Mapping[str, str]:
        """Which network interfaces ``mdns://`` would use here, and which it leaves out and why."""
        try:
            links, running, left_out = look(())
        except OSError as error:
            return {"interfaces": f"cannot be listed: {error}"}
        used = {
            f"interface {link.name}": f"used, from {link.address}{'' if link in running else ' (no carrier now)'}"
            for link in links
        }
        others = {f"interface {name}": f"left out: {why}" for name, why in left_out.items()}
        return (used or {"interfaces": "none has an address, not even loopback"}) | others

    async def open(self) -> None:
        """Open the sockets. Raises ConfigError for an interface that is not there, listing those that are."""
        following = (lambda: look(self._named)) if follows(self._named) else None
        self._station = Station(choose(self._named), self._settle, chosen=lambda: self._chosen, look=following)
        await self._station.open()

    async def close(self) -> None:
        """Say goodbye for what is still registered (nobody would answer for it) and close the sockets."""
        station, self._station = self._station, None
        if station is not None:
            await station.close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Announce the node, or renew it: that costs no packet. Raises RecordTooLarge.

        Raises RegistryUnavailable where nothing can be sent on any interface; the next call tries again.
        """
        station = self._open()
        own = station.responder.put(service, ttl)
        station.defence.renewed(own)
        if station.transport.fails:
            station.responder.announce(own)
        await asyncio.sleep(0)
        station.transport.check()

    async def deregister(self, service: Service) -> None:
        """Say goodbye for the node, where this registry registered it; nothing else can be done."""
        self._open().responder.leave(key_of(service), Reason.DEREGISTERED)
        await asyncio.sleep(0)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """At once where the name is watched and known; else who answers until the answers have settled."""
        services = await self._open().browser.services(name)
        if not services:
            raise ServiceNotFound(name, authoritative=False)
        return services

    async def list_services(self) -> tuple[str, ...]:
        """The names of all nodes that answer until the answers have settled."""
        return await self._open().browser.names()

    def watch(self, name: str | None = None) -> Watch:
        """A Snapshot once the answers have settled, then changes as they are announced."""
        return Watch(lambda: self._changes(name), name)

    def suspect(self, name: str, id: str) -> None:
        """Ask for the node; where it does not answer within two seconds it is gone (RFC 6762 section 10.4)."""
        if self._station is not None:
            self._station.browser.suspect((name, id))

    def advertised_host(self) -> str | None:
        """The address of the first interface, one that is valid beyond its link if there is one; None without any.

        A node that is registered with this address is told on every interface with the address of that interface.
        """
        link = best(self._links())
        self._chosen = None if link is None else link.host
        return self._chosen

    async def examine(self) -> tuple[Finding, ...]:
        """Whether a question and an answer travel on each interface; see :mod:`microreg.backends.mdns.examination`."""
        from microreg.backends.mdns.examination import examine

        return await examine(self._named, self._settle)

    def _links(self) -> tuple[Link, ...]:
        if self._station is not None:
            return self._station.transport.links
        try:
            return choose(self._named).links
        except (ConfigError, RegistryUnavailable):
            return ()

    def _changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        return self._open().browser.changes(name)

    def _open(self) -> Station:
        if self._station is None:
            raise RegistryClosed(f"{self.url} is not open")
        return self._station
