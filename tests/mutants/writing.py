"""What register writes: nothing, too little, something else, or under another identity."""

from __future__ import annotations

import dataclasses
import unicodedata
from itertools import starmap

from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.events import Action, Change, Event
from microreg.model import Endpoint, Node, Service, Status
from microreg.rules import DEFAULT_TTL
from microreg.url import Options, RegistryURL
from mutants.frame import Source, dies_by


@dies_by("register.visible")
class WritesNothing(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self.store.require()


@dies_by("register.visible", "list.complete")
class KeepsToItself(MemoryRegistry):
    """Every client has a store of its own."""

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(dataclasses.replace(url, location=""), options)


@dies_by("register.all-nodes", seen="go-micro, consul: of several nodes in one Register only Nodes[0] is written")
class FirstNodeOnly(Checked):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service.with_nodes(*service.nodes[:1]), ttl=ttl)


class Altering(MemoryRegistry):
    """Writes something else than it was given."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(self.altered(service), ttl=ttl)

    def altered(self, service: Service) -> Service:
        raise NotImplementedError


@dies_by("register.round-trip")
class AsciiOnly(Altering):
    def altered(self, service: Service) -> Service:
        plain = {key: value.encode("ascii", "replace").decode() for key, value in service.metadata.items()}
        return Service(service.name, service.version, plain, service.endpoints, service.nodes)


@dies_by("register.round-trip")
class DropsEmptyValues(Altering):
    def altered(self, service: Service) -> Service:
        full = {key: value for key, value in service.metadata.items() if value}
        return Service(service.name, service.version, full, service.endpoints, service.nodes)


@dies_by("register.round-trip")
class FlattensEndpoints(Altering):
    def altered(self, service: Service) -> Service:
        flat = [Endpoint(each.name, metadata=each.metadata) for each in service.endpoints]
        return Service(service.name, service.version, service.metadata, flat, service.nodes)


@dies_by("register.round-trip")
class LosesBrackets(Altering):
    def altered(self, service: Service) -> Service:
        (node,) = service.nodes
        address = node.address.replace("[", "").replace("]", "")
        return service.with_nodes(Node(address, id=node.id, metadata=node.metadata, status=node.status))


@dies_by("register.round-trip")
class LosesZones(Altering):
    def altered(self, service: Service) -> Service:
        (node,) = service.nodes
        address = node.address.replace("%eth0", "")
        return service.with_nodes(Node(address, id=node.id, metadata=node.metadata, status=node.status))


class AlteringTexts(Altering):
    """Writes other metadata than it was given."""

    def pair(self, key: str, value: str) -> tuple[str, str]:
        raise NotImplementedError

    def altered(self, service: Service) -> Service:
        metadata = dict(starmap(self.pair, service.metadata.items()))
        return Service(service.name, service.version, metadata, service.endpoints, service.nodes)


@dies_by("register.round-trip")
class Composes(AlteringTexts):
    """Brings text to a normal form of Unicode."""

    def pair(self, key: str, value: str) -> tuple[str, str]:
        return key, unicodedata.normalize("NFC", value)


@dies_by("register.round-trip")
class Strips(AlteringTexts):
    def pair(self, key: str, value: str) -> tuple[str, str]:
        return key, value.strip(" ")


@dies_by("register.round-trip")
class LowersKeys(AlteringTexts):
    """As HTTP headers and DNS-SD do."""

    def pair(self, key: str, value: str) -> tuple[str, str]:
        return key.lower(), value


@dies_by("register.round-trip")
class LowersHosts(Altering):
    def altered(self, service: Service) -> Service:
        (node,) = service.nodes
        lower = Node(node.address.lower(), id=node.id, metadata=node.metadata, status=node.status)
        return service.with_nodes(lower)


@dies_by("register.round-trip")
class LowersVersions(Altering):
    def altered(self, service: Service) -> Service:
        lower = service.version.lower()
        return Service(service.name, lower, service.metadata, service.endpoints, service.nodes)


@dies_by("register.round-trip")
class OneEndpointPerName(Altering):
    def altered(self, service: Service) -> Service:
        unique = {each.name: each for each in service.endpoints}.values()
        return Service(service.name, service.version, service.metadata, unique, service.nodes)


@dies_by("register.round-trip", "register.publishes-changes")
class KnowsNoStatus(Altering):
    """A store that has no status, and a backend that does not find another place for it."""

    def altered(self, service: Service) -> Service:
        (node,) = service.nodes
        return service.with_nodes(Node(node.address, id=node.id, metadata=node.metadata, status=Status.PASSING))


@dies_by("register.limits")
class CutsLongValues(Altering):
    def altered(self, service: Service) -> Service:
        cut = {key: value[:255] for key, value in service.metadata.items()}
        return Service(service.name, service.version, cut, service.endpoints, service.nodes)


@dies_by("register.identity")
class KeyedByIdAlone(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        for record in tuple(self.store.catalog.records()):
            if record.nodes[0].id == service.nodes[0].id and record.name != service.name:
                self.store.catalog.remove(record.name, record.nodes[0].id)
        await super().register(service, ttl=ttl)


@dies_by("register.moves-version")
class KeyedByVersionToo(MemoryRegistry):
    """The old version stays beside the new one."""

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._written: dict[tuple[str, str, str], Service] = {}

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._written[service.name, service.version, service.nodes[0].id] = service
        await super().register(service, ttl=ttl)

    async def deregister(self, service: Service) -> None:
        self._written.pop((service.name, service.version, service.nodes[0].id), None)
        await super().deregister(service)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        now = await super().get_service(name)
        versions = {each.version for each in now}
        old = [each for (n, version, _), each in self._written.items() if n == name and version not in versions]
        return (*old, *now)


@dies_by("register.versions")
class OneVersionPerName(MemoryRegistry):
    async def get_service(self, name: str) -> tuple[Service, ...]:
        return (await super().get_service(name))[-1:]


@dies_by("register.publishes-changes", seen="go-micro, mdns and memory: new metadata of a known node is ignored")
class IgnoresChanges(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        known = self.store.catalog.get(service.name, service.nodes[0].id)
        await super().register(known or service, ttl=ttl)


class Forgetful(MemoryRegistry):
    """Does not see that one thing has changed."""

    def blind(self, service: Service) -> object:
        raise NotImplementedError

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        known = self.store.catalog.get(service.name, service.nodes[0].id)
        same = known is not None and self.blind(known) == self.blind(service)
        await super().register(known if same and known else service, ttl=ttl)


@dies_by("register.publishes-changes")
class ComparesWithoutStatus(Forgetful):
    def blind(self, service: Service) -> object:
        (node,) = service.nodes
        return service.with_nodes(Node(node.address, id=node.id, metadata=node.metadata))


@dies_by("register.publishes-changes")
class ComparesWithoutAddress(Forgetful):
    def blind(self, service: Service) -> object:
        (node,) = service.nodes
        return service.with_nodes(Node("x:1", id=node.id, metadata=node.metadata, status=node.status))


@dies_by("register.publishes-changes", "register.moves-version")
class ComparesWithoutVersion(Forgetful):
    def blind(self, service: Service) -> object:
        return service.metadata, service.endpoints, service.nodes


@dies_by("register.publishes-changes")
class ComparesWithoutEndpoints(Forgetful):
    def blind(self, service: Service) -> object:
        return service.version, service.metadata, service.nodes


@dies_by("register.publishes-changes")
class ComparesWithoutMetadata(Forgetful):
    def blind(self, service: Service) -> object:
        (node,) = service.nodes
        return service.version, service.metadata, service.endpoints, node.address, node.status


@dies_by("register.publishes-changes")
class ComparesNodesOnly(Forgetful):
    def blind(self, service: Service) -> object:
        return service.version, service.endpoints, service.nodes


@dies_by("register.publishes-changes", seen="eddieraa/registry: a refresh copies only the timestamps")
class CopiesOnlyTheTime(Source):
    def told(self, event: Event) -> Event | None:
        return None if isinstance(event, Change) and event.action is Action.UPDATE else event


@dies_by("register.no-collision", seen="eddieraa/registry: the key is name + address, without a separator")
class KeyWithoutSeparator(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        for record in tuple(self.store.catalog.records()):
            same = record.name + record.nodes[0].id == service.name + service.nodes[0].id
            if same and record.name != service.name:
                self.store.catalog.remove(record.name, record.nodes[0].id)
        await super().register(service, ttl=ttl)


@dies_by("register.no-collision")
class KeyWithADash(MemoryRegistry):
    """A separator that names may contain."""

    async def deregister(self, service: Service) -> None:
        key = f"{service.name}-{service.nodes[0].id}"
        for record in tuple(self.store.catalog.records()):
            if f"{record.name}-{record.nodes[0].id}" == key:
                await super().deregister(record)


class Cutting(MemoryRegistry):
    """Of two nodes with one key, the later replaces the earlier."""

    def key(self, record: Service) -> tuple[str, str]:
        raise NotImplementedError

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        for record in tuple(self.store.catalog.records()):
            same = record.name == service.name and record.nodes[0].id == service.nodes[0].id
            if self.key(record) == self.key(service) and not same:
                self.store.catalog.remove(record.name, record.nodes[0].id)
        await super().register(service, ttl=ttl)


@dies_by("register.no-collision")
class CutsLongIds(Cutting):
    def key(self, record: Service) -> tuple[str, str]:
        return record.name, record.nodes[0].id[:62]


@dies_by("register.no-collision")
class CutsLongNames(Cutting):
    def key(self, record: Service) -> tuple[str, str]:
        return record.name[:62], record.nodes[0].id
