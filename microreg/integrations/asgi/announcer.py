"""One announcement that follows its server: it begins when connections are accepted, and ends before they are not."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypedDict

from microreg import ConfigError, Registry, RegistryError, RegistryUnavailable, announce, connect
from microreg.integrations.asgi.listening import Listener, choose, listeners
from microreg.integrations.asgi.signals import Signals
from microreg.integrations.asgi.trigger import held_trigger
from microreg.net import ADVERTISE_VARIABLE, address_problem

if TYPE_CHECKING:
    from microreg import Announcement, Endpoint
    from microreg.announce.probe import Check

__all__ = ["Announcer", "Options"]

log = logging.getLogger("microreg.integrations.asgi")

_LOOK = 0.1
_LATE = 10.0
_OPEN_AGAIN = 5.0


class Options(TypedDict, total=False):
    """What can be told of an announced application. What has no text here is as for :func:`microreg.announce`."""

    port: int | None
    """None: the port on which the server listens. Given: nothing is announced unless the server listens on it."""
    address: str | None
    """None: where the server listens. ``host:port``: where others reach it instead, behind a proxy for example."""
    id: str | None
    """None: a random one for each worker. One that is given is for a server with a single worker."""
    version: str
    metadata: Mapping[str, str] | None
    endpoints: Iterable[Endpoint]
    ttl: float
    interval: float | None
    check: Check | None
    drain_delay: float


class Announcer:
    """Announces a service while this process accepts connections, and keeps the server from stopping before it is
    drained: ``check()``, ``start()``, ``ready()``, ``drain()`` and ``close()``, in this order.
    """

    def __init__(self, service: str, registry: Registry | str | None, options: Options) -> None:
        self.announcement: Announcement | None = None
        """The announcement, from when the server accepts connections."""
        self._name = service
        self._registry = registry
        self._options = options
        self._detached = False
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._trigger = ExitStack()
        self._task: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raise what is wrong with the arguments, as far as it can be known before the server listens."""
        registry = self._registry if isinstance(self._registry, Registry) else connect(self._registry)
        options = self._options.copy()
        address = options.get("address")
        if address is None:
            options["address"] = "127.0.0.1"
        if options.get("port") is None and (address is None or address_problem(address)):
            options["port"] = 1
        await announce(registry, self._name, **options).drain()  # given up: it was never entered

    def start(self) -> None:
        """From now on the server is held back when it is told to stop."""
        self._trigger.enter_context(held_trigger(self.drain))
        self._task = asyncio.create_task(self._run(), name=f"microreg asgi {self._name}")

    def ready(self) -> None:
        """The application has started: it is announced as soon as connections are accepted."""
        self._ready.set()

    def detach(self) -> None:
        """The server will not say when it stops: go on, and be done with everything before it begins to."""
        self._detached = True
        self._ready.set()

    async def drain(self) -> None:
        """Leave: drained and deregistered when it returns, in about 5 s at most. Again: joins the first.

        Goes on when the caller is cancelled, which is raised at the end; a second cancellation ends it at once.
        """
        self._leave()
        caught: asyncio.CancelledError | None = None
        while self._task is not None and not self._task.done():
            try:
                await asyncio.wait([self._task])
            except asyncio.CancelledError as error:
                if caught is not None:
                    self._hurry()
                caught = error
        if caught is not None:
            raise caught

    async def close(self) -> None:
        """``drain()``, and the server is held back no longer."""
        try:
            await self.drain()
        finally:
            self._trigger.close()

    def _leave(self) -> None:
        """Begin to leave; where nothing is announced yet, nothing will be."""
        if not self._stopping.is_set():
            self._stopping.set()
            if self.announcement is None:
                self._cut()

    def _cut(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _hurry(self) -> None:
        """Leave at once: an announcement goes on to drain when it is cancelled, but not when that happens twice."""
        self._cut()
        asyncio.get_running_loop().call_soon(self._cut)

    async def _run(self) -> None:
        try:
            await self._ready.wait()
            found = await self._accepting()
            with Signals(self._leave, self._hurry) as signals:
                async with self._opened() as registry:
                    self.announcement = announce(registry, self._name, **self._located(registry, found))
                    async with self.announcement:
                        await self._stopping.wait()
                    if not self._detached:
                        signals.release()
        except RegistryError as error:
            log.error("%s is not announced: %s", self._name, error)
        except Exception:
            log.exception("%s is not announced any more", self._name)

    async def _accepting(self) -> tuple[Listener, ...]:
        """Wait for the listeners to announce: two looks in a row find the same. What is in the way is logged once."""
        loop = asyncio.get_running_loop()
        late, told, before = loop.time() + _LATE, "", frozenset[Listener]()
        while True:
            found, problem = listeners(), ""
            if found and found == before:
                try:
                    return self._chosen(found)
                except ConfigError as error:
                    problem = str(error)
            elif loop.time() > late:
                problem = f"this process accepts no connections, {_LATE:g} s after its start"
            if problem and problem != told:
                log.error("%s is not announced so far: %s", self._name, problem)
                told = problem
            before = found
            await asyncio.sleep(_LOOK)

    def _chosen(self, found: frozenset[Listener]) -> tuple[Listener, ...]:
        address = self._options.get("address")
        if address is not None and not address_problem(address):
            return tuple(found)
        return choose(found, self._options.get("port"), os.environ.get("PORT", ""))

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Registry]:
        if isinstance(self._registry, Registry):
            yield self._registry
            return
        while True:
            registry = connect(self._registry)
            try:
                await registry.open()
                break
            except RegistryUnavailable as error:
                log.warning("%s is not announced so far, trying again: %s", self._name, error)
                await asyncio.sleep(_OPEN_AGAIN)
        async with registry:
            yield registry

    def _located(self, registry: Registry, found: tuple[Listener, ...]) -> Options:
        """The options with the address at which others reach the listeners."""
        options = self._options.copy()
        address = options.get("address")
        if address is not None and not address_problem(address):
            return options
        options["port"] = found[0].port
        if address is not None or os.environ.get(ADVERTISE_VARIABLE) or any(one.wildcard for one in found):
            return options
        reachable = [one.host for one in found if not one.loopback]
        if reachable:
            options["address"] = reachable[0]
        elif not _loopback(registry.advertised_host()):
            raise ConfigError(
                f"the server listens on {found[0].host} only, where other machines cannot reach it: start it with "
                "--host 0.0.0.0 or as your server spells that, or, if none shall, "
                "say address='127.0.0.1' or set MICROREG_ADVERTISE=127.0.0.1"
            )
        return options


def _loopback(host: str | None) -> bool:
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
