"""``http://`` and ``https://``: microreg's own server (``microreg serve``), or anything that speaks its API.

::

    http://127.0.0.1:4214
    https://registry.internal?token=${REGISTRY_TOKEN}&ca=/etc/ca.pem
    https://example.org/discovery?token=${REGISTRY_TOKEN}
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from microreg.codec import encode
from microreg.errors import ConfigError, RegistryClosed, ServiceNotFound
from microreg.events import Event
from microreg.findings import Finding
from microreg.model import Service
from microreg.options import Options, TLSOptions, option
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.tls import check_tls
from microreg.url import RegistryURL
from microreg.watch import Watch

if TYPE_CHECKING:
    from microreg.backends.http.client import Client
    from microreg.backends.http.following import Following
    from microreg.backends.http.renewals import Renewals

__all__ = ["HttpOptions", "HttpRegistry"]

_DEFAULT_PORT = 4214
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions(TLSOptions):
    """What may stand behind the ``?`` of the config string. The TLS options are for ``https://``."""

    token: str = option("", "bearer token that the server wants", secret=True)


class _Held(NamedTuple):
    record: Service
    digest: str


class HttpRegistry(Registry):
    """Calls over HTTP, renewals of all nodes together, and one stream of events for all watches.

    What a server promises beyond that is what the registry behind it promises; the capabilities are those of
    ``memory://``, which it serves unless it is told otherwise.
    """

    Options: ClassVar[type[Options]] = HttpOptions
    capabilities = frozenset({"reasons", "complete_list", "authoritative", "push", "fenced"})

    def __init__(self, url: RegistryURL, options: HttpOptions) -> None:
        super().__init__(url, options)
        self._settings = _checked(url, options)
        self.hosts = [url.hosts(_DEFAULT_PORT)[0][0]]
        self._opened: tuple[Client, Renewals, Following] | None = None
        self._held: dict[_Key, _Held] = {}
        self._last: dict[_Key, int] = {}
        self._writer = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    async def open(self) -> None:
        """Prepare the connections; the first call makes one. Raises ConfigError where a certificate is no good."""
        if self._opened is None:
            from microreg.backends.http.client import Client  # which loads aiohttp
            from microreg.backends.http.following import Following
            from microreg.backends.http.renewals import Renewals

            client = Client(self.url, _DEFAULT_PORT, self._settings)
            self._opened = client, Renewals(client), Following(client, self.options.timeout)

    async def close(self) -> None:
        """Close the connections. What is registered stays until its ttl ends."""
        opened, self._opened = self._opened, None
        if opened is not None:
            client, renewals, following = opened
            await following.close()
            await renewals.close()
            await client.close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Renew a record that the server has, together with others; or else send it."""
        client, renewals, _ = self._parts
        key = service.name, service.nodes[0].id
        held = self._held.get(key)
        if held is not None and held.record == service and await renewals.renew(*key, ttl, held.digest):
            return
        body = encode(service)
        number = self._last[key] = next(self._numbers)
        self._held.pop(key, None)
        digest = await client.put(key, body, ttl, f"{self._writer}-{number}")
        if self._last.get(key) == number:
            self._held[key] = _Held(service, digest)

    async def deregister(self, service: Service) -> None:
        """Withdraw the node. The server knows writes that were sent before and come later."""
        client, _, _ = self._parts
        key = service.name, service.nodes[0].id
        number = self._last[key] = next(self._numbers)
        self._held.pop(key, None)
        await client.delete(key, f"{self._writer}-{number}")
        if self._last.get(key) == number:
            del self._last[key]

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """What the server answers."""
        try:
            return await self._parts[0].services(name)
        except ServiceNotFound as error:
            raise ServiceNotFound(name, authoritative=error.authoritative) from None

    async def list_services(self) -> tuple[str, ...]:
        """What the server answers."""
        return await self._parts[0].names()

    def watch(self, name: str | None = None) -> Watch:
        """The name's part of the one stream of events."""
        return Watch(lambda: self._changes(name))

    def _changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        return self._parts[2].follow(name)

    async def examine(self) -> tuple[Finding, ...]:
        """The server's version and clock."""
        if self._opened is None:
            return ()
        from microreg.backends.http.examination import examine

        return await examine(self._opened[0])

    @property
    def _parts(self) -> tuple[Client, Renewals, Following]:
        if self._opened is None:
            raise RegistryClosed(f"{self.url} is not open")
        return self._opened


def _checked(url: RegistryURL, options: HttpOptions) -> HttpOptions:
    """The options, where they fit the URL. Raises ConfigError where they do not, or there is no client library."""
    if find_spec("aiohttp") is None:
        raise ConfigError(f"{url}: {url.scheme}:// needs aiohttp: pip install 'microreg[http]'")
    if url.user or url.password:
        raise ConfigError(f"{url}: the server takes no user; write its token as an option: ?token=${{REGISTRY_TOKEN}}")
    if len(url.hosts(_DEFAULT_PORT)) > 1:
        raise ConfigError(f"{url}: expected one host: two servers do not share what they know")
    if not options.token.isascii() or not options.token.isprintable() or " " in options.token:
        raise ConfigError(f"{url}: option token: expected printable ASCII without blanks")
    check_tls(url, options, "https")
    return options
