"""From keys and values to records, and what a watch must remember for that."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from microreg.codec import decode
from microreg.errors import InvalidService
from microreg.model import Service
from microreg_etcd.layouts import Layout

__all__ = ["Keys", "Records"]

log = logging.getLogger("microreg.etcd")

_WARNED = 1000


class Records:
    """Reads keys and values. What is no record is skipped, with one warning for each key."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._warned: set[bytes] = set()

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
        told = self._layout.parse(key)
        if told is None:
            raise InvalidService("the key is not <prefix>/<service>/<node id>")
        if self._layout.escape(service.name) != self._layout.escape(told[0]):
            raise InvalidService(f"it is a record of service {service.name!r} under the key of another")
        if not service.nodes:
            raise InvalidService("it names no node")

    def _warn(self, key: bytes, error: InvalidService) -> None:
        if key not in self._warned and len(self._warned) < _WARNED:
            self._warned.add(key)
            text = key.decode(errors="replace")
            log.warning("skipped the record at %s: %s", text, error, extra={"key": text, "error": str(error)})


class Keys:
    """Which nodes stand at a key, for a watch: that a key is gone says nothing of them.

    Remembers only what the key itself does not tell.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._odd: dict[bytes, list[tuple[str, str]]] = {}

    def put(self, key: bytes, records: Iterable[Service]) -> list[tuple[str, str]]:
        """Note what stands at the key now; the nodes that stood there and do not any more."""
        now = [(record.name, record.nodes[0].id) for record in records]
        before = self.gone(key)
        if now != self._told(key):
            self._odd[key] = now
        return [node for node in before if node not in now]

    def gone(self, key: bytes) -> list[tuple[str, str]]:
        """Forget the key; the nodes that stood there, as far as the key and what was noted tell."""
        odd = self._odd.pop(key, None)
        return self._told(key) if odd is None else odd

    def _told(self, key: bytes) -> list[tuple[str, str]]:
        told = self._layout.parse(key)
        return [told] if told else []
