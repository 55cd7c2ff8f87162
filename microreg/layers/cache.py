"""``cache+``: lookups without I/O. One watch per name that was asked for keeps a catalog up to date.

While the store is away the cache serves what it last knew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from microreg import process
from microreg.catalog import Catalog, Subscriber
from microreg.errors import RegistryClosed, RegistryError, ServiceNotFound
from microreg.events import Change, Snapshot
from microreg.model import Service
from microreg.options import Options
from microreg.registry import Layer, Registry
from microreg.url import RegistryURL
from microreg.watch import Watch

__all__ = ["CacheLayer"]


class CacheLayer(Layer):
    """Answers ``get_service`` from a catalog that watches keep true. A hot name costs no I/O and never suspends."""

    def __init__(self, inner: Registry, url: RegistryURL, options: Options) -> None:
        super().__init__(inner, url, options)
        self._catalog = Catalog()
        self._followed: dict[str, _Followed] = {}
        self._over = ""  # why no call is possible any more
        process.in_child(self, CacheLayer._after_fork)

    async def close(self) -> None:
        """Stop watching, then close what is inside."""
        await self.stop()
        await self.inner.close()

    async def stop(self) -> None:
        """Stop watching and leave what is inside open: for a cache around a registry that others own."""
        self._over = self._over or "was closed; connect() again for another"
        followed = list(self._followed.values())
        self._followed.clear()
        tasks = [each.task for each in followed] + [each.flight for each in followed if each.flight is not None]
        await process.end(*tasks)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """What the catalog holds; a name that is not known yet is asked for once, however many callers wait."""
        services = self._catalog.services(name)
        if services and not self._over:
            return services
        followed = self.follow(name)
        if followed.live and "authoritative" in self.capabilities:
            raise ServiceNotFound(name)
        return await followed.ask()

    def follow(self, name: str) -> _Followed:
        """Start to watch a name, or go on watching it."""
        if self._over:
            raise RegistryClosed(f"{self.url} {self._over}")
        followed = self._followed.get(name)
        if followed is None:
            followed = self._followed[name] = _Followed(name, self.inner, self._catalog, self._forget)
        return followed

    def services(self, name: str) -> tuple[Service, ...]:
        """What is known of a name now, without asking; empty where nothing is."""
        return self._catalog.services(name)

    def subscribe(self, name: str, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with each change of a followed name, until the returned function is called."""
        return self._catalog.subscribe(name, subscriber)

    def _after_fork(self) -> None:
        if self._followed:
            self._over = process.FORKED
            self._followed.clear()

    def _forget(self, followed: _Followed) -> None:
        if self._followed.get(followed.name) is followed:
            del self._followed[followed.name]


class _Followed:
    """One watched name: its task, and the one lookup that cold callers share."""

    def __init__(self, name: str, inner: Registry, catalog: Catalog, forget: Callable[[_Followed], None]) -> None:
        self.name = name
        self._inner = inner
        self._catalog = catalog
        self._forget = forget
        self._watch: Watch = inner.watch(name)
        self.flight: asyncio.Task[tuple[Service, ...]] | None = None
        self.error: RegistryError | None = None
        self._told = False
        self.task = asyncio.create_task(self._run(), name=f"microreg cache {name}")

    @property
    def live(self) -> bool:
        """Whether the watch has read the store, the catalog has heard of it, and the watch still hears the store."""
        return self._told and self._watch.state == "live"

    @property
    def reason(self) -> str:
        """Why the watch is not live; empty where nothing went wrong so far."""
        return str(self.error or self._watch.error or "")

    async def ask(self) -> tuple[Service, ...]:
        """Look the name up in the store; callers at the same time share one lookup, and its error."""
        if self.flight is None:
            self.flight = asyncio.create_task(self._inner.get_service(self.name), name=f"microreg lookup {self.name}")
            self.flight.add_done_callback(self._landed)
        flight = self.flight
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if flight.cancelled() and not (task is not None and task.cancelling()):
                raise RegistryClosed(f"the cache was closed before {self.name!r} was found") from None
            raise

    def _landed(self, flight: asyncio.Task[tuple[Service, ...]]) -> None:
        self.flight = None
        if not flight.cancelled():
            flight.exception()

    async def _run(self) -> None:
        try:
            async with self._watch as events:
                async for event in events:
                    match event:
                        case Snapshot():
                            self._catalog.replace(event, self.name)
                            self._told = True
                        case Change():
                            self._catalog.apply(event)
        except RegistryError as error:
            self.error = error
            self._catalog.replace(Snapshot(), self.name)
            self._forget(self)
