"""A node of our own, as the DNS records that tell of it (RFC 6763), and how many of them fit a packet."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator, Sequence
from enum import IntFlag

from microreg.backends.mdns import records
from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.names import SERVICE_TYPE, host, instance, subtype
from microreg.backends.mdns.wire import IPV4, IPV6, PTR, RESPONSE, SRV, TXT, Question, Record, encode
from microreg.model import Service

__all__ = ["Own", "Parts", "Want", "packets"]

_PACKET = 1400
_PER_RECORD = 14
_HEADER = 12 + 40

Parts = tuple[tuple[Record, ...], tuple[Record, ...]]
"""Answers and additional records."""


class Want(IntFlag):
    """What of a node was asked for: its place in the list of all, of its name, or itself."""

    BASE = 1
    SUBTYPE = 2
    NODE = 4
    ALL = 7


class Own:
    """A node that this registry announces: one generation, from its first ``register`` until it leaves."""

    def __init__(self, record: Service, ttl: int, revision: int) -> None:
        self.key = record.name, record.nodes[0].id
        self.identity = b""
        self.label = instance(*self.key)
        self.subtype = subtype(record.name)
        self.secret = os.urandom(8).hex().encode()
        self.sent: dict[Link, float] = {}
        self.announced = 0.0
        self.step = 0
        self.challenged = float("-inf")
        self.rival = 0
        self.fresh_until = float("inf")
        self.yielded = False
        self.update(record, ttl, revision)

    def update(self, record: Service, ttl: int, revision: int) -> None:
        """Tell something else from now on. Raises RecordTooLarge and leaves all as it was."""
        txt = records.encode(record, revision, self.secret)
        self.record, self.ttl, self.revision, self.txt = record, ttl, revision, txt
        self.identity = records.identity_in(txt)
        node = record.nodes[0]
        self.target = host(node.host) or host("invalid") or b"\0"
        srv = bytes(4) + node.port.to_bytes(2, "big")
        self.itself = (
            Record(self.label, SRV, ttl, srv, self.target, True),
            Record(self.label, TXT, ttl, txt, b"", True),
        )
        self.hosts = _hosts(node.host, self.target, ttl)

    def answer(self, want: Want) -> Parts:
        """Answers and additional records (RFC 6763 section 12) for what is wanted."""
        pointers = self._pointers(want, self.ttl)
        if want & Want.NODE:
            return (*pointers, *self.itself), self.hosts
        return pointers, (*self.itself, *self.hosts)

    def goodbye(self, revision: int, *, expired: bool) -> Parts:
        """The records that take the node back (RFC 6762 section 10.1)."""
        txt = records.encode_goodbye(self.record, revision, self.secret, expired=expired)
        srv = self.itself[0]._replace(ttl=0)
        return (*self._pointers(Want.ALL, 0), srv, Record(self.label, TXT, 0, txt, b"", True)), ()

    def _pointers(self, want: Want, ttl: int) -> tuple[Record, ...]:
        names = ((Want.BASE, SERVICE_TYPE), (Want.SUBTYPE, self.subtype))
        return tuple(Record(name, PTR, ttl, b"", self.label) for each, name in names if want & each)


def _hosts(name: str, target: bytes, ttl: int) -> tuple[Record, ...]:
    try:
        packed = ipaddress.ip_address(name.partition("%")[0]).packed
    except ValueError:
        return ()
    return (Record(target, IPV4 if len(packed) == 4 else IPV6, ttl, packed, b"", True),)


def packets(parts: Iterable[Parts], questions: Sequence[Question] = (), id: int | None = None) -> Iterator[bytes]:
    """Responses of about 1,400 bytes with all of these; a node that is larger has a packet of its own.

    With an ``id``, they answer a one-shot question: it is repeated, and no cache is told to flush.
    """
    unicast = id is not None
    head = _HEADER + sum(len(question.name) + 4 for question in questions)
    answers: dict[Record, None] = {}
    additionals: dict[Record, None] = {}
    names: set[bytes] = set()
    size = head
    for first, more in parts:
        new = [record for record in (*first, *more) if record not in additionals]
        added = sum(_PER_RECORD + len(record.data) for record in new)
        added += sum(name[0] + 1 for name in {record.name for record in new} - names)
        if answers and size + added > _PACKET:
            yield encode(questions, tuple(answers), tuple(additionals), flags=RESPONSE, id=id or 0, unicast=unicast)
            answers, additionals, names, size = {}, {}, set[bytes](), head
        answers.update(dict.fromkeys(first))
        additionals.update(dict.fromkeys(more))
        names.update(record.name for record in new)
        size += added
    if answers:
        yield encode(questions, tuple(answers), tuple(additionals), flags=RESPONSE, id=id or 0, unicast=unicast)
