"""How long a record lives, and what brings it back."""

from __future__ import annotations

import asyncio

from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.events import Change, Event, Reason
from microreg.model import Service
from microreg.rules import DEFAULT_TTL
from microreg.url import Options, RegistryURL
from mutants.disk import OnDisk
from mutants.frame import FaultyMemory, Source, dies_by


@dies_by("register.renewal-is-no-event")
class RenewsByWritingAnew(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        if self.store.catalog.remove(service.name, service.nodes[0].id):
            await asyncio.sleep(0.01)
        await super().register(service, ttl=ttl)


@dies_by("register.renews")
class FirstTtlCounts(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        key = service.name, service.nodes[0].id
        before = self.store.deadlines.get(key)
        await super().register(service, ttl=ttl)
        if before is not None:
            self.store.deadlines.set(key, before)


@dies_by("register.renews-changed")
class ChangesWithoutRenewing(MemoryRegistry):
    """A changed record is written on the lease that the one before was given."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        before = self.store.catalog.get(service.name, service.nodes[0].id)
        until = self.store.deadlines.get((service.name, service.nodes[0].id))
        await super().register(service, ttl=ttl)
        if before is not None and before != service and until is not None:
            self.store.deadlines.set((service.name, service.nodes[0].id), until)


@dies_by("register.renews")
class NeverShortens(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        before = self.store.deadlines.get((service.name, service.nodes[0].id)) or 0.0
        await super().register(service, ttl=max(ttl, before - asyncio.get_running_loop().time()))


@dies_by(
    *("register.expires", "register.only-register-renews", "watch.reasons"),
    seen="go-micro, nats and mdns: the TTL is not honoured",
)
class NeverExpires(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=86_400)


@dies_by("register.expires")
class ExpiresEarly(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=ttl * 0.8)


@dies_by("register.expires", seen="Eureka: the duration of a lease is added twice")
class DoublesTtl(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=ttl * 4)


@dies_by("register.expires")
class TwoSecondsAtMost(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=min(ttl, 2.0))


@dies_by("register.default-ttl")
class FiveSecondsAtMost(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=min(ttl, 5.0))


@dies_by("register.default-ttl")
class LongIsForEver(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=ttl if ttl < 5 else 86_400)


@dies_by("register.only-register-renews")
class LeavingKeepsTheOthers(MemoryRegistry):
    """Whoever leaves takes the deadlines of the whole name along."""

    async def deregister(self, service: Service) -> None:
        await super().deregister(service)
        for record in self.store.catalog.records(service.name):
            self.store.deadlines.drop((record.name, record.nodes[0].id))


@dies_by("register.expires", seen="go-micro, memory: a watcher hears nothing of an expiry")
class ExpiresInSilence(Source):
    def told(self, event: Event) -> Event | None:
        return None if isinstance(event, Change) and event.reason is Reason.EXPIRED else event


@dies_by("register.only-register-renews", "register.expires")
class RenewsByItself(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._tasks: list[asyncio.Task[None]] = []

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=ttl)
        self._tasks.append(asyncio.create_task(self._renew(service, ttl)))

    async def _renew(self, service: Service, ttl: float) -> None:
        while True:
            await asyncio.sleep(ttl / 3)
            await super().register(service, ttl=ttl)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await super().close()


@dies_by("register.only-register-renews")
class RenewsWhenRead(MemoryRegistry):
    async def get_service(self, name: str) -> tuple[Service, ...]:
        for record in self.store.catalog.records(name):
            self.store.deadlines.set((name, record.nodes[0].id), asyncio.get_running_loop().time() + 1.0)
        return await super().get_service(name)


@dies_by("register.only-register-renews")
class OneLeaseForAll(MemoryRegistry):
    """Renewing one node renews every node of its service."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=ttl)
        for record in self.store.catalog.records(service.name):
            self.store.deadlines.set((record.name, record.nodes[0].id), asyncio.get_running_loop().time() + ttl)


@dies_by(
    *("register.restores-expired", "register.restores-deregistered", "register.restores-forgotten"),
    seen="srsr and registro: after a restart of the server its clients never come back",
)
class RemembersWhatItWrote(MemoryRegistry):
    """ "ok" for a node that is gone."""

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._written: dict[tuple[str, str], Service] = {}

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        key = service.name, service.nodes[0].id
        if self._written.get(key) != service:
            await super().register(service, ttl=ttl)
        elif self.store.catalog.get(*key):
            self.store.deadlines.set(key, asyncio.get_running_loop().time() + ttl)
        self._written[key] = service


@dies_by("register.rounds-up")
class CutsTheTtl(MemoryRegistry):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=int(ttl))


@dies_by("register.default-ttl")
class AMinuteByDefault(Checked):
    async def register(self, service: Service, *, ttl: float = 60.0) -> None:
        await super().register(service, ttl=ttl)


@dies_by("register.needs-no-clock", seen="eddieraa/registry: expiry goes by the producer's wall clock")
class TrustsTheProducersClock(FaultyMemory):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=max(0.0, ttl + self.line.skew))


@dies_by("register.renews-at-expiry", seen="srsr: a heartbeat that meets the timer deadlocks the server")
class DeadlocksWithItsTimer(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._due: dict[tuple[str, str], float] = {}

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        loop = asyncio.get_running_loop()
        key = service.name, service.nodes[0].id
        if abs(self._due.get(key, 0.0) - loop.time()) < 0.004:
            await loop.create_future()
        self._due[key] = loop.time() + ttl
        await super().register(service, ttl=ttl)


@dies_by("register.renews-at-expiry")
class ExpiresWhatWasRenewed(MemoryRegistry):
    """First it looks who is due, and a little later it deletes them."""

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        loop = asyncio.get_running_loop()
        key = service.name, service.nodes[0].id
        timer = self._timers.get(key)
        if timer is not None and loop.time() < timer.when() - 0.008:
            timer.cancel()
        self._timers[key] = loop.call_later(ttl + 0.008, self.store.catalog.remove, *key)
        await super().register(service, ttl=ttl)


@dies_by("register.expires-unattended")
class CleansUpWhenClosed(OnDisk):
    """A record goes when its client is closed; one that is killed closes nothing."""

    def until(self, ttl: float) -> float:
        return super().until(86_400)
