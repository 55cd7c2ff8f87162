"""What a node's TXT record says (RFC 6763 section 6), written for people and programs alike.

``n`` exact service name (always first: foreign records are told apart by their first bytes) · ``i`` node id ·
``r`` revision · ``g`` seal · ``a`` address · ``v`` version · ``s`` status · ``m.<key>`` node metadata ·
``d.<key>`` service metadata. An entry ``+`` continues the one before it, for values beyond 255 bytes. A record
with endpoints, or one that would not fit a packet, carries ``z`` instead of what follows ``g``: the JSON form
of the record, compressed. A goodbye carries ``k``, the secret behind the seal, and ``x`` where the record
expired: whoever knows the seal believes it at once, and nobody else can have made it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from microreg import codec
from microreg.backends.mdns.names import Key
from microreg.errors import InvalidService, RecordTooLarge
from microreg.model import FrozenDict, Node, Service, Status

__all__ = [
    "COMFORTABLE",
    "MAX_AHEAD",
    "MAX_TXT",
    "Budget",
    "Claim",
    "Text",
    "claim_in",
    "decode",
    "encode",
    "encode_goodbye",
    "identity_in",
    "name_in",
    "seal",
    "too_far",
]

COMFORTABLE = 1150
"""Bytes of TXT up to which a record stays as text: with the other records of its node it fits one packet."""
MAX_TXT = 8000
"""Bytes of TXT that a record may have, compressed: more does not fit the largest packet (RFC 6762 section 17)."""
MAX_AHEAD = 86_400.0
"""Seconds that a revision may be ahead of the clock: beyond that it was forged, or a clock is wrong by days."""

_MAX_STRING = 255
_SLACK = 3600.0
_REVISION = re.compile(rb"[0-9]{1,15}")
_STATUS = {str(status): status for status in Status}


@dataclass(frozen=True, slots=True)
class Text:
    """A TXT record as read. ``record`` is None in a goodbye."""

    name: str
    id: str
    revision: int
    seal: bytes
    record: Service | None
    secret: bytes
    expired: bool

    @property
    def key(self) -> Key:
        """The node that it tells of."""
        return self.name, self.id


class Claim(NamedTuple):
    """Who says what of a node: the revision, -1 where it is malformed; the seal; whether it is a goodbye."""

    revision: int
    seal: bytes
    leaving: bool


@dataclass(slots=True)
class Budget:
    """Bytes that may still be inflated; below zero once that was too many."""

    left: int


def seal(secret: bytes) -> bytes:
    """What a record shows of its secret."""
    return sha256(secret).hexdigest()[:16].encode()


def encode(record: Service, revision: int, secret: bytes) -> bytes:
    """The TXT record of a node. Raises RecordTooLarge, with both sizes."""
    node = record.nodes[0]
    head = [*_identity(record, revision), (b"g", seal(secret))]
    if not record.endpoints:
        text = _pack([*head, *_entries(record)])
        if len(text) <= COMFORTABLE:
            return text
    text = _pack([*head, (b"z", zlib.compress(codec.encode(record), 9))])
    if len(text) > MAX_TXT:
        raise RecordTooLarge(
            f"record of node {node.id!r} of service {record.name!r} takes {len(text)} bytes in mDNS, compressed; "
            f"at most {MAX_TXT} fit a packet: carry less metadata or fewer endpoints, or use a registry with a server",
            size=len(text),
            limit=MAX_TXT,
        )
    return text


def encode_goodbye(record: Service, revision: int, secret: bytes, *, expired: bool) -> bytes:
    """The TXT record of a node that leaves."""
    entries = [*_identity(record, revision), (b"k", secret)]
    return _pack([*entries, (b"x", b"expired")] if expired else entries)


def name_in(txt: bytes) -> bytes:
    """The service name in a TXT record of ours, without looking at the rest; empty where there is none."""
    if txt[1:3] != b"n=":
        return b""
    return txt[3 : 1 + txt[0]]


def identity_in(txt: bytes) -> bytes:
    """The first two entries of a TXT record, which in ours are name and id; short where there are none."""
    first = 1 + txt[0] if txt else 0
    return txt[: first + 1 + txt[first]] if first < len(txt) else b""


def claim_in(txt: bytes) -> Claim:
    """What a TXT record claims, without reading the rest."""
    values = _unpack(txt)
    revision = values.get(b"r", b"0")
    secret = values.get(b"k", b"")
    mark = seal(secret) if secret else values.get(b"g", b"")
    return Claim(int(revision) if _REVISION.fullmatch(revision) else -1, mark, bool(secret))


def too_far(revision: int, now: float) -> bool:
    """Whether a revision is too far ahead of the clock ``now`` (seconds) to be believed.

    Nothing that is received within :data:`MAX_AHEAD` may be out of reach: our own is one above it then, and is
    read by others whose clock is behind. So there is an hour more.
    """
    return revision > (now + MAX_AHEAD + _SLACK) * 1000


def decode(txt: bytes, address: str = "", budget: Budget | None = None) -> Text:
    """Read a TXT record; ``address`` is that of its SRV record, for those who do not write ``a``.

    What it takes to inflate it is taken from the ``budget``. Raises InvalidService for what is no record of a
    node.
    """
    values = _unpack(txt)
    name = codec.lenient_text(_strict(values.get(b"n", b"")), "service name")
    address = _strict(values[b"a"]) if b"a" in values else address
    node_id = codec.lenient_text(_strict(values.get(b"i", b"")) or address, "node id")
    revision = values.get(b"r", b"0")
    if not _REVISION.fullmatch(revision):
        raise InvalidService(f"revision {revision[:20]!r}: expected up to 15 digits")
    secret = values.get(b"k", b"")
    goodbye = bool(secret)
    record = None if goodbye else _record(values, name, node_id, address, budget or Budget(0))
    return Text(name, node_id, int(revision), values.get(b"g", b""), record, secret, b"x" in values)


def _identity(record: Service, revision: int) -> list[tuple[bytes, bytes]]:
    return [(b"n", record.name.encode()), (b"i", record.nodes[0].id.encode()), (b"r", b"%d" % revision)]


def _entries(record: Service) -> Iterator[tuple[bytes, bytes]]:
    node = record.nodes[0]
    yield b"a", node.address.encode()
    if record.version:
        yield b"v", record.version.encode()
    if node.status is not Status.PASSING:
        yield b"s", str(node.status).encode()
    for prefix, metadata in ((b"m.", node.metadata), (b"d.", record.metadata)):
        for key, value in sorted(metadata.items()):
            yield prefix + key.encode(), value.encode()


def _record(values: dict[bytes, bytes], name: str, node_id: str, address: str, budget: Budget) -> Service:
    if b"z" in values:
        return _inflate(values[b"z"], name, node_id, budget)
    if not address:
        raise InvalidService("there is no address")
    metadata: dict[bytes, dict[str, str]] = {b"m.": {}, b"d.": {}}
    for key, value in values.items():
        if key[:2] in metadata and key[2:]:
            metadata[key[:2]][_lenient(key[2:])] = _lenient(value)
    status = _STATUS.get(_lenient(values.get(b"s", b"")), Status.PASSING)
    node = _reachable(Node(address, id=node_id, metadata=metadata[b"m."], status=status))
    return Service(name, _lenient(values.get(b"v", b"")), FrozenDict(metadata[b"d."]), (), (node,))


def _inflate(data: bytes, name: str, node_id: str, budget: Budget) -> Service:
    """The compressed form, bounded: a few bytes can claim to be gigabytes."""
    engine = zlib.decompressobj()
    try:
        text = engine.decompress(data, codec.MAX_RECORD)
    except zlib.error as error:
        budget.left -= codec.MAX_RECORD
        raise InvalidService(f"what is compressed does not open: {error}") from None
    budget.left -= len(text)
    if not engine.eof:
        raise InvalidService(f"what is compressed is cut off, or has more than {codec.MAX_RECORD} bytes")
    record = codec.decode(text)
    if record.name != name or [node.id for node in record.nodes] != [node_id]:
        raise InvalidService("what is compressed is the record of another node")
    _reachable(record.nodes[0])
    return record


def _reachable(node: Node) -> Node:
    """The node, if its address is printable and a ``host:port``. Raises InvalidService."""
    codec.lenient_text(node.address, "address")
    if not node.host or not node.port:
        raise InvalidService(f"address {node.address[:80]!r}: expected host:port")
    return node


def _pack(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    out = bytearray()
    for key, value in entries:
        text = key + b"=" + value
        while len(text) > _MAX_STRING:
            out.append(_MAX_STRING)
            out += text[:_MAX_STRING]
            text = b"+=" + text[_MAX_STRING:]
        out.append(len(text))
        out += text
    return bytes(out)


def _unpack(txt: bytes) -> dict[bytes, bytes]:
    """The entries; of two with one key the first counts (RFC 6763 section 6.4)."""
    parts: dict[bytes, list[bytes]] = {}
    current: list[bytes] = []
    at = 0
    while at < len(txt):
        end = at + 1 + txt[at]
        key, equals, value = txt[at + 1 : end].partition(b"=")
        at = end
        if key == b"+" and equals:
            current.append(value)
        else:
            current = [value]
            if key:
                parts.setdefault(key, current)
    return {key: b"".join(pieces) for key, pieces in parts.items()}


def _strict(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidService(f"{value[:40]!r} is not UTF-8") from None


def _lenient(value: bytes) -> str:
    return value.decode(errors="replace")
