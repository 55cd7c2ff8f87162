"""What the mutants are made of: the list of them, a harness for each, and a memory store with every fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import ClassVar, TypeVar

from microreg.backends.memory import MemoryRegistry
from microreg.errors import RegistryUnavailable
from microreg.events import Event
from microreg.model import Service
from microreg.registry import Checked, Registry
from microreg.rules import DEFAULT_TTL
from microreg.testing import Harness
from microreg.testing.faults import MemoryFaults
from microreg.url import Options, RegistryURL
from microreg.watch import Watch

MUTANTS: list[tuple[type[Registry], str]] = []
"""Each mutant with the id of a check that it must die by."""

M = TypeVar("M", bound=type[Registry])
_URL = RegistryURL.parse("memory://mutant")
_PROBE = 5.0


def dies_by(*checks: str) -> Callable[[M], M]:
    """Add the class to the mutants: each of these checks must kill it."""

    def add(mutant: M) -> M:
        MUTANTS.extend((mutant, check) for check in checks)
        return mutant

    return add


def harness_of(kind: type[Registry]) -> Harness:
    """A harness for clients of this class, impatient because the store is this process."""
    inside: type[Registry] = getattr(kind, "around", MemoryRegistry) if issubclass(kind, Checked) else kind

    def client() -> Registry:
        backend = inside(_URL, Options())
        return kind(backend) if issubclass(kind, Checked) else backend

    faults = EveryFault(client) if issubclass(inside, FaultyMemory) else None
    return Harness(factory=client, faults=faults, patience=1.0, settle=0.1, seed=1)


class Source(MemoryRegistry):
    """A memory registry whose subclasses change what watches are told."""

    def watch(self, name: str | None = None) -> Watch:
        return Watch(lambda: self.source(name))

    def memory(self, name: str | None) -> AsyncGenerator[Event, None]:
        self.store.require()
        return self.store.catalog.changes(name)

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        async with aclosing(self.memory(name)) as events:
            async for event in events:
                told = self.told(event)
                if told is not None:
                    yield told

    def told(self, event: Event) -> Event | None:
        return event


class Line:
    """The way to the store, and what is wrong with it. ``delay`` is seconds."""

    def __init__(self) -> None:
        self.dead = False
        self.delay = 0.0


class FaultyMemory(MemoryRegistry):
    """A memory registry that keeps the contract over a line that can freeze, be slow, or swallow everything."""

    line: ClassVar[Line] = Line()

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self._late: set[asyncio.Task[None]] = set()
        self._generation = 0

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        generation = self._generation
        delay = await self._through()
        if not delay:
            await super().register(service, ttl=ttl)
            return
        task = asyncio.create_task(self._register_late(service, ttl, delay, generation))
        self._late.add(task)
        await asyncio.shield(task)

    async def _register_late(self, service: Service, ttl: float, delay: float, generation: int) -> None:
        await asyncio.sleep(delay)
        if not self.fenced(generation):
            await super().register(service, ttl=ttl)

    def fenced(self, generation: int) -> bool:
        """Whether a write of this generation comes too late."""
        return generation != self._generation

    async def deregister(self, service: Service) -> None:
        self._generation += 1
        await asyncio.sleep(await self._through())
        await super().deregister(service)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        await asyncio.sleep(await self._through())
        return await super().get_service(name)

    async def list_services(self) -> tuple[str, ...]:
        await asyncio.sleep(await self._through())
        return await super().list_services()

    async def close(self) -> None:
        for task in self._late:
            task.cancel()
        await super().close()

    def watch(self, name: str | None = None) -> Watch:
        return Watch(lambda: self.source(name))

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        await self._through()
        self.store.require()
        async with aclosing(self.store.catalog.changes(name)) as events:
            while True:
                waiting = asyncio.ensure_future(anext(events))
                try:
                    while not (await asyncio.wait([waiting], timeout=_PROBE))[0] or self.line.dead:
                        await self.probe()
                    yield waiting.result()
                finally:
                    waiting.cancel()
                    await asyncio.wait([waiting])

    async def probe(self) -> None:
        """Ask whether the store is still there."""
        if self.line.dead:
            raise RegistryUnavailable(f"no sign of life for {_PROBE:g} s")

    async def _through(self) -> float:
        """Wait while nothing gets through; how late it then is."""
        while self.line.dead:  # noqa: ASYNC110 (an Event would belong to one loop)
            await asyncio.sleep(0.05)
        return self.line.delay


class EveryFault(MemoryFaults):
    """What can be done to a FaultyMemory."""

    @asynccontextmanager
    async def freeze(self) -> AsyncGenerator[None]:
        FaultyMemory.line.dead = True
        try:
            yield
        finally:
            FaultyMemory.line.dead = False

    @asynccontextmanager
    async def black_hole(self) -> AsyncGenerator[None]:
        async with self.freeze():
            yield

    @asynccontextmanager
    async def slow(self, seconds: float) -> AsyncGenerator[None]:
        FaultyMemory.line.delay = seconds
        try:
            yield
        finally:
            FaultyMemory.line.delay = 0.0
