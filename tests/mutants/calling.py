"""All verbs: opening, closing, cancelling, and stores that are away."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.errors import InvalidService, RegistryClosed, RegistryError, RegistryUnavailable
from microreg.findings import Finding
from microreg.model import Service
from microreg.rules import DEFAULT_TTL
from microreg.url import Options, RegistryURL
from mutants.frame import FaultyMemory, dies_by


@dies_by("general.not-open", "general.wrong-loop")
class NeverLooks(Checked):
    """No check of open, closed or loop."""

    def _check(self) -> None:
        pass


@dies_by("general.not-open")
class ClosesOnce(Checked):
    async def close(self) -> None:
        if self._over:
            raise RegistryClosed("closed already")
        await super().close()


@dies_by("general.examines")
class HandsFailuresOn(Checked):
    """What goes wrong in an examination is the error of whoever asked."""

    async def examine(self) -> tuple[Finding, ...]:
        raise RegistryUnavailable("there is nothing to examine")


@dies_by("general.examines")
class ExaminesForEver(Checked):
    async def examine(self) -> tuple[Finding, ...]:
        await asyncio.Event().wait()
        return ()


@dies_by("general.concurrent")
class OneCallAtATime(MemoryRegistry):
    """Two calls at once: the second is lost."""

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._busy = False

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        if self._busy:
            return
        self._busy = True
        await asyncio.sleep(0)
        self._busy = False
        await super().register(service, ttl=ttl)


@dies_by("general.cancellable")
class KeepsItsLock(MemoryRegistry):
    """A cancelled call leaves the connection locked."""

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._lock = asyncio.Lock()

    async def get_service(self, name: str) -> tuple[Service, ...]:
        await self._lock.acquire()
        await asyncio.sleep(0)
        self._lock.release()
        return await super().get_service(name)


@dies_by("general.cancellable")
class SwallowsCancellation(MemoryRegistry):
    async def list_services(self) -> tuple[str, ...]:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)
                return await super().list_services()
            await asyncio.sleep(10)


@dies_by("general.open-needs-no-server")
class ConnectsInOpen(MemoryRegistry):
    async def open(self) -> None:
        await super().open()
        self.store.require()


@dies_by("general.unavailable", "general.open-needs-no-server")
class CallsAnOutageNotFound(MemoryRegistry):
    async def get_service(self, name: str) -> tuple[Service, ...]:
        with suppress(RegistryUnavailable):
            return await super().get_service(name)
        return ()


@dies_by("general.unavailable")
class LeaksClientErrors(MemoryRegistry):
    """An exception of the client library that ``errors`` does not map."""

    async def list_services(self) -> tuple[str, ...]:
        try:
            return await super().list_services()
        except RegistryError:
            raise LookupError("no leader") from None


# -- FaultyMemory's own ---------------------------------------------------------------------------


@dies_by("general.bounded", seen="go-micro, all five: the caller's deadline is ignored")
class WaitsForEver(Checked):
    around = FaultyMemory

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._check()
        await self.inner.register(service, ttl=ttl)


@dies_by("watch.notices-silence")
class NeverProbes(FaultyMemory):
    """A watch that trusts its connection."""

    async def probe(self) -> None:
        await asyncio.sleep(1)


@dies_by("deregister.fenced")
class NoFence(FaultyMemory):
    """A late write is applied, whatever happened since."""

    def fenced(self, key: tuple[str, str], number: int) -> bool:
        return False


@dies_by("general.calling-again")
class RefusesTheSecondTry(FaultyMemory):
    """ "already registered", because of a write whose outcome nobody knows."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        if self._late:
            raise InvalidService("already registered")
        await super().register(service, ttl=ttl)


@dies_by("general.own-errors")
class RaisesWhatItGets(Checked):
    async def list_services(self) -> tuple[str, ...]:
        try:
            return await super().list_services()
        except RegistryUnavailable:
            raise LookupError("no leader") from None


@dies_by("general.concurrent", seen="registro: handlers change what another thread walks through, without a mutex")
class WalksWhileOthersWrite(MemoryRegistry):
    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._names: dict[str, None] = {}

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._names[service.name] = None
        await super().register(service, ttl=ttl)

    async def list_services(self) -> tuple[str, ...]:
        for _ in self._names:
            await asyncio.sleep(0)
        return await super().list_services()
