"""What the mutants are made of: the list of them, what is known of their bugs, and a harness for each."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.events import Event
from microreg.registry import Registry
from microreg.testing import Harness
from microreg.testing.faulty import FaultyMemory
from microreg.testing.line import Line, LineFaults
from microreg.url import Options, RegistryURL
from microreg.watch import Watch
from mutants.disk import OnDisk, harness_on_disk

__all__ = ["MUTANTS", "SEEN", "FaultyMemory", "Source", "dies_by", "harness_of"]

MUTANTS: list[tuple[type[Registry], str]] = []
"""Each mutant with the id of a check that it must die by."""
SEEN: dict[type[Registry], str] = {}
"""Where the bug of a mutant was seen: in a registry that people use, and what it did there."""

M = TypeVar("M", bound=type[Registry])
_URL = RegistryURL.parse("memory://mutant")


def dies_by(*checks: str, seen: str = "") -> Callable[[M], M]:
    """Add the class to the mutants: each of these checks must kill it. ``seen`` is where the bug is real."""

    def add(mutant: M) -> M:
        MUTANTS.extend((mutant, check) for check in checks)
        if seen:
            SEEN[mutant] = seen
        return mutant

    return add


def harness_of(kind: type[Registry]) -> Harness:
    """A harness for clients of this class, impatient because the store is this process."""
    if issubclass(kind, OnDisk):
        return harness_on_disk(kind)
    inside: type[Registry] = getattr(kind, "around", MemoryRegistry) if issubclass(kind, Checked) else kind
    line = Line(random.Random(1))

    def client() -> Registry:
        backend = inside(_URL, Options(), line) if issubclass(inside, FaultyMemory) else inside(_URL, Options())
        return kind(backend) if issubclass(kind, Checked) else backend

    faults = LineFaults(client, line) if issubclass(inside, FaultyMemory) else None
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
