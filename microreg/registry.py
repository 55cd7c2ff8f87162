"""Registry, the one interface; Layer, a registry around a registry; Checked, the rules that hold for all.

A backend implements five verbs and nothing else: :class:`Checked` stands between it and everybody, and
does what is the same everywhere. ``connect()`` and the conformance kit always add it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import ClassVar, Self, TypeVar
from weakref import WeakSet

from microreg import options as config
from microreg.errors import (
    InvalidService,
    RegistryClosed,
    RegistryError,
    RegistryTimeout,
    ServiceNotFound,
    WrongLoop,
)
from microreg.events import Event
from microreg.model import Service
from microreg.rules import DEFAULT_TTL, check_name, check_removal, check_service, check_ttl
from microreg.translation import translate
from microreg.url import RegistryURL
from microreg.watch import Watch

__all__ = ["Checked", "Layer", "Registry"]

T = TypeVar("T")
R = TypeVar("R", bound="Registry")


class Registry(ABC):
    """Where programs announce themselves and find each other: five verbs, one contract on every store.

    ``Options`` is a frozen dataclass: its fields are the options of the config string. ``capabilities`` are
    some of ``reasons complete_list authoritative push fenced``. ``errors`` maps exceptions of the client
    library to this package's. A backend is used through :class:`Checked`, which hands it services of
    exactly one node that were checked before, in the loop in which it was opened.
    """

    Options: ClassVar[type[config.Options]] = config.Options
    capabilities: frozenset[str] = frozenset()
    errors: ClassVar[Mapping[type[Exception], type[RegistryError]]] = {}

    def __init__(self, url: RegistryURL, options: config.Options) -> None:
        """Keep the settings. No I/O happens here, and none is needed before the first call."""
        self.url = url
        self.options = options

    async def open(self) -> None:  # noqa: B027 (optional to override)
        """Get ready in the running loop. Needs no server: the first call says ``RegistryUnavailable``."""

    async def close(self) -> None:  # noqa: B027 (optional to override)
        """Free everything. What is registered stays until its ttl ends, unless the store lives in here."""

    @abstractmethod
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Write or renew the record of every node once; each is gone ``ttl`` seconds later.

        Only this renews. An unchanged record is no event; a changed one is published; a record that the
        store forgot is restored. Raises InvalidService, RegistryUnavailable (outcome unknown: call again),
        PermissionDenied, Unsupported.
        """

    @abstractmethod
    async def deregister(self, service: Service) -> None:
        """Withdraw the service's nodes by name and node id, and no others. Idempotent."""

    @abstractmethod
    async def get_service(self, name: str) -> tuple[Service, ...]:
        """One Service per version, versions and nodes sorted. Raises ServiceNotFound or RegistryUnavailable."""

    @abstractmethod
    async def list_services(self) -> tuple[str, ...]:
        """The sorted names with at least one node."""

    @abstractmethod
    def watch(self, name: str | None = None) -> Watch:
        """Follow one name, or all: first a Snapshot, then Changes without a gap."""

    def advertised_host(self) -> str | None:
        """The address of this machine that users of this registry reach it by, where the backend knows it."""
        return None

    def unwrap(self, kind: type[R]) -> R | None:
        """The registry of this class among the layers from here inwards, None where there is none."""
        return self if isinstance(self, kind) else None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"


class Layer(Registry):
    """A registry around a registry: hands every call on, until a subclass says otherwise."""

    def __init__(self, inner: Registry, url: RegistryURL, options: config.Options) -> None:
        super().__init__(url, options)
        self.inner = inner
        self.capabilities = inner.capabilities

    async def open(self) -> None:
        """Open what is inside."""
        await self.inner.open()

    async def close(self) -> None:
        """Close what is inside."""
        await self.inner.close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """See :meth:`Registry.register`."""
        await self.inner.register(service, ttl=ttl)

    async def deregister(self, service: Service) -> None:
        """See :meth:`Registry.deregister`."""
        await self.inner.deregister(service)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """See :meth:`Registry.get_service`."""
        return await self.inner.get_service(name)

    async def list_services(self) -> tuple[str, ...]:
        """See :meth:`Registry.list_services`."""
        return await self.inner.list_services()

    def watch(self, name: str | None = None) -> Watch:
        """See :meth:`Registry.watch`."""
        return self.inner.watch(name)

    def advertised_host(self) -> str | None:
        """See :meth:`Registry.advertised_host`."""
        return self.inner.advertised_host()

    def unwrap(self, kind: type[R]) -> R | None:
        """See :meth:`Registry.unwrap`."""
        return self if isinstance(self, kind) else self.inner.unwrap(kind)


