"""Registry, the one interface, and Layer, a registry around a registry.

A backend implements five verbs and nothing else: :class:`microreg.checked.Checked` stands between it and everybody,
and does what is the same everywhere. ``connect()`` and the conformance kit always add it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Self, TypeVar

from microreg import options as config
from microreg.errors import RegistryError
from microreg.findings import Finding
from microreg.model import Service
from microreg.rules import DEFAULT_TTL
from microreg.url import RegistryURL
from microreg.watch import Watch

__all__ = ["Layer", "Registry"]

R = TypeVar("R", bound="Registry")


class Registry(ABC):
    """Where programs announce themselves and find each other: five verbs, one contract on every store.

    ``Options`` is a frozen dataclass: its fields are the options of the config string. ``capabilities`` are
    some of ``reasons`` (it tells a deregistered node from an expired one), ``complete_list`` (it knows every
    name), ``authoritative`` (it keeps the records itself, for every client), ``push`` (changes are heard at once)
    and ``fenced`` (a write that is late brings nobody back). ``errors`` maps exceptions of the client library to
    this package's. A backend is used through ``Checked``, which hands it services of exactly one node that were
    checked before, in the loop in which it was opened.
    """

    Options: ClassVar[type[config.Options]] = config.Options
    prompt: bool = False
    """Whether its verbs wait for nothing, since everything is in this process: none of their coroutines suspends."""
    capabilities: frozenset[str] = frozenset()
    errors: ClassVar[Mapping[type[Exception], type[RegistryError]]] = {}
    hosts: Sequence[str] = ()
    """Where the store is, names or IP addresses: which address is announced depends on the way there."""

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

    def holds(self, record: Service) -> bool:
        """Whether this very object is what is registered, and no check of it is needed; False where nobody knows."""
        return False

    def suspect(self, name: str, id: str) -> None:  # noqa: B027 (optional to override)
        """A call to this node failed: look soon whether it is still there, where the store would not say so by itself.

        A Selector calls it for every failure, so it costs nothing to speak of and raises nothing. Most stores know no
        more than they have told already, and do nothing.
        """

    def advertised_host(self) -> str | None:
        """The address of this machine that users of this registry reach it by, where the backend knows it."""
        return None

    async def examine(self) -> tuple[Finding, ...]:
        """What is good, odd or wrong about this registry here and now, for ``microreg doctor``; () by default.

        It looks and writes nothing. It may be called before ``open()``, and after one that failed: what needs an open
        store is then left out. Through ``Checked`` it ends within the ``timeout`` option, and an error of the store
        is a finding.
        """
        return ()

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
    """A registry around a registry: hands every call on, until a subclass says otherwise.

    ``inside_composites`` is False for a layer that has to be around the whole of a ``mirror:`` or ``fallback:``,
    not in a part of it.
    """

    inside_composites: ClassVar[bool] = True

    transparent: ClassVar[bool] = False
    """Whether it changes no answer, so that who asks may as well ask what is inside."""

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

    def suspect(self, name: str, id: str) -> None:
        """See :meth:`Registry.suspect`."""
        self.inner.suspect(name, id)

    def advertised_host(self) -> str | None:
        """See :meth:`Registry.advertised_host`."""
        return self.inner.advertised_host()

    async def examine(self) -> tuple[Finding, ...]:
        """See :meth:`Registry.examine`. A layer that has findings of its own adds them to these."""
        return await self.inner.examine()

    def unwrap(self, kind: type[R]) -> R | None:
        """See :meth:`Registry.unwrap`."""
        return self if isinstance(self, kind) else self.inner.unwrap(kind)
