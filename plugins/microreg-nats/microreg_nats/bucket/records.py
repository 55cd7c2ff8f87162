"""From what stands in a bucket to records, and what a watch must remember for that."""

from __future__ import annotations

import logging

from microreg.codec import decode
from microreg.errors import InvalidService
from microreg.events import Change, Reason
from microreg.model import Node, Service
from microreg_nats.bucket.keys import Keys

__all__ = ["Records", "Standing", "counting"]

log = logging.getLogger("microreg.nats")

_WARNED = 1000
_SHOWN = 200

Identity = tuple[str, str]


class Records:
    """Reads values. What is no record is skipped, with one warning for each key."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._warned: set[int] = set()

    def read(self, subject: str, value: bytes) -> Service | None:
        """The record at this subject, None where it is not what the key promises. The id is the value's affair."""
        try:
            service = decode(value)
            name = self._keys.name(subject)
            if name is None:
                raise InvalidService("the key is not <service>.<node id>")
            if name != service.name:
                raise InvalidService(f"it is a record of service {service.name!r} under the key of another")
            if len(service.nodes) != 1:
                raise InvalidService(f"it holds {len(service.nodes)} nodes, expected exactly one")
        except InvalidService as error:
            self._warn(subject, error)
            return None
        return service

    def _warn(self, subject: str, error: InvalidService) -> None:
        if hash(subject) not in self._warned and len(self._warned) < _WARNED:
            self._warned.add(hash(subject))
            text = subject[:_SHOWN] + ("…" if len(subject) > _SHOWN else "")
            text = text if text.isprintable() else ascii(text)
            log.warning("skipped the record at %s: %s", text, error, extra={"key": text, "error": str(error)})


def counting(found: list[tuple[str, Service]]) -> list[Service]:
    """The records that count, where several keys hold the same node: the last of them in order does."""
    records = {_identity(record): record for _, record in found}
    if len(records) < len(found):
        records = {_identity(record): record for _, record in sorted(found, key=_subject)}
    return list(records.values())


class Standing:
    """What stands where, for a watch: a bucket tells of keys, a watch of nodes.

    A key may hold another node than the one that it is named after, or none, and several keys may hold the same.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._values: dict[str, bytes] = {}
        self._at: dict[str, Service] = {}
        self._odd: dict[Identity, set[str]] = {}
        """The subjects that hold a node and are not its own."""

    def is_new(self, subject: str, value: bytes | None) -> bool:
        """Whether something else stands at the subject than before; remembers it."""
        if value is None:
            return self._values.pop(subject, None) is not None
        if self._values.get(subject) == value:
            return False
        self._values[subject] = value
        return True

    def put(self, subject: str, record: Service | None, reason: Reason = Reason.REMOVED) -> list[Change]:
        """This record stands at the subject from now on, None where it is gone: what has become of its nodes."""
        before = self._at.pop(subject, None)
        if before is not None and self._odd:
            self._forget(subject, _identity(before))
        if record is not None:
            self._at[subject] = record
            if self._own(_identity(record)) != subject:
                self._odd.setdefault(_identity(record), set()).add(subject)
        nodes = dict.fromkeys(_identity(each) for each in (before, record) if each is not None)
        return [self._becomes(node, reason) for node in nodes]

    def _forget(self, subject: str, node: Identity) -> None:
        subjects = self._odd.get(node, set())
        subjects.discard(subject)
        if not subjects:
            self._odd.pop(node, None)

    def _becomes(self, node: Identity, reason: Reason) -> Change:
        subjects = {self._own(node), *self._odd.get(node, ())}
        for subject in sorted(subjects, reverse=True):
            record = self._at.get(subject)
            if record is not None and _identity(record) == node:
                return Change.put(record)
        return Change.gone(Service(node[0], nodes=[Node("", id=node[1])]), reason)

    def _own(self, node: Identity) -> str:
        return self._keys.subject(*node)


def _identity(record: Service) -> Identity:
    """What a node is known by."""
    return record.name, record.nodes[0].id


def _subject(found: tuple[str, Service]) -> str:
    return found[0]
