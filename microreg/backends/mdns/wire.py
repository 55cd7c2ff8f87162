"""DNS messages as multicast DNS uses them (RFC 1035 section 4, RFC 6762 section 18): read and written.

Names are the uncompressed wire form in lower case, without ambiguity about dots inside labels: comparing two
of them compares names as DNS does. Only what service discovery needs is understood; the rest is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

__all__ = [
    "ANY",
    "IPV4",
    "IPV6",
    "MAX_PACKET",
    "PTR",
    "RESPONSE",
    "SRV",
    "TXT",
    "Malformed",
    "Message",
    "Question",
    "Record",
    "Text",
    "dotted",
    "encode",
    "name",
    "parse",
]

IPV4, PTR, TXT, IPV6, SRV, ANY = 1, 12, 16, 28, 33, 255
"""Record types; those of IPv4 and IPv6 addresses are called A and AAAA (RFC 1035, RFC 3596)."""
RESPONSE = 0x8400
"""Flags of every answer: response, authoritative (RFC 6762 section 18)."""
MAX_PACKET = 9000
"""Bytes of the largest packet that is sent or read (RFC 6762 section 17)."""

_IN = 1
_TOP_BIT = 0x8000
_MAX_NAME = 255
_MAX_HOPS = 32
_HEADER = struct.Struct(">6H")
_QUESTION = struct.Struct(">2H")
_RECORD = struct.Struct(">2HIH")
_SRV_HEAD = 6
_SMALLEST = 5


class Malformed(ValueError):
    """What was received is no DNS message."""


class Question(NamedTuple):
    """Who has records of this name and type?"""

    name: bytes
    kind: int


class Record(NamedTuple):
    """A resource record: ``data`` is the raw rdata, ``target`` the name it ends with (PTR, SRV), if any.

    ``unique`` is the cache-flush bit: nobody else has records of this name and type (RFC 6762 section 10.2).
    """

    name: bytes
    kind: int
    ttl: int
    data: bytes = b""
    target: bytes = b""
    unique: bool = False


class Text(NamedTuple):
    """A TXT record without its name."""

    ttl: int
    data: bytes


class Message:
    """A message as read: what most messages are of interest for at once, the records when asked for.

    ``zone`` is where link-local addresses in it are valid: the interface that it came in on.
    """

    def __init__(
        self, id: int, response: bool, questions: Sequence[Question], texts: Sequence[Text], rest: _Rest
    ) -> None:
        self.id = id
        self.response = response
        self.questions = questions
        self.texts = texts
        self.leaving = rest.leaving
        self.empty = not rest.count
        self.zone = ""
        self._rest = rest

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """Those of all sections, without the types that are not understood. Raises Malformed."""
        try:
            return tuple(self._rest.records())
        except (IndexError, struct.error) as error:
            raise Malformed("a truncated record") from error


def name(*labels: str) -> bytes:
    """The wire form of a name. Labels have 1 to 63 bytes."""
    parts = [label.encode().lower() for label in labels]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def dotted(wire: bytes) -> str:
    """A name as text, without the dot at its end; for people, and for host names."""
    labels: list[str] = []
    at = 0
    while at < len(wire) and wire[at]:
        labels.append(wire[at + 1 : at + 1 + wire[at]].decode(errors="replace"))
        at += 1 + wire[at]
    return ".".join(labels)


def parse(data: bytes) -> Message:
    """Read a message; its records are only walked over. Raises Malformed, and nothing else, for what is none."""
    try:
        identity, flags, *counts = _HEADER.unpack_from(data)
        if sum(counts) * _SMALLEST > len(data):
            raise Malformed(f"{sum(counts)} entries announced in {len(data)} bytes")
        reader = _Rest(data, counts[0], sum(counts[1:]))
        questions = [reader.question() for _ in range(counts[0])]
        return Message(identity, bool(flags & _TOP_BIT), questions, reader.walk(), reader)
    except (IndexError, struct.error) as error:
        raise Malformed(f"truncated message of {len(data)} bytes") from error


class _Rest:
    """What follows the header."""

    def __init__(self, data: bytes, questions: int, count: int) -> None:
        self.data = data
        self.at = _HEADER.size
        self.count = count
        self.leaving = False
        self._names: dict[int, bytes] = {}

    def question(self) -> Question:
        wire = self._name()
        kind, _ = _QUESTION.unpack_from(self.data, self.at)
        self.at += _QUESTION.size
        return Question(wire, kind)

    def walk(self) -> list[Text]:
        """Find the TXT records, and whether any record is a goodbye; names are passed over."""
        data, at, unpack = self.data, self.at, _RECORD.unpack_from
        texts: list[Text] = []
        for _ in range(self.count):
            while length := data[at]:
                if length >= 0xC0:
                    at += 1
                    break
                at += 1 + length
            kind, cls, ttl, length = unpack(data, at + 1)
            start = at + 11
            at = start + length
            if kind == TXT and cls & ~_TOP_BIT == _IN:
                texts.append(Text(ttl, data[start:at]))
            if not ttl:
                self.leaving = True
        if at > len(data):
            raise Malformed("a record goes beyond the message")
        return texts

    def records(self) -> Iterator[Record]:
        for _ in range(self.count):
            record = self._record()
            if record is not None:
                yield record

    def _record(self) -> Record | None:
        wire = self._name()
        kind, cls, ttl, length = _RECORD.unpack_from(self.data, self.at)
        start = self.at + _RECORD.size
        end = self.at = start + length
        if end > len(self.data):
            raise Malformed(f"a record of {length} bytes goes beyond the message")
        if cls & ~_TOP_BIT != _IN:
            return None
        unique = bool(cls & _TOP_BIT)
        if kind in (IPV4, IPV6, TXT):
            return Record(wire, kind, ttl, self.data[start:end], b"", unique)
        if kind not in (PTR, SRV):
            return None
        head = _SRV_HEAD if kind == SRV else 0
        self.at = start + head
        target = self._name()
        if self.at != end:
            raise Malformed("a name does not end where its record does")
        return Record(wire, kind, ttl, self.data[start : start + head], target, unique)

    def _name(self) -> bytes:
        """The name here. Pointers only go backwards, so that no loop is possible."""
        data, start = self.data, self.at
        key = start
        if data[start] >= 0xC0:
            key = (data[start] & 0x3F) << 8 | data[start + 1]
            if key in self._names:
                self.at = start + 2
                return self._names[key]
        parts: list[bytes] = []
        at = lowest = start
        end = size = hops = 0
        while length := data[at]:
            if length >= 0xC0:
                end = end or at + 2
                at = (length & 0x3F) << 8 | data[at + 1]
                hops += 1
                if at >= lowest or hops > _MAX_HOPS:
                    raise Malformed("a compressed name points forwards, or too often")
                lowest = at
                continue
            stop = at + 1 + length
            size += 1 + length
            if length >= 0x40 or stop > len(data) or size >= _MAX_NAME:
                raise Malformed("a label or name is too long")
            parts.append(data[at:stop])
            at = stop
        self.at = end or at + 1
        wire = self._names[key] = b"".join(parts).lower() + b"\0"
        return wire


def encode(
    questions: Iterable[Question] = (),
    answers: Sequence[Record] = (),
    additionals: Sequence[Record] = (),
    *,
    flags: int = 0,
    id: int = 0,
    unicast: bool = False,
) -> bytes:
    """Write a message, names compressed. ``unicast`` leaves the cache-flush bits out (RFC 6762 section 6.7)."""
    asked = tuple(questions)
    out = bytearray(_HEADER.pack(id, flags, len(asked), len(answers), 0, len(additionals)))
    names: dict[bytes, int] = {}
    for question in asked:
        _write_name(out, question.name, names)
        out += _QUESTION.pack(question.kind, _IN)
    for record in (*answers, *additionals):
        _write_name(out, record.name, names)
        start = len(out) + _RECORD.size
        out += _RECORD.pack(record.kind, _IN | _TOP_BIT * (record.unique and not unicast), record.ttl, 0)
        out += record.data
        if record.target:
            _write_name(out, record.target, names)
        struct.pack_into(">H", out, start - 2, len(out) - start)
    return bytes(out)


def _write_name(out: bytearray, wire: bytes, names: dict[bytes, int]) -> None:
    at = 0
    while wire[at]:
        rest = wire[at:]
        known = names.get(rest)
        if known is not None:
            out += (0xC000 | known).to_bytes(2, "big")
            return
        if len(out) < 0x4000:
            names[rest] = len(out)
        stop = at + 1 + wire[at]
        out += wire[at:stop]
        at = stop
    out.append(0)
