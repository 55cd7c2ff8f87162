"""The blocking Registry and Watch."""

from __future__ import annotations

import asyncio
from collections import deque
from threading import RLock
from types import TracebackType
from typing import Literal, Self
from weakref import WeakSet, finalize

from microreg.announce.announcement import Announcement
from microreg.errors import ConfigError, RegistryClosed, RegistryError
from microreg.events import Event
from microreg.options import Options
from microreg.registry import Registry as AsyncRegistry
from microreg.sync.mirror import Mirror, Part, blocking
from microreg.sync.portal import Portal
from microreg.url import RegistryURL
from microreg.watch import Watch as AsyncWatch

__all__ = ["Registry", "Watch", "checked"]


class Registry(Mirror[AsyncRegistry]):
    """A registry whose calls block; made by :func:`connect`, to be used with ``with``.

    From ``open()`` to ``close()`` it has a thread of its own. What has no blocking form is reached there:
    ``inner`` is the registry that this one mirrors, ``portal.call`` awaits an async function, ``portal.run``
    calls a plain one. ``announcements`` are those made through it, to be withdrawn when it closes.
    """

    register = blocking(AsyncRegistry.register)
    deregister = blocking(AsyncRegistry.deregister)
    get_service = blocking(AsyncRegistry.get_service)
    list_services = blocking(AsyncRegistry.list_services)
    examine = blocking(AsyncRegistry.examine)

    def __init__(self, inner: AsyncRegistry) -> None:
        super().__init__(inner)
        self._lock = RLock()
        self._portal: Portal | None = None
        self.announcements: WeakSet[Announcement] = WeakSet()

    @property
    def portal(self) -> Portal:
        """The thread that the calls go to. Raises RegistryClosed before ``open()``."""
        if self._portal is None:
            raise RegistryClosed(f"{self.url} is not open yet: use `with microreg.sync.connect(...) as registry:`")
        return self._portal

    @property
    def url(self) -> RegistryURL:
        """The config string; ``str(url)`` has no secrets."""
        return self.inner.url

    @property
    def options(self) -> Options:
        """The backend's options."""
        return self.inner.options

    @property
    def capabilities(self) -> frozenset[str]:
        """What the store can do (see :class:`microreg.Registry`)."""
        return self.inner.capabilities

    def watch(self, name: str | None = None) -> Watch:
        """Follow one name, or all: first a Snapshot, then Changes without a gap."""
        return Watch(self, self.portal.run(self.inner.watch, name))

    def open(self) -> None:
        """Start the thread and get ready. Needs no server: the first call says ``RegistryUnavailable``."""
        with self._lock:
            before = self._portal
            portal = before or Portal(str(self.url), _Ending(self.inner, self.announcements))
            self._portal = portal
        if portal is before:
            portal.call(self.inner.open)
            return
        try:
            portal.enter(self.inner.open, self.inner.close)
        except BaseException:
            self._portal = None
            portal.stop()
            raise
        finalize(self, portal.abandon).atexit = False

    def close(self) -> None:
        """Withdraw what is still announced, free everything, join the thread. Closing twice is fine.

        What was registered stays until its ttl ends, unless the store lives in here. Calls of other threads
        that are under way end with RegistryClosed.
        """
        portal = self._portal
        if portal is not None:
            try:
                portal.leave(_Ending(self.inner, self.announcements))
            finally:
                portal.stop()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Ending:
    """How a registry closes; knows nothing of the object that its user holds, and may drop."""

    def __init__(self, inner: AsyncRegistry, announcements: WeakSet[Announcement]) -> None:
        self._inner = inner
        self._announcements = announcements

    async def __call__(self) -> None:
        try:
            await asyncio.gather(*(each.drain() for each in tuple(self._announcements)))
        finally:
            await self._inner.close()


class Watch(Part[AsyncWatch]):
    """``with registry.watch("greeter") as events: for event in events: ...``

    What :class:`microreg.Watch` promises holds here. A waiting ``for`` ends by ``close()`` from another
    thread, with RegistryClosed when the registry is closed, and by Ctrl-C; no event is lost then.
    """

    def __init__(self, registry: Registry, inner: AsyncWatch) -> None:
        super().__init__(registry, inner)
        self._closed = False
        self._kept: deque[Event] = deque()

    @property
    def name(self) -> str | None:
        """The name that it follows; None for all."""
        return self.inner.name

    @property
    def state(self) -> Literal["live", "resyncing"]:
        """``resyncing`` until the store has been read (again), then ``live``."""
        return self.inner.state

    @property
    def active(self) -> bool:
        """Whether it was entered, and is not over."""
        return self.inner.active

    @property
    def error(self) -> RegistryError | None:
        """Why the source was last lost."""
        return self.inner.error

    def close(self) -> None:
        """End the watch; a waiting iteration stops. Closing twice is fine."""
        self._closed = True
        self._leave(self.inner.close)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._closed:
            raise StopIteration
        if not self._entered:
            raise RegistryClosed("this watch is not open: use `with registry.watch(...) as events:`")
        if self._kept:
            return self._kept.popleft()
        taken: list[Event] = []

        async def take() -> None:
            taken.append(await anext(self.inner))

        try:
            self.portal.call(take)
        except StopAsyncIteration:
            raise StopIteration from None
        except BaseException:  # Ctrl-C came when the event was taken already
            self._kept.extend(taken)
            raise
        return taken[0]


def checked(registry: Registry, who: str) -> Registry:
    """The registry, where it is one that blocks. Raises ConfigError for any other."""
    if not isinstance(registry, Registry):
        raise ConfigError(f"{who} takes the registry that microreg.sync.connect() made, got {type(registry).__name__}")
    return registry
