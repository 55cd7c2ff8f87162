"""``namespace+``: several worlds in one store. Names get a prefix on the way in and lose it on the way out.

::

    namespace+etcd://10.0.0.1?namespace.prefix=staging          "orders" is "staging.orders" in the store

A prefix has no dot, so the first dot of a stored name ends it, whatever the name behind it is: what is registered in
one namespace is never seen in another. Whoever uses the store without the layer sees all names as they are stored.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from sys import intern

from msgspec.structs import replace

from microreg.arguments import shown
from microreg.errors import ConfigError, InvalidService, RecordTooLarge, ServiceNotFound
from microreg.events import Change, Event, Snapshot
from microreg.model import Service
from microreg.options import Options
from microreg.registry import Layer, Registry
from microreg.rules import DEFAULT_TTL, LONGEST_NAME, check_name, check_removal, check_service
from microreg.url import RegistryURL
from microreg.watch import Watch

__all__ = ["NamespaceLayer", "NamespaceOptions"]

_PREFIX = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,30}[A-Za-z0-9])?", re.ASCII)
_LONGEST_FOREIGN = 255
"""Bytes of a name that others may have registered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceOptions(Options):
    """What may stand in the config string, as ``namespace.prefix``."""

    prefix: str = field(metadata={"help": "what stored names begin with, without the dot that follows; required"})

    def __post_init__(self) -> None:
        Options.__post_init__(self)  # no super(): a class with slots is made twice
        if not _PREFIX.fullmatch(self.prefix):
            raise ConfigError(
                f"namespace.prefix={shown(self.prefix)}: expected 1 to 32 letters, digits, '_' or '-' (no dot), "
                "beginning and ending with a letter or digit"
            )


class NamespaceLayer(Layer):
    """Stores every name with a prefix, and shows only the names that have it, without it.

    A name shares its 63 characters with the prefix and a dot: one that is longer is RecordTooLarge, with both sizes.
    """

    Options = NamespaceOptions

    def __init__(self, inner: Registry, url: RegistryURL, options: NamespaceOptions) -> None:
        super().__init__(inner, url, options)
        self._prefix = f"{options.prefix}."
        self.longest_name = LONGEST_NAME - len(self._prefix)
        """How many characters a name may have here."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """See :meth:`Registry.register`."""
        check_service(service)
        limit = self.longest_name
        if len(service.name) > limit:
            raise RecordTooLarge(
                f"service name {service.name!r} has {len(service.name)} characters; "
                f"in the namespace {self._prefix[:-1]!r} at most {limit} are allowed",
                size=len(service.name),
                limit=limit,
            )
        stored = self._stored(service.name)
        try:
            await self.inner.register(replace(service, name=stored), ttl=ttl)
        except RecordTooLarge as error:
            text = str(error).replace(repr(stored), repr(service.name))
            raise RecordTooLarge(text, size=error.size, limit=error.limit) from error.__cause__

    async def deregister(self, service: Service) -> None:
        """See :meth:`Registry.deregister`."""
        check_removal(service)
        await self.inner.deregister(replace(service, name=self._stored(service.name)))

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """See :meth:`Registry.get_service`."""
        try:
            services = await self.inner.get_service(self._stored(name))
        except ServiceNotFound as error:
            raise ServiceNotFound(name, authoritative=error.authoritative) from error.__cause__
        return tuple(replace(service, name=name) for service in services)

    async def list_services(self) -> tuple[str, ...]:
        """The sorted names of this namespace with at least one node."""
        names = await self.inner.list_services()
        return tuple(name.removeprefix(self._prefix) for name in names if self._is_inside(name))

    def watch(self, name: str | None = None) -> Watch:
        """Follow one name, or all of this namespace."""
        stored = None if name is None else self._stored(name)
        inner = self.inner.watch(stored)  # raises here what can be said at once; the source opens its own

        async def events() -> AsyncGenerator[Event, None]:
            async with self.inner.watch(stored) as watch:
                async for event in watch:
                    if isinstance(event, Snapshot):
                        yield Snapshot.of(self._shown(each) for each in event.records if self._is_inside(each.name))
                    elif self._is_inside(event.service.name):
                        yield self._changed(event)

        return Watch(events, name, rng=inner.rng)

    def suspect(self, name: str, id: str) -> None:
        """See :meth:`Registry.suspect`."""
        self.inner.suspect(self._prefix + name, id)

    def _stored(self, name: str) -> str:
        check_name(name)
        stored = self._prefix + name
        if len(stored.encode()) > _LONGEST_FOREIGN:
            limit = _LONGEST_FOREIGN - len(self._prefix)
            raise InvalidService(
                f"service name {shown(name)} has {len(name.encode())} bytes; "
                f"in the namespace {self._prefix[:-1]!r} at most {limit} are possible"
            )
        return stored

    def _is_inside(self, stored: str) -> bool:
        return stored.startswith(self._prefix) and len(stored) > len(self._prefix)

    def _shown(self, record: Service) -> Service:
        return replace(record, name=intern(record.name[len(self._prefix) :]))

    def _changed(self, change: Change) -> Change:
        previous = None if change.previous is None else self._shown(change.previous)
        return replace(change, service=self._shown(change.service), previous=previous)
