"""``memory://[name]``: a catalog in this process, for tests and programs of one process.

Registries of one name in one event loop share one store; ``memory://`` without a name is a store of its
own. :class:`MemoryStore` has fault switches, so that users can test against a registry that dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from weakref import WeakKeyDictionary, WeakValueDictionary

from microreg import options as config
from microreg.catalog import Catalog
from microreg.errors import ConfigError, RegistryUnavailable
from microreg.events import Event, Reason
from microreg.findings import Finding, Kind, Severity
from microreg.model import Service
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.toolkit import Deadlines
from microreg.url import RegistryURL
from microreg.watch import Watch

__all__ = ["MemoryRegistry", "MemoryStore"]

_PROCESS = Kind(
    "memory.process",
    Severity.NOTE,
    "the registry lives in one process and event loop: no other program sees it, and it ends with them",
    "fine for tests; else microreg serve, or another registry",
)

_Stores = WeakValueDictionary[str, "MemoryStore"]
_stores: WeakKeyDictionary[asyncio.AbstractEventLoop, _Stores] = WeakKeyDictionary()


class MemoryStore:
    """What the registries of one name share: a catalog, expiry, and fault switches."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.deadlines: Deadlines[tuple[str, str]] = Deadlines(self._expire)
        self.users = 0
        self._down = False

    @property
    def down(self) -> bool:
        """True makes every call raise RegistryUnavailable and every watch lose its source; expiry goes on."""
        return self._down

    @down.setter
    def down(self, value: bool) -> None:
        self._down = value
        if value:
            self.catalog.interrupt(_lost())

    def wipe(self) -> None:
        """Forget everything, as a server that restarts without its data; watches lose their source."""
        before, self.catalog = self.catalog, Catalog()
        self.deadlines.close()
        before.interrupt(_lost())

    def require(self) -> None:
        """Raise RegistryUnavailable while the store is down."""
        if self._down:
            raise _lost()

    def _expire(self, key: tuple[str, str]) -> None:
        self.catalog.remove(*key, Reason.EXPIRED)


def _lost() -> RegistryUnavailable:
    return RegistryUnavailable("the memory store was switched off or wiped by a test")


class MemoryRegistry(Registry):
    """Registry over a catalog in this process."""

    capabilities = frozenset({"reasons", "complete_list", "authoritative", "push", "fenced"})
    prompt = True

    def __init__(self, url: RegistryURL, options: config.Options) -> None:
        super().__init__(url, options)
        if url.path:
            raise ConfigError(f"{url}: a memory store has a name but no path; expected memory:// or memory://name")
        self._store: MemoryStore | None = None

    @property
    def store(self) -> MemoryStore:
        """The store, with its fault switches. Only while the registry is open."""
        if self._store is None:
            raise RegistryUnavailable(f"{self.url} has no store: it is not open")
        return self._store

    async def open(self) -> None:
        """Find or make the store of this name in the running loop."""
        if self._store is not None:
            return
        name = self.url.location
        store = self._stores().get(name) if name else None
        if store is None:
            store = MemoryStore()
            if name:
                self._stores()[name] = store
        store.users += 1
        self._store = store

    async def close(self) -> None:
        """Let go of the store; it is gone when the last registry of its name is."""
        store, self._store = self._store, None
        if store is None:
            return
        store.users -= 1
        if not store.users:
            store.deadlines.close()
            stores = self._stores()
            if stores.get(self.url.location) is store:
                del stores[self.url.location]

    def _stores(self) -> _Stores:
        return _stores.setdefault(asyncio.get_running_loop(), WeakValueDictionary())

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Put the record and set its deadline."""
        store = self.store
        store.require()
        store.catalog.put(service)
        store.deadlines.set((service.name, service.nodes[0].id), asyncio.get_running_loop().time() + ttl)

    def holds(self, record: Service) -> bool:
        """Whether the catalog has this object, which was checked then."""
        return self._store is not None and self._store.catalog.get(record.name, record.nodes[0].id) is record

    async def deregister(self, service: Service) -> None:
        """Remove the record and its deadline."""
        store = self.store
        store.require()
        key = service.name, service.nodes[0].id
        store.deadlines.drop(key)
        store.catalog.remove(*key, Reason.DEREGISTERED)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """The catalog's view of the name."""
        self.store.require()
        return self.store.catalog.services(name)

    async def list_services(self) -> tuple[str, ...]:
        """The catalog's names."""
        self.store.require()
        return self.store.catalog.names()

    async def examine(self) -> tuple[Finding, ...]:
        """That nobody else sees it."""
        return (_PROCESS(f"{self.url} lives in this process, and no other sees it"),)

    def advertised_host(self) -> str | None:
        """Loopback: nobody outside this process can see the store."""
        return "127.0.0.1"

    def watch(self, name: str | None = None) -> Watch:
        """The catalog's changes."""
        return Watch(lambda: self._changes(name))

    def _changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        self.store.require()
        return self.store.catalog.changes(name)
