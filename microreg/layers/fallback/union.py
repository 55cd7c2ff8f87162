"""Union: what several registries hold, seen as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from microreg.catalog import Catalog
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Service

__all__ = ["Union"]

_View = dict[tuple[str, str], Service]


class Union:
    """A catalog per part, and one view of all: of each name the nodes of the first part that has any.

    With ``merge`` a name has the nodes of all parts, and of a node that several have the first part's record counts.
    What parts that are ``away`` last told counts only for names that no other part has. ``tell`` is called with each
    change of the view. A change costs the same at every size, unless it is a part's first or last node of a name.
    """

    def __init__(self, parts: int, merge: bool, tell: Callable[[Change], None]) -> None:
        self.away = frozenset[int]()
        self._catalogs = [Catalog() for _ in range(parts)]
        self._merge = merge
        self._tell = tell

    def snapshot(self) -> Snapshot:
        """The view as it is now."""
        return Snapshot.of(self._view({name for catalog in self._catalogs for name in catalog.names()}).values())

    def speakers(self, name: str) -> tuple[int, ...]:
        """The parts whose nodes of this name are shown, the first before all."""
        having = [part for part, catalog in enumerate(self._catalogs) if next(catalog.records(name), None) is not None]
        shown = [part for part in having if part not in self.away] or having
        return tuple(shown if self._merge else shown[:1])

    def apply(self, part: int, event: Event) -> None:
        """Fold what a part has told."""
        catalog = self._catalogs[part]
        if isinstance(event, Snapshot):
            names = {*catalog.names(), *(record.name for record in event.records)}
            self._alter(names, lambda: catalog.apply(event), Reason.REMOVED)
            return
        name, node_id = event.service.name, event.node.id
        known = len([*islice(catalog.records(name), 2)])
        if known == 0 or (known == 1 and event.action is Action.DELETE):
            self._alter({name}, lambda: catalog.apply(event), event.reason or Reason.REMOVED)
            return
        catalog.apply(event)
        if part in self.speakers(name):
            record = self._record(name, node_id)
            gone = event.action is Action.DELETE and record is None
            self._tell(event if gone or record is None else Change.put(record))

    def set_away(self, part: int, away: bool) -> None:
        """What this part last told counts last from now on, or again as it stands in the order."""
        changed = self.away | {part} if away else self.away - {part}

        def set_it() -> None:
            self.away = changed

        if changed != self.away:
            self._alter(self._catalogs[part].names(), set_it, Reason.LOST if away else Reason.REMOVED)

    def _record(self, name: str, node_id: str) -> Service | None:
        found = (self._catalogs[part].get(name, node_id) for part in self.speakers(name))
        return next(filter(None, found), None)

    def _view(self, names: Iterable[str]) -> _View:
        return {
            (name, record.nodes[0].id): record
            for name in names
            for part in reversed(self.speakers(name))
            for record in self._catalogs[part].records(name)
        }

    def _alter(self, names: Iterable[str], change: Callable[[], None], reason: Reason) -> None:
        """Tell what a change makes of these names: what is there before what is gone, so that no name blinks."""
        before = self._view(names)
        change()
        after = self._view(names)
        for key, record in after.items():
            if before.get(key) != record:
                self._tell(Change.put(record, before.get(key)))
        for key, record in before.items():
            if key not in after:
                self._tell(Change.gone(record, reason))
