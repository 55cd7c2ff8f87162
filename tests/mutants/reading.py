"""What get_service and list_services answer."""

from __future__ import annotations

from contextlib import suppress

from microreg.backends.memory import MemoryRegistry
from microreg.errors import ServiceNotFound
from microreg.model import Service, merge
from microreg.registry import Checked
from microreg.rules import DEFAULT_TTL
from microreg.url import Options, RegistryURL
from mutants.frame import dies_by


@dies_by("get.exact-name")
class FoldsCase(MemoryRegistry):
    """DNS does not know case; the second of two names overwrites the first."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        for name in self.store.catalog.names():
            if name.lower() == service.name.lower() and name != service.name:
                self.store.catalog.remove(name, service.nodes[0].id)
        await super().register(service, ttl=ttl)


@dies_by("get.sorted")
class AnswersByArrival(MemoryRegistry):
    async def get_service(self, name: str) -> tuple[Service, ...]:
        return merge_by_arrival(list(self.store.catalog.records(name)))


def merge_by_arrival(records: list[Service]) -> tuple[Service, ...]:
    versions = dict.fromkeys(record.version for record in records)
    groups = [[record for record in records if record.version == version] for version in versions]
    return tuple(group[0].with_nodes(*(record.nodes[0] for record in group)) for group in groups)


@dies_by("get.smallest-node-speaks")
class LastWriterSpeaks(MemoryRegistry):
    async def get_service(self, name: str) -> tuple[Service, ...]:
        self.store.require()
        last = {record.version: record for record in self.store.catalog.records(name)}
        return tuple(
            Service(name, each.version, last[each.version].metadata, last[each.version].endpoints, each.nodes)
            for each in merge(self.store.catalog.records(name))
        )


@dies_by("get.not-found")
class NeverSure(MemoryRegistry):
    async def get_service(self, name: str) -> tuple[Service, ...]:
        services = await super().get_service(name)
        if not services:
            raise ServiceNotFound(name, authoritative=False)
        return services


@dies_by("get.not-found")
class AnswersNothingFound(Checked):
    """go-micro's mdns, consul and nats: an empty list and no error."""

    async def get_service(self, name: str) -> tuple[Service, ...]:
        with suppress(ServiceNotFound):
            return await super().get_service(name)
        return ()


@dies_by("list.sorted")
class ListsByArrival(Checked):
    async def list_services(self) -> tuple[str, ...]:
        return tuple(reversed(await super().list_services()))


@dies_by("list.sorted")
class ListsVersions(Checked):
    """One entry per version or node."""

    async def list_services(self) -> tuple[str, ...]:
        return tuple(sorted((await super().list_services()) * 2))


@dies_by("list.complete")
class ListsItsOwn(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._mine: set[str] = set()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._mine.add(service.name)
        await super().register(service, ttl=ttl)

    async def list_services(self) -> tuple[str, ...]:
        return tuple(name for name in await super().list_services() if name in self._mine)


@dies_by("list.no-empty-names")
class ListsEmptyNames(MemoryRegistry):
    """go-micro's memory registry."""

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._ever: set[str] = set()

    async def list_services(self) -> tuple[str, ...]:
        return tuple(self._ever | set(await super().list_services()))

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._ever.add(service.name)
        await super().register(service, ttl=ttl)
