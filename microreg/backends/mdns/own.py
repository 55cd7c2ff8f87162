"""A node of our own, as the DNS records that tell of it (RFC 6763), and how many of them fit a packet."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntFlag
from typing import NamedTuple

from microreg.backends.mdns import names, records
from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.names import SERVICE_TYPE, instance, key_of, subtype
from microreg.backends.mdns.wire import IPV4, IPV6, PTR, RESPONSE, SRV, TXT, Question, Record, encode
from microreg.errors import RecordTooLarge
from microreg.model import Service
from microreg.net import join_address

__all__ = ["Form", "Own", "Parts", "Want", "packets", "with_id"]

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


class Form(NamedTuple):
    """A node with one of the addresses of this machine, and the DNS records that tell of it."""

    record: Service
    txt: bytes
    target: bytes
    itself: tuple[Record, Record]
    hosts: tuple[Record, ...]


class Own:
    """A node that this registry announces: one generation, from its first ``register`` until it leaves.

    Where its host came as the ``chosen`` one, it is told on every link with the address that this machine has there
    (RFC 6762 section 6.2: what is told on a link is to be of use there).
    """

    def __init__(
        self, record: Service, ttl: int, revision: int, chosen: Callable[[], str | None] = lambda: None
    ) -> None:
        self._chosen = chosen
        self._host = ""
        self._roams = False
        self.key = key_of(record)
        self.identity = b""
        self.label = instance(*self.key)
        self.subtype = subtype(record.name)
        self.secret = os.urandom(8).hex().encode()
        self.seal = records.seal(self.secret)
        self.sent: dict[Link, float] = {}
        self.announced = 0.0
        self.step = 0
        self.expires = 0.0
        self.challenged = float("-inf")
        self.rival = 0
        self.fresh_until = float("inf")
        self.yielded = False
        self.spared = False
        self.update(record, ttl, revision)

    def update(self, record: Service, ttl: int, revision: int) -> None:
        """Tell something else from now on. Raises RecordTooLarge and leaves all as it was."""
        host = record.nodes[0].host
        form = self._form(record, host, ttl, revision)
        if host != self._host:  # one that was told stays so, also when it is the chosen one some day
            self._host, self._roams = host, host == self._chosen()
        self.record, self.ttl, self.revision = record, ttl, revision
        self.identity = records.identity_in(form.txt)
        self._forms = {host: form}
        self._answers: dict[tuple[Want, Link | None], Parts] = {}

    def on(self, link: Link | None) -> Form:
        """How it is told on this link."""
        there = link.host if link is not None and self._roams else self._host
        form = self._forms.get(there)
        if form is None:
            try:
                form = self._form(self.record, there, self.ttl, self.revision)
            except RecordTooLarge:  # by the few bytes that this address is longer
                form = self._forms[self._host]
            self._forms[there] = form
        return form

    def says(self, txt: bytes) -> bool:
        """Whether this is what we tell ourselves, on one link or another."""
        return any(form.txt == txt for form in self._forms.values())

    def answer(self, want: Want, link: Link | None = None) -> Parts:
        """Answers and additional records (RFC 6763 section 12) for what is wanted, on this link.

        The very same object until the next update: whoever packed it can tell that nothing has changed.
        """
        parts = self._answers.get((want, link))
        if parts is None:
            pointers = self._pointers(want, self.ttl)
            form = self.on(link)
            node = want & Want.NODE
            parts = ((*pointers, *form.itself), form.hosts) if node else (pointers, (*form.itself, *form.hosts))
            self._answers[want, link] = parts
        return parts

    def goodbye(self, revision: int, *, expired: bool) -> Parts:
        """The records that take the node back (RFC 6762 section 10.1)."""
        txt = records.encode_goodbye(self.record, revision, self.secret, expired=expired)
        srv = self.on(None).itself[0]._replace(ttl=0)
        return (*self._pointers(Want.ALL, 0), srv, Record(self.label, TXT, 0, txt, b"", True)), ()

    def _form(self, record: Service, there: str, ttl: int, revision: int) -> Form:
        """The records with the host ``there``: no zone of ours is told, which nobody else knows."""
        node = record.nodes[0]
        if there != node.host:
            record = record.with_nodes(node.replace(address=join_address(there, node.port)))
        told = record
        if "%" in there:
            told = record.with_nodes(node.replace(address=join_address(there.partition("%")[0], node.port)))
        txt = records.encode(told, revision, self.secret)
        target = names.host(there) or names.host("invalid") or b"\0"
        srv = bytes(4) + node.port.to_bytes(2, "big")
        itself = Record(self.label, SRV, ttl, srv, target, True), Record(self.label, TXT, ttl, txt, b"", True)
        return Form(record, txt, target, itself, _hosts(there, target, ttl))

    def _pointers(self, want: Want, ttl: int) -> tuple[Record, ...]:
        names = ((Want.BASE, SERVICE_TYPE), (Want.SUBTYPE, self.subtype))
        return tuple(Record(name, PTR, ttl, b"", self.label) for each, name in names if want & each)


def _hosts(name: str, target: bytes, ttl: int) -> tuple[Record, ...]:
    try:
        packed = ipaddress.ip_address(name.partition("%")[0]).packed
    except ValueError:
        return ()
    return (Record(target, IPV4 if len(packed) == 4 else IPV6, ttl, packed, b"", True),)


def packets(parts: Iterable[Parts], questions: Sequence[Question] = (), *, unicast: bool = False) -> Iterator[bytes]:
    """Responses of about 1,400 bytes with all of these; a node that is larger has a packet of its own.

    A one-shot question is answered ``unicast``: it is repeated, no cache is told to flush, and they still need
    the id of the question (:func:`with_id`).
    """
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
            yield encode(questions, tuple(answers), tuple(additionals), flags=RESPONSE, unicast=unicast)
            answers, additionals, names, size = {}, {}, set[bytes](), head
        answers.update(dict.fromkeys(first))
        additionals.update(dict.fromkeys(more))
        names.update(record.name for record in new)
        size += added
    if answers:
        yield encode(questions, tuple(answers), tuple(additionals), flags=RESPONSE, unicast=unicast)


def with_id(packet: bytes, id: int) -> bytes:
    """The same packet with the id of the question that it answers (RFC 6762 section 6.7)."""
    return id.to_bytes(2, "big") + packet[2:]
