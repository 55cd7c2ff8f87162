"""From keys and values to records, and what a watch must remember for that."""

from __future__ import annotations

import logging

from microreg.codec import decode
from microreg.errors import InvalidService
from microreg.events import Change
from microreg.model import Node, Service
from microreg_etcd.layouts import Layout

__all__ = ["Records", "Standing"]

log = logging.getLogger("microreg.etcd")

_WARNED = 1000
_SHOWN = 200

Identity = tuple[str, str]


class Records:
    """Reads keys and values. What is no record is skipped, with one warning for each key."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._warned: set[int] = set()

    def read(self, key: bytes, value: bytes) -> tuple[Service, ...]:
        """The records in this value, one for each node; none where it is not what the key promises."""
        try:
            service = decode(value)
            self._check(key, service)
        except InvalidService as error:
            self._warn(key, error)
            return ()
        return (service,) if len(service.nodes) == 1 else tuple(service.records())

    def _check(self, key: bytes, service: Service) -> None:
        """Raise InvalidService unless a service of this name may stand at this key. The id is the value's affair."""
        if not self._layout.holds(key, service.name):
            if self._layout.parse(key) is None:
                raise InvalidService("the key is not <prefix>/<service>/<node id>")
            raise InvalidService(f"it is a record of service {service.name!r} under the key of another")
        if not service.nodes:
            raise InvalidService("it names no node")

    def _warn(self, key: bytes, error: InvalidService) -> None:
        if hash(key) not in self._warned and len(self._warned) < _WARNED:
            self._warned.add(hash(key))
            text = _shown(key)
            log.warning("skipped the record at %s: %s", text, error, extra={"key": text, "error": str(error)})


class Standing:
    """What stands where, for a watch: etcd tells of keys, a watch of nodes.

    A key may hold several nodes, another node than it is named after, or none; and several keys may hold the same
    node: the last of them in order counts then, as it does for who reads the whole range.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._at: dict[bytes, tuple[Service, ...]] = {}
        self._odd: dict[Identity, set[bytes]] = {}
        """The keys that hold a node and are not its own."""

    def load(self, key: bytes, records: tuple[Service, ...]) -> None:
        """This stands at the key."""
        if records:
            self._at[key] = records
        for record in records:
            name, id = _identity(record)
            if self._layout.key(name, id) != key:
                self._odd.setdefault((name, id), set()).add(key)

    def put(self, key: bytes, records: tuple[Service, ...]) -> list[Change]:
        """This stands at the key from now on, nothing where it is gone: what has become of its nodes."""
        before = self._at.pop(key, ())
        if self._odd:
            self._forget(key, before)
        self.load(key, records)
        nodes = dict.fromkeys(map(_identity, (*before, *records)))
        if len(nodes) == len(records) == 1 and not self._odd:
            return [Change.put(records[0])]  # as nearly always: a node at its own key
        return [self._becomes(*node) for node in nodes]

    def _forget(self, key: bytes, records: tuple[Service, ...]) -> None:
        for node in map(_identity, records):
            keys = self._odd.get(node, set())
            keys.discard(key)
            if not keys:
                self._odd.pop(node, None)

    def _becomes(self, name: str, id: str) -> Change:
        record = self._counts(name, id)
        return Change.put(record) if record else Change.gone(Service(name, nodes=[Node("", id=id)]))

    def _counts(self, name: str, id: str) -> Service | None:
        """The record of a node that counts."""
        own = self._layout.key(name, id)
        odd = self._odd.get((name, id))
        for key in sorted({own, *odd}, reverse=True) if odd else (own,):
            for record in reversed(self._at.get(key, ())):
                if _identity(record) == (name, id):
                    return record
        return None


def _identity(record: Service) -> Identity:
    """What a node is known by."""
    return record.name, record.nodes[0].id


def _shown(key: bytes) -> str:
    """A key that anybody may have written, as a log has it: bounded and printable."""
    text = key[:_SHOWN].decode(errors="replace") + ("…" if len(key) > _SHOWN else "")
    return text if text.isprintable() else ascii(text)
