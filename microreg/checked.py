"""Checked: the rules that are the same on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from weakref import finalize

from microreg import process
from microreg.bounded import Overdue, bounded
from microreg.crowd import Crowd
from microreg.errors import ConfigError, InvalidService, RegistryClosed, RegistryError, RegistryTimeout, ServiceNotFound
from microreg.events import Event
from microreg.findings import EXAMINE_FAILED, Finding
from microreg.model import Service
from microreg.observer import Observer
from microreg.registry import Layer, Registry
from microreg.route import Route
from microreg.rules import DEFAULT_TTL, check_name, check_removal, check_service, check_ttl
from microreg.translation import translate
from microreg.watch import Tally, Watch

__all__ = ["Checked", "WatchStatistics", "patience"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WatchStatistics:
    """The watches of a registry: how many are ``live`` and ``resyncing``; how often any was read again after a gap."""

    live: int
    resyncing: int
    resyncs: int


class Checked(Layer):
    """The rules that are the same on every backend, so that no backend repeats them.

    Open, closed, forked and wrong loop; validation; one record per node; the ``timeout`` option; client-library
    exceptions mapped to the error tree.
    """

    def __init__(self, inner: Registry) -> None:
        super().__init__(inner, inner.url, inner.options)
        self.prompt = inner.prompt
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = ""  # why no call is possible any more
        self._forgotten: finalize[[str, asyncio.AbstractEventLoop], Checked] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.observers: tuple[Observer, ...] = ()
        """Who hears of every call."""
        self.users: Crowd[object] = Crowd()
        """The announcements, Selectors and caches that work on this registry."""
        self._watches: Crowd[Watch] = Crowd()
        self._tally = Tally()
        self._claims: set[tuple[str, str]] = set()
        self._route = Route(inner.hosts)
        self._host: str | None = None
        self._host_until = float("-inf")

    async def open(self) -> None:
        """Open the backend in the running loop, within the ``timeout`` option.

        Raises RegistryClosed when it was closed before, RegistryTimeout when the backend is not open by then.
        """
        if self._over or self._loop is not None:
            self._check()
            return
        self._loop = asyncio.get_running_loop()
        self._forgotten = finalize(self, process.never_closed, str(self.url), self._loop)
        process.in_child(self, Checked._after_fork)
        try:
            await self._bounded("open", self.inner.open())
            await self._route.open()
        except BaseException:
            self._loop = None
            self._forgotten.detach()
            await self._route.close()
            with suppress(Exception):
                await self._bounded("close", self.inner.close())
            raise

    async def close(self) -> None:
        """End open watches and close the backend, within the ``timeout`` option. Closing twice is fine.

        It is complete when this returns, also when the caller was cancelled; only a second cancellation ends the
        wait early, and a later ``close()`` joins what goes on. In a forked child, or without a loop, it does nothing.
        """
        if self._loop is not None and not self._over and process.running_loop() is not None:
            self._check()
            self._closing = asyncio.create_task(self._shut(), name="microreg close")
        self._over = self._over or "was closed; connect() again for another"
        if self._closing is None or self._closing.done():
            return
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            await asyncio.wait([self._closing])
            raise

    async def _shut(self) -> None:
        await self._together("close", [self.inner.close, self._route.close, *(watch.join for watch in self._let_go())])

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Check the whole service before the first node is sent; the nodes then go out together."""
        self._check()
        if not self._holds(service):
            check_service(service)
        seconds = check_ttl(ttl)
        if len(service.nodes) == 1:
            call = self._bounded("register", self.inner.register(service, ttl=seconds))
        else:
            calls = [partial(self.inner.register, record, ttl=seconds) for record in service.records()]
            call = self._together("register", calls)
        await self._observed("register", service, call)

    def _holds(self, service: Service) -> bool:
        """Whether this object was checked when it was registered; it cannot have changed since."""
        return type(service) is Service and len(service.nodes) == 1 and self.inner.holds(service)

    async def deregister(self, service: Service) -> None:
        """Withdraw each node. Idempotent."""
        self._check()
        check_removal(service)
        calls = [partial(self.inner.deregister, record) for record in service.records()]
        await self._observed("deregister", service, self._together("deregister", calls))

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """The exact name only; an empty answer is ServiceNotFound."""
        self._check()
        check_name(name)
        try:
            lookup = self._bounded("get_service", self.inner.get_service(name))
            services = await self._observed("get_service", name, lookup)
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
        listing = self._bounded("list_services", self.inner.list_services())
        return tuple(sorted(set(await self._observed("list_services", "", listing))))

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
        watch.tally = self._tally
        self._watches.add(watch)
        return watch

    def suspect(self, name: str, id: str) -> None:
        """Passed on while this is open, in the loop that opened it; whatever the backend raises is no trouble."""
        if self._loop is not None and not self._over and process.running_loop() is self._loop:
            with suppress(Exception):
                self.inner.suspect(name, id)

    def advertised_host(self) -> str | None:
        """What the backend knows, or else the address towards the store, or of the best interface.

        Looked up at most once a second.
        """
        from microreg.net import advertised

        loop = process.running_loop()
        if loop is not None and loop.time() < self._host_until:
            return self._host
        self._host = self.inner.advertised_host()
        if self._host is None:
            with suppress(ConfigError):
                self._host = advertised(towards=self._route.address(), env={}).host
        if loop is not None:
            self._host_until = loop.time() + 1.0
        return self._host

    async def examine(self) -> tuple[Finding, ...]:
        """What the backend finds within the ``timeout`` option. Where it fails, that is a finding.

        Works before ``open()`` too: what keeps a registry from opening is to be found. Raises RegistryClosed and
        WrongLoop.
        """
        if self._over or self._loop is not None:
            self._check()
        try:
            return tuple(await self._bounded("examine", self.inner.examine()))
        except RegistryError as error:
            return (EXAMINE_FAILED(f"{self.url} could not be examined to the end: {error}"),)

    @property
    def is_open(self) -> bool:
        """Whether calls are possible, in the loop that opened it."""
        return self._loop is not None and not self._over

    @property
    def statistics(self) -> WatchStatistics:
        """How its watches are doing. Any thread may ask."""
        states = [watch.state for watch in self._watches if watch.active]
        return WatchStatistics(states.count("live"), states.count("resyncing"), self._tally.resyncs)

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
        if self._over:
            raise RegistryClosed(f"{self.url} {self._over}")
        if self._loop is None:
            raise RegistryClosed(f"{self.url} is not open yet: use `async with connect(...) as registry:`")
        process.check_loop(self._loop, self.url)

    def _let_go(self) -> tuple[Watch, ...]:
        """Nothing is to be told of this registry at the exit; its watches end."""
        if self._forgotten is not None:
            self._forgotten.detach()
        watches = tuple(self._watches)
        for watch in watches:
            watch.fail(RegistryClosed(f"{self.url} {self._over}"))
        return watches

    def _after_fork(self) -> None:
        if self._loop is not None:
            self._over, self._closing = process.FORKED, None
            self._let_go()
            process.hush(self._loop)

    def _observed(
        self, verb: str, of: Service | str, call: Coroutine[object, object, T]
    ) -> Coroutine[object, object, T]:
        for observer in self.observers:
            call = observer.operation(verb, of, call)
        return call

    async def _together(self, verb: str, calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
        if len(calls) == 1:
            await self._bounded(verb, calls[0]())
            return
        results = await self._bounded(verb, _all(calls))
        for result in results:
            if isinstance(result, SystemExit | KeyboardInterrupt):
                raise result
            if result is not None:
                raise self._translate(result, verb)

    async def _bounded(self, verb: str, call: Awaitable[T]) -> T:
        try:
            return await bounded(call, self.options.timeout)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, Overdue):
                raise RegistryTimeout(
                    f"{verb}: {self.url} did not answer within {self.options.timeout:g} s (option timeout)"
                ) from error
            if isinstance(error, asyncio.CancelledError) and process.cancelling():
                raise
            if (translated := self._translate(error, verb)) is not error:
                raise translated from error
            raise

    def _translate(self, error: BaseException, verb: str = "watch") -> RegistryError:
        return translate(error, self.inner.errors, self.url, verb)


def patience(registry: Registry) -> float:
    """Seconds that a call of this registry may take: the ``timeout`` option of what its layers are around."""
    return (registry.unwrap(Checked) or registry).options.timeout


async def _all(calls: Sequence[Callable[[], Awaitable[None]]]) -> list[BaseException | None]:
    return list(await asyncio.gather(*map(_outcome, calls), return_exceptions=True))


async def _outcome(call: Callable[[], Awaitable[None]]) -> SystemExit | KeyboardInterrupt | None:
    """What would end the event loop if a task raised it goes to the caller, as from a call without a task."""
    try:
        await call()
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None
