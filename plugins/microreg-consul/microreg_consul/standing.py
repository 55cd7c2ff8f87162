"""What stands in an agent under a name, and what has become of it since."""

from __future__ import annotations

from collections.abc import Iterable

from microreg.catalog import Catalog
from microreg.events import Reason
from microreg.model import Service
from microreg_consul.health import Entry, checked
from microreg_consul.records import Records

__all__ = ["Standing"]


class Standing:
    """The nodes in the entries of one name: ``records`` by id, and the ids of those that have ``expired``.

    A name in other letters than these is another one, although Consul answers both.
    """

    def __init__(self, name: str, entries: Iterable[Entry], reader: Records) -> None:
        self.name = name
        self.records: dict[str, Service] = {}
        self.expired: set[str] = set()
        for entry in entries:
            record = reader.read(entry)
            if record is None or record.name != name:
                continue
            found = checked(record, entry)
            if found is None:
                self.expired.add(record.nodes[0].id)
            else:
                # One id at two agents is one node: always the same one of them counts, whoever reads.
                self.records.setdefault(record.nodes[0].id, found)

    def enter(self, catalog: Catalog) -> None:
        """Let the catalog have this, and tell why nodes are gone: who has expired is still there, as critical."""
        for record in tuple(catalog.records(self.name)):
            id = record.nodes[0].id
            if id not in self.records:
                catalog.remove(self.name, id, Reason.EXPIRED if id in self.expired else Reason.DEREGISTERED)
        for record in self.records.values():
            catalog.put(record)