class Checked(Layer):
    """The rules that are the same on every backend, so that no backend repeats them.

    Open, closed and wrong loop; validation; one record per node; the ``timeout`` option; client-library
    exceptions mapped to the error tree.
    """

    def __init__(self, inner: Registry) -> None:
        super().__init__(inner, inner.url, inner.options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._watches: WeakSet[Watch] = WeakSet()
        self._claims: set[tuple[str, str]] = set()

    async def open(self) -> None:
        """Open the backend in the running loop. Raises RegistryClosed when it was closed before."""
        if self._closed or self._loop is not None:
            self._check()
            return
        self._loop = asyncio.get_running_loop()
        try:
            await self._bounded("open", self.inner.open(), forever=True)
        except BaseException:
            self._loop = None
            with suppress(Exception):
                await self.inner.close()
            raise

    async def close(self) -> None:
        """End open watches and close the backend, within the ``timeout`` option. Closing twice is fine.

        It is complete when this returns, also when the caller was cancelled; only a second cancellation ends
        the wait early, and a later ``close()`` joins what goes on.
        """
        if self._closing is None:
            if self._loop is None:
                self._closed = True
                return
            self._check()
            self._closed = True
            self._closing = asyncio.create_task(self._shut(), name="microreg close")
        elif self._closing.done():
            return
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            await asyncio.wait([self._closing])
            raise

    async def _shut(self) -> None:
        watches = tuple(self._watches)
        for watch in watches:
            watch.fail(RegistryClosed(f"{self.url} was closed"))
        await self._together("close", [self.inner.close(), *(watch.join() for watch in watches)])

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Check the whole service before the first node is sent; the nodes then go out together."""
        self._check()
        check_service(service)
        seconds = check_ttl(ttl)
        await self._together("register", [self.inner.register(record, ttl=seconds) for record in service.records()])

    async def deregister(self, service: Service) -> None:
        """Withdraw each node. Idempotent."""
        self._check()
        check_removal(service)
        await self._together("deregister", [self.inner.deregister(record) for record in service.records()])

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """The exact name only; an empty answer is ServiceNotFound."""
        self._check()
        check_name(name)
        try:
            services = await self._bounded("get_service", self.inner.get_service(name))
        except ServiceNotFound as error:
            if error.name == name:
                raise
            raise ServiceNotFound(name, authoritative="authoritative" in self.capabilities) from error.__cause__
        found = tuple(service for service in services if service.name == name and service.nodes)
        if not found:
            raise ServiceNotFound(name, authoritative="authoritative" in self.capabilities)
        return found

    async def list_services(self) -> tuple[str, ...]:
        """The sorted names with at least one node."""
        self._check()
        return tuple(sorted(set(await self._bounded("list_services", self.inner.list_services()))))

    def watch(self, name: str | None = None) -> Watch:
        """A watch that ends with RegistryClosed when this registry closes under it."""
        self._check()
        if name is not None:
            check_name(name)
        inner = self.inner.watch(name)
        opened = inner.source

        def source() -> AsyncGenerator[Event, None]:
            self._check()
            return opened()

        watch = Watch(source, name, translate=self._translate, rng=inner.rng)
        self._watches.add(watch)
        return watch

    def claim(self, record: Service) -> None:
        """Reserve a node for one announcement. Raises InvalidService where another holds it."""
        key = record.name, record.nodes[0].id
        if key in self._claims:
            raise InvalidService(
                f"node {key[1]!r} of service {key[0]!r} is announced twice in this process; "
                "give each node an id of its own, or update() the announcement there is"
            )
        self._claims.add(key)

    def release(self, record: Service) -> None:
        """Give a claimed node free again."""
        self._claims.discard((record.name, record.nodes[0].id))

    def _check(self) -> None:
        if self._closed:
            raise RegistryClosed(f"{self.url} was closed; connect() again for another")
        if self._loop is None:
            raise RegistryClosed(f"{self.url} is not open yet: use `async with connect(...) as registry:`")
        running = None
        with suppress(RuntimeError):
            running = asyncio.get_running_loop()
        if running is not self._loop:
            raise WrongLoop(
                f"{self.url} was opened in another event loop; a registry belongs to the loop that opened it: "
                "connect() once per loop, or use microreg.sync from threads"
            )

    async def _together(self, verb: str, calls: list[Awaitable[None]]) -> None:
        if len(calls) == 1:
            await self._bounded(verb, calls[0])
            return
        results = await self._bounded(verb, asyncio.gather(*calls, return_exceptions=True))
        for result in results:
            if result is not None:
                raise self._translate(result, verb)

    async def _bounded(self, verb: str, call: Awaitable[T], *, forever: bool = False) -> T:
        limit = asyncio.timeout(None if forever else self.options.timeout)
        try:
            async with limit:
                return await call
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, TimeoutError) and limit.expired():
                raise RegistryTimeout(
                    f"{verb}: {self.url} did not answer within {self.options.timeout:g} s (option timeout)"
                ) from error
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            if (translated := self._translate(error, verb)) is not error:
                raise translated from error
            raise

    def _translate(self, error: BaseException, verb: str = "watch") -> RegistryError:
        return translate(error, self.inner.errors, self.url, verb)
