"""Backlog: what a consumer has been told, and what it has yet to hear.

Between two deliveries the changes of a node are coalesced, so that it is bounded by the number of nodes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain

from microreg.events import Change, Event, Reason, Snapshot
from microreg.model import Service

__all__ = ["Backlog"]


class Backlog:
    """Nodes by (name, id): ``note`` what the store holds, ``take`` what the consumer does not know yet.

    The first thing to take is a Snapshot of everything noted until then. Each costs O(1), whatever the size.
    """

    def __init__(self) -> None:
        self.told = False
        """Whether the Snapshot has been taken."""
        self._seen: dict[str, dict[str, Service]] = {}
        self._dirty: OrderedDict[tuple[str, str], tuple[Service | None, Reason | None]] = OrderedDict()

    def __len__(self) -> int:
        """How many changes wait to be taken."""
        return len(self._dirty)

    def note(self, key: tuple[str, str], record: Service | None, reason: Reason | None) -> None:
        """The store now holds ``record`` for this node, or no record, for this reason."""
        if not self.told:
            self._deliver(*key, record, reason)
            return
        records = self._seen.get(key[0])
        seen = records.get(key[1]) if records else None
        if record is seen or record == seen:
            self._dirty.pop(key, None)
            return
        waiting = self._dirty.get(key)
        if waiting is None or waiting[0] != record:
            self._dirty[key] = record, reason

    def take(self) -> Event | None:
        """The next thing to tell, None while there is nothing new."""
        if not self.told:
            self.told = True
            return Snapshot.of(chain.from_iterable(records.values() for records in self._seen.values()))
        while self._dirty:
            (name, node_id), (record, reason) = self._dirty.popitem(last=False)
            change = self._deliver(name, node_id, record, reason)
            if change is not None:
                return change
        return None

    def keys(self) -> Iterator[tuple[str, str]]:
        """The nodes that are known or waiting, as of this call: others may note and take while it is iterated."""
        # What is taken meanwhile goes from dirty to seen: every key that matters is in these copies.
        known = [(name, tuple(records)) for name, records in self._seen.items()]
        return chain(((name, node_id) for name, ids in known for node_id in ids), tuple(self._dirty))

    def _deliver(self, name: str, node_id: str, record: Service | None, reason: Reason | None) -> Change | None:
        records = self._seen.get(name)
        if record is not None:
            if records is None:
                records = self._seen[name] = {}
            previous = records.get(node_id)
            records[node_id] = record
            return Change.put(record, previous)
        gone = records.pop(node_id, None) if records else None
        if gone is None:
            return None
        if not records:
            del self._seen[name]
        return Change.gone(gone, reason or Reason.REMOVED)
