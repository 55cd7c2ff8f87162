"""Registries that are right about a few of everything."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import islice
from typing import ClassVar

from microreg.backends.memory import MemoryRegistry
from microreg.events import Event, Snapshot
from microreg.model import Service, merge
from mutants.frame import Source, dies_by

_PAGE = 100


@dies_by("get.many-nodes")
class AnswersOnePage(MemoryRegistry):
    async def get_service(self, name: str) -> tuple[Service, ...]:
        return merge(islice(self.store.catalog.records(name), _PAGE))


@dies_by("list.many-names")
class ListsOnePage(MemoryRegistry):
    async def list_services(self) -> tuple[str, ...]:
        return (await super().list_services())[:_PAGE]


@dies_by("get.many-nodes", "list.many-names")
class BeginsWithOnePage(Source):
    """The Snapshot of a watch."""

    def told(self, event: Event) -> Event | None:
        return Snapshot(islice(event.records, _PAGE)) if isinstance(event, Snapshot) else event


@dies_by("watch.many")
class TellsSixtyWatches(Source):
    """Those beyond have their Snapshot, and then silence."""

    watching: ClassVar[int] = 0

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        kind = type(self)
        kind.watching += 1
        served = kind.watching <= 60
        try:
            async with aclosing(self.memory(name)) as events:
                async for event in events:
                    if served or isinstance(event, Snapshot):
                        yield event
        finally:
            kind.watching -= 1
