"""What deregister takes away."""

from __future__ import annotations

import asyncio

from microreg.backends.memory import MemoryRegistry
from microreg.errors import ServiceNotFound
from microreg.events import Change, Event, Reason
from microreg.model import Service
from microreg.rules import DEFAULT_TTL
from microreg.url import Options, RegistryURL
from mutants.frame import FaultyMemory, Source, dies_by


@dies_by("deregister.removes")
class LeavesByExpiry(MemoryRegistry):
    async def deregister(self, service: Service) -> None:
        self.store.require()


@dies_by("deregister.removes")
class LeavesInSilence(Source):
    def told(self, event: Event) -> Event | None:
        return None if isinstance(event, Change) and event.reason is Reason.DEREGISTERED else event


@dies_by("deregister.only-those", seen="srsr: Deregister of one instance removes all of its name")
class RemovesTheWholeName(MemoryRegistry):
    async def deregister(self, service: Service) -> None:
        for record in tuple(self.store.catalog.records(service.name)):
            self.store.catalog.remove(record.name, record.nodes[0].id, Reason.DEREGISTERED)


@dies_by("deregister.only-those", "get.exact-name")
class RemovesByPrefix(MemoryRegistry):
    async def deregister(self, service: Service) -> None:
        self.store.require()
        for record in tuple(self.store.catalog.records()):
            if f"{record.name}/{record.nodes[0].id}".startswith(service.name):
                self.store.catalog.remove(record.name, record.nodes[0].id, Reason.DEREGISTERED)


@dies_by("deregister.by-identity")
class ComparesTheWholeRecord(MemoryRegistry):
    async def deregister(self, service: Service) -> None:
        self.store.require()
        if self.store.catalog.get(service.name, service.nodes[0].id) == service:
            await super().deregister(service)


@dies_by("deregister.idempotent")
class RefusesUnknown(MemoryRegistry):
    async def deregister(self, service: Service) -> None:
        if self.store.catalog.get(service.name, service.nodes[0].id) is None:
            raise ServiceNotFound(service.name)
        await super().deregister(service)


@dies_by("deregister.stays-gone", seen="eddieraa/registry: after Unregister the next ping publishes the node again")
class AnswersForTheDead(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._mine: dict[tuple[str, str], Service] = {}
        self._dead: dict[str, Service] = {}

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._mine[service.name, service.nodes[0].id] = service
        await super().register(service, ttl=ttl)

    async def deregister(self, service: Service) -> None:
        await super().deregister(service)
        if mine := self._mine.pop((service.name, service.nodes[0].id), None):
            self._dead[service.name] = mine

    async def get_service(self, name: str) -> tuple[Service, ...]:
        answer = await super().get_service(name)
        if name in self._dead and asyncio.get_running_loop().time() % 1 > 0.3:
            await super().register(self._dead[name])
        return answer


@dies_by("deregister.backstop", "deregister.fenced")
class LateForEver(FaultyMemory):
    """What comes late is applied whatever happened since, and nobody counts its time."""

    def fenced(self, key: tuple[str, str], number: int) -> bool:
        return False

    async def _put(self, service: Service, ttl: float, number: int) -> None:
        await super()._put(service, 86_400, number)
