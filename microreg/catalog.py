"""The one place that knows what an event means: the fold of events into what is registered now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import chain

from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Service, merge_nodes

__all__ = ["Catalog", "Subscriber"]

_DELETE = Action.DELETE

Subscriber = Callable[[Change], None]
"""Called synchronously with each effective change; must not raise and must not change the catalog."""


class Catalog:
    """Every node's record, by name and id.

    ``apply`` costs O(1) whatever the size. ``services(name)`` is an immutable tuple, built once per change
    of that name when it is first asked for. Not safe for several threads.
    """

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Service]] = {}
        self._views: dict[str, tuple[Service, ...]] = {}
        self._names: tuple[str, ...] | None = ()
        self._subscribers: dict[str | None, dict[int, Subscriber]] = {}
        self._interrupts: dict[int, Callable[[Exception], None]] = {}
        self._tickets = 0

    def apply(self, event: Event) -> None:
        """Fold one event. A Snapshot replaces everything; a node missing in it is gone (``lost``)."""
        if type(event) is Change:
            record = event.service
            if event.action is _DELETE:
                if self._subscribers:
                    self.remove(record.name, event.node.id, event.reason or Reason.REMOVED)
                else:
                    self._drop(record.name, event.node.id)
            elif self._subscribers:
                self.put(record)
            else:
                self._store(record)
        elif isinstance(event, Snapshot):
            self.replace(event)

    def put(self, record: Service) -> Change | None:
        """Store the record of one node; the change this made, None where it was equal already."""
        old = self._store(record)
        if old is record:
            return None
        change = Change.put(record, old)
        if self._subscribers:
            self._tell(change)
        return change

    def remove(self, name: str, node_id: str, reason: Reason = Reason.REMOVED) -> Change | None:
        """Forget a node; the change this made, None where it was not there."""
        record = self._drop(name, node_id)
        if record is None:
            return None
        change = Change.gone(record, reason)
        if self._subscribers:
            self._tell(change)
        return change

    def _store(self, record: Service) -> Service | None:
        """The record before; ``record`` itself where it was equal, which changes nothing."""
        name = record.name
        node_id = record.nodes[0].id
        records = self._records.get(name)
        if records is None:
            self._records[name] = {node_id: record}
            self._names = None
            return None
        old = records.get(node_id)
        if old is record or (old is not None and old == record):
            return record
        records[node_id] = record
        if name in self._views:
            del self._views[name]
        return old

    def _drop(self, name: str, node_id: str) -> Service | None:
        """The record before, None where there is none."""
        records = self._records.get(name)
        if records is None or node_id not in records:
            return None
        record = records.pop(node_id)
        if not records:
            del self._records[name]
            self._names = None
        if name in self._views:
            del self._views[name]
        return record

    def replace(self, snapshot: Snapshot, name: str | None = None, reason: Reason = Reason.LOST) -> None:
        """Make the catalog (or only ``name`` in it) hold exactly the snapshot, telling each difference."""
        present: dict[str, dict[str, Service]] = {}
        for record in snapshot.records:
            if name is None or record.name == name:
                present.setdefault(record.name, {})[record.nodes[0].id] = record
        for record in tuple(self.records(name)):
            if record.nodes[0].id not in present.get(record.name, {}):
                self.remove(record.name, record.nodes[0].id, reason)
        for each, records in present.items():
            if each in self._records or self._subscribers:
                for record in records.values():
                    self.put(record)
            else:
                self._records[each] = records
                self._names = None

    def get(self, name: str, node_id: str) -> Service | None:
        """The record of one node."""
        records = self._records.get(name)
        return records.get(node_id) if records else None

    def records(self, name: str | None = None) -> Iterator[Service]:
        """The record of every node, of one name or of all."""
        if name is not None:
            yield from self._records.get(name, {}).values()
        else:
            for records in self._records.values():
                yield from records.values()

    def services(self, name: str) -> tuple[Service, ...]:
        """What ``get_service`` answers for this name; empty where it is unknown."""
        if name in self._views:
            return self._views[name]
        records = self._records.get(name)
        if not records:
            return ()
        view = self._views[name] = merge_nodes(records)
        return view

    def names(self) -> tuple[str, ...]:
        """The sorted names with at least one node."""
        if self._names is None:
            self._names = tuple(sorted(self._records))
        return self._names

    def snapshot(self, name: str | None = None) -> Snapshot:
        """Everything (of one name, or of all) as it is now."""
        if name is not None:
            return Snapshot.of(self._records.get(name, {}).values())
        return Snapshot.of(chain.from_iterable(records.values() for records in self._records.values()))

    def __len__(self) -> int:
        """The number of nodes."""
        return sum(map(len, self._records.values()))

    def subscribe(self, name: str | None, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every later change (of one name, or of all) until the result is called."""
        self._tickets += 1
        ticket = self._tickets
        self._subscribers.setdefault(name, {})[ticket] = subscriber

        def unsubscribe() -> None:
            group = self._subscribers.get(name, {})
            group.pop(ticket, None)
            if not group:
                self._subscribers.pop(name, None)

        return unsubscribe

    def _tell(self, change: Change) -> None:
        for key in (change.service.name, None):
            group = self._subscribers.get(key)
            if group:
                for ticket, subscriber in tuple(group.items()):
                    if ticket in group:
                        subscriber(change)

    async def changes(self, name: str | None = None) -> AsyncGenerator[Event, None]:
        """A source for :class:`microreg.watch.Watch`: a Snapshot, then the latest change of each changed node.

        What waits to be taken is at most one change per node.
        """
        dirty: dict[tuple[str, str], Change] = {}
        wake = asyncio.Event()
        broken: list[Exception] = []

        def note(change: Change) -> None:
            dirty[change.service.name, change.node.id] = change
            wake.set()

        def interrupt(error: Exception) -> None:
            broken.append(error)
            wake.set()

        unsubscribe = self.subscribe(name, note)
        ticket = self._tickets
        self._interrupts[ticket] = interrupt
        try:
            yield self.snapshot(name)
            while True:
                await wake.wait()
                wake.clear()
                if broken:
                    raise broken[0]
                batch = tuple(dirty.values())
                dirty.clear()
                for change in batch:
                    yield change
        finally:
            unsubscribe()
            del self._interrupts[ticket]

    def interrupt(self, error: Exception) -> None:
        """Make every running ``changes()`` raise this error: whoever feeds the catalog has lost its store."""
        for callback in tuple(self._interrupts.values()):
            callback(error)
