"""``nats-pubsub://`` and ``natss-pubsub://``: a registry on NATS with no store at all, in one with eddieraa/registry.

::

    nats-pubsub://127.0.0.1
    natss-pubsub://orders:${NATS_PASSWORD}@nats-1.internal,nats-2.internal?ca=/etc/ca.pem&topic=tenant-a.registry

Every program tells of its own nodes, and answers whoever asks; who listens remembers, each node until it is due.
Nothing is certain without a store: nobody who answers within the ``settle`` option may still mean that somebody is
out of reach.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from microreg import Registry, Service, Watch
from microreg.errors import ConfigError, RegistryClosed, ServiceNotFound
from microreg.events import Event
from microreg.findings import Finding
from microreg.rules import DEFAULT_TTL
from microreg.url import Duration, Options, RegistryURL, option
from microreg_nats.options import DEFAULT_PORT, NatsOptions, check_url
from microreg_nats.pubsub.subjects import Subjects

if TYPE_CHECKING:
    from microreg_nats.pubsub.station import Station

__all__ = ["PubSubOptions", "PubSubRegistry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PubSubOptions(NatsOptions):
    """What may stand behind the ``?`` of the config string. The TLS options are for ``natss-pubsub://``."""

    topic: str = option("registry", "what all subjects begin with; who uses another topic is not seen")
    settle: Duration = option(Duration(0.3), "seconds without an answer after which a name is taken to be absent")


class PubSubRegistry(Registry):
    """The subjects and messages of eddieraa/registry: its programs see ours, and ours see theirs.

    A node is heard of when it is registered, renewed, changed or asked for, and is gone when it is unregistered, or
    one ttl after its last ``register``.
    """

    Options: ClassVar[type[Options]] = PubSubOptions
    capabilities = frozenset({"reasons", "push"})

    def __init__(self, url: RegistryURL, options: PubSubOptions) -> None:
        super().__init__(url, options)
        check_url(url, options)
        if url.path:
            raise ConfigError(f"{url}: there is no path here; what the subjects begin with is the option topic")
        if not 0.01 <= options.settle <= 60:
            raise ConfigError(f"{url}: settle is {options.settle:g} s; expected 10ms to 60s")
        self._settings = options
        self.hosts = [host for host, _ in url.hosts(DEFAULT_PORT)]
        self._subjects = Subjects(options.topic)
        self._opened: Station | None = None

    async def open(self) -> None:
        """Get ready; the first call connects. Raises ConfigError where a file with credentials is no good."""
        from microreg_nats.pubsub.station import Station  # which loads the client library

        self._opened = Station(self.url, self._settings, self._subjects)

    async def close(self) -> None:
        """Unregister what is registered still (nobody would answer for it) and close the connection."""
        station, self._opened = self._opened, None
        if station is not None:
            await station.close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Tell of the node, and answer for it, for one ttl. Raises RecordTooLarge by the server's ``max_payload``."""
        await self._station.responder.put(service, ttl)

    async def deregister(self, service: Service) -> None:
        """Tell that the node is gone. Where somebody else registers it, it is back with the next ``register``."""
        await self._station.responder.leave(service)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """At once where the name is watched and known; else who answers until the answers have settled."""
        services = await self._station.listeners.services(name)
        if not services:
            raise ServiceNotFound(name, authoritative=False)
        return services

    async def list_services(self) -> tuple[str, ...]:
        """The names of all nodes of ours that answer, and of whatever else is heard of meanwhile."""
        return await self._station.listeners.names()

    def watch(self, name: str | None = None) -> Watch:
        """A Snapshot once the answers have settled, then changes as they are told."""
        return Watch(lambda: self._changes(name), name)

    async def examine(self) -> tuple[Finding, ...]:
        """The server's version and limits, and whether ``settle`` is long enough for the way there and back."""
        if self._opened is None:
            return ()
        from microreg_nats.examination import of_subjects

        return await of_subjects(self._opened.connection, self._settings.settle)

    def _changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        return self._station.listeners.changes(name)

    @property
    def _station(self) -> Station:
        if self._opened is None:
            raise RegistryClosed(f"{self.url} is not open")
        return self._opened
