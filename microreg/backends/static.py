"""``static://orders=10.0.0.1:80,10.0.0.2:80;users=users.internal:8080``: the config string itself.

For programs whose neighbours never move, and as the last part of a ``fallback:``. Registering is Unsupported.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from urllib.parse import unquote

from microreg import options as config
from microreg.catalog import Catalog
from microreg.errors import ConfigError, InvalidService, Unsupported
from microreg.events import Event
from microreg.findings import Finding, Kind, Severity
from microreg.model import Node, Service
from microreg.net import check_advertised
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL, check_name
from microreg.toolkit import resolve
from microreg.url import RegistryURL
from microreg.watch import Watch

__all__ = ["StaticRegistry"]

_UNKNOWN_HOST = Kind(
    "static.unknown-host",
    Severity.WARNING,
    "a host name in the config string cannot be resolved here",
    "spell it right, add it to DNS or /etc/hosts, or give an address",
)
_EXPECTED = "expected static://name=host:port,host:port;other=host:port"


class StaticRegistry(Registry):
    """Registry over the addresses in its config string. A node's id is its address."""

    capabilities = frozenset({"complete_list", "authoritative"})

    def __init__(self, url: RegistryURL, options: config.Options) -> None:
        super().__init__(url, options)
        if url.path:
            raise ConfigError(f"{url}: a static registry has no path; {_EXPECTED}")
        self._catalog = Catalog()
        for part in filter(None, url.location.split(";")):
            self._add(part)

    def _add(self, part: str) -> None:
        name, equals, addresses = part.partition("=")
        name = unquote(name)
        try:
            check_name(name)
            if not equals or not addresses:
                raise ConfigError(f"{self.url}: {part!r} names no address; {_EXPECTED}")
            if self._catalog.services(name):
                raise ConfigError(f"{self.url}: service {name!r} is given twice; {_EXPECTED}")
            for address in addresses.split(","):
                address = unquote(address)
                check_advertised(address)
                if self._catalog.put(Service(name, nodes=[Node(address, id=address)])) is None:
                    raise ConfigError(f"{self.url}: address {address!r} is given twice for {name!r}")
        except InvalidService as error:
            raise ConfigError(f"{self.url}: {error}; {_EXPECTED}") from None

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Unsupported."""
        raise Unsupported(f"{self.url} is fixed by its config string; nothing can be registered in it")

    async def deregister(self, service: Service) -> None:
        """Unsupported."""
        raise Unsupported(f"{self.url} is fixed by its config string; nothing can be deregistered from it")

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """The nodes of this name in the config string."""
        return self._catalog.services(name)

    async def list_services(self) -> tuple[str, ...]:
        """The names in the config string."""
        return self._catalog.names()

    async def examine(self) -> tuple[Finding, ...]:
        """Which hosts cannot be resolved."""
        hosts = {node.host for record in self._catalog.records() for node in record.nodes}
        unknown = [host for host in sorted(hosts) if not await resolve(host)]
        return tuple(_UNKNOWN_HOST(f"{host} in {self.url} cannot be resolved here") for host in unknown)

    def watch(self, name: str | None = None) -> Watch:
        """A Snapshot, then silence."""
        return Watch(lambda: self._changes(name))

    async def _changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        yield self._catalog.snapshot(name)
        await asyncio.get_running_loop().create_future()
