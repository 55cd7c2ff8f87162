"""What get_service and list_services answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from microreg import codec
from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.errors import ServiceNotFound
from microreg.model import Node, Service, merge
from microreg.rules import DEFAULT_TTL
from microreg.url import Options, RegistryURL
from mutants.frame import FaultyMemory, dies_by


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


@dies_by("get.not-found", seen="go-micro, mdns, consul and nats: GetService of an unknown name is empty, and no error")
class AnswersNothingFound(Checked):
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


@dies_by("list.no-empty-names", seen="go-micro, memory: a service whose nodes have expired stays listed")
class ListsEmptyNames(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._ever: set[str] = set()

    async def list_services(self) -> tuple[str, ...]:
        return tuple(self._ever | set(await super().list_services()))

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._ever.add(service.name)
        await super().register(service, ttl=ttl)


@dies_by("get.prompt", seen="go-micro, mdns and nats: every GetService takes the full 100 ms")
class WaitsItsTime(MemoryRegistry):
    async def get_service(self, name: str) -> tuple[Service, ...]:
        await asyncio.sleep(0.1)
        return await super().get_service(name)


@dies_by("get.complete", seen="eddieraa/registry: GetServices on a cold cache returns only the first answer")
class FirstAnswerOnly(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._warm: set[str] = set()

    async def get_service(self, name: str) -> tuple[Service, ...]:
        services = await super().get_service(name)
        if name in self._warm or not services:
            return services
        self._warm.add(name)
        return (services[0].with_nodes(services[0].nodes[0]),)


@dies_by("get.complete", seen="eddieraa/registry: concurrent GetServices overwrite each other's callback")
class OneCallbackForAll(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._latest = 0

    async def get_service(self, name: str) -> tuple[Service, ...]:
        self._latest += 1
        mine = self._latest
        await asyncio.sleep(0.001)
        return await super().get_service(name) if mine == self._latest else ()


@dies_by("get.lenient")
class RefusesTheUnknown(FaultyMemory):
    """A decoder that wants exactly what we write."""

    def decode(self, key: str, data: bytes) -> list[Service]:
        return [each for each in super().decode(key, data) if codec.encode(each) == data]


@dies_by("get.lenient")
class OurNamesOnly(FaultyMemory):
    def decode(self, key: str, data: bytes) -> list[Service]:
        return [each for each in super().decode(key, data) if each.name.isascii()]


@dies_by("get.derives-id")
class NeedsAnId(FaultyMemory):
    def decode(self, key: str, data: bytes) -> list[Service]:
        return super().decode(key, data) if b'"id"' in data else []


@dies_by("get.derives-id")
class ANewIdEachTime(FaultyMemory):
    """As a constructor does that is given none."""

    def decode(self, key: str, data: bytes) -> list[Service]:
        found = super().decode(key, data)
        if b'"id"' in data:
            return found
        return [each.with_nodes(*(Node(node.address) for node in each.nodes)) for each in found]


@dies_by("get.skips-garbage")
class FailsOnGarbage(FaultyMemory):
    def decode(self, key: str, data: bytes) -> list[Service]:
        return [codec.decode(data)]


@dies_by("get.skips-garbage")
class StopsAtGarbage(FaultyMemory):
    """What comes after it is not read."""

    def decoded(self, records: Iterable[Service]) -> list[Service]:
        found: list[Service] = []
        for record in sorted(records, key=lambda each: each.nodes[0].id):
            if not (more := super().decoded([record])):
                break
            found += more
        return found


@dies_by("get.skips-garbage")
class WarnsEveryTime(FaultyMemory):
    def decode(self, key: str, data: bytes) -> list[Service]:
        self._warned.clear()
        return super().decode(key, data)


@dies_by("get.skips-garbage")
class SaysNothing(FaultyMemory):
    def decode(self, key: str, data: bytes) -> list[Service]:
        self._warned.add(key)
        return super().decode(key, data)
