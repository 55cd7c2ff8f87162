"""Who owns a node, what closing a client does, and what a reader sees meanwhile."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from microreg.backends.memory import MemoryRegistry
from microreg.model import Service
from microreg.rules import DEFAULT_TTL
from microreg.url import Options, RegistryURL
from mutants.frame import dies_by


class Owning(MemoryRegistry):
    """Remembers which client was the first to register a node."""

    owners: ClassVar[dict[tuple[str, str], MemoryRegistry]] = {}

    def owns(self, service: Service) -> bool:
        key = service.name, service.nodes[0].id
        if self.store.catalog.get(*key) is None:
            self.owners[key] = self
        return self.owners[key] is self


@dies_by("deregister.by-anyone")
class OwnerOnlyDeregister(Owning):
    """A deregister takes away only what this client registered."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self.owns(service)
        await super().register(service, ttl=ttl)

    async def deregister(self, service: Service) -> None:
        if self.owns(service):
            await super().deregister(service)


@dies_by("register.by-anyone")
class FirstOwnerKeeps(Owning):
    """What a second client says of a node is ignored while the node lives."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        if self.owns(service):
            await super().register(service, ttl=ttl)


@dies_by("register.by-anyone")
class SecondClientDoesNotRenew(Owning):
    """A process that was restarted, with the same record, renews nothing; a change is taken."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        key = service.name, service.nodes[0].id
        if self.owns(service) or self.store.catalog.get(*key) != service:
            await super().register(service, ttl=ttl)


@dies_by("register.outlives-client")
class CloseWithdraws(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._mine: dict[tuple[str, str], Service] = {}

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._mine[service.name, service.nodes[0].id] = service
        await super().register(service, ttl=ttl)

    async def close(self) -> None:
        while self._mine:
            await self.deregister(self._mine.popitem()[1])
        await super().close()


class Blinking(MemoryRegistry):
    """A node is not found for a moment; watches hear nothing of it."""

    away: ClassVar[set[tuple[str, str]]] = set()

    def blinks(self, before: Service, after: Service) -> bool:
        raise NotImplementedError

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        key = service.name, service.nodes[0].id
        before = self.store.catalog.get(*key)
        if before is not None and self.blinks(before, service):
            self.away.add(key)
            await asyncio.sleep(0.005)
            self.away.discard(key)
        await super().register(service, ttl=ttl)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        found = await super().get_service(name)
        return tuple(each for each in found if not any((name, node.id) in self.away for node in each.nodes))


@dies_by("register.never-blinks")
class BlinksAtRenewal(Blinking):
    def blinks(self, before: Service, after: Service) -> bool:
        return before == after


@dies_by("register.never-blinks")
class BlinksAtChange(Blinking):
    def blinks(self, before: Service, after: Service) -> bool:
        return before != after
