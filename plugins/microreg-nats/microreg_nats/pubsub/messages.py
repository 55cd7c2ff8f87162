"""The messages of eddieraa/registry, and how a record of ours travels in them.

Its programs know a name, a version, an address, a map of strings and three statuses. What else there is stands in that
map, under :data:`RESERVED` keys. A *register* also says how long it holds: another one is to come every ``Duration``
milliseconds, and who hears none for one and a half times as long gives the node up. No clocks are compared: for us that
time begins when the message is heard.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import msgspec

from microreg import Endpoint, FrozenDict, Node, Service, Status, codec
from microreg.errors import InvalidService
from microreg.rules import MAX_TTL

__all__ = ["RESERVED", "Told", "register", "told", "unregister", "withdrawn"]

RESERVED = ("microreg.id", "microreg.status", "microreg.endpoints", "microreg.metadata")
"""Keys of ``kv`` for what the protocol cannot carry: node id, a status that it does not know, and as JSON the
endpoints and the service's metadata. Metadata of a node that begins with ``microreg.`` gets another one before it."""

_ID, _STATUS, _ENDPOINTS, _METADATA = RESERVED
_PREFIX = "microreg."
_FACTOR = 1.5
_LONGEST = math.ceil(MAX_TTL * 1000 / _FACTOR)
_THEIRS = {"passing": Status.PASSING, "warning": Status.WARNING, "critical": Status.CRITICAL}
_OURS = {str(status): status for status in Status}


class _Times(msgspec.Struct):
    registered: int | None = msgspec.field(name="Registered", default=None)
    duration: int | None = msgspec.field(name="Duration", default=None)


class _Message(msgspec.Struct, omit_defaults=True):
    """In the order in which eddieraa/registry writes it; what is empty is left out."""

    net: str | None = ""
    add: str | None = ""
    url: str | None = ""
    name: str | None = ""
    v: str | None = ""
    h: str | None = ""
    kv: dict[str, str | None] | None = None
    t: _Times | None = None
    status: str | None = ""


class _Parts(msgspec.Struct):
    metadata: msgspec.Raw
    endpoints: msgspec.Raw


_read = msgspec.json.Decoder(_Message).decode
_split = msgspec.json.Decoder(_Parts).decode
_write = msgspec.json.Encoder().encode


class Told(NamedTuple):
    """What a register says: the record, and for how many seconds from now."""

    record: Service
    seconds: float


def register(record: Service, seconds: float, *, host: str, now: float) -> bytes:
    """What tells of this record, for so many seconds. ``now`` is wall-clock time, of use to eddieraa/registry only."""
    message = _message(record, host)
    duration = max(1, math.ceil(seconds * 1000 / _FACTOR))
    message.t = _Times(int(now * 1000), duration)
    status = record.nodes[0].status
    if status is not Status.PASSING:
        message.status = str(status if status in _THEIRS.values() else Status.CRITICAL)
    return _write(message)


def unregister(record: Service, *, host: str, by_address: bool = False) -> bytes:
    """What takes this record back; ``by_address``: for who knows nodes by their address only, so not for us."""
    message = _message(record, host)
    if by_address and message.kv:
        message.kv = {key: value for key, value in message.kv.items() if key != _ID} or None
    return _write(message)


def told(data: bytes) -> Told:
    """What a register message says. Raises InvalidService for what is none."""
    message = _decode(data)
    duration = (message.t and message.t.duration) or 0
    if duration <= 0:
        raise InvalidService("it does not say for how long (t.Duration): expected milliseconds, more than 0")
    seconds = min(duration, _LONGEST) * _FACTOR / 1000
    kv = message.kv or {}
    status = _OURS.get(kv.get(_STATUS) or "") or _THEIRS.get(message.status or "", Status.PASSING)
    metadata = {_bare(key): value or "" for key, value in kv.items() if key not in RESERVED}
    shared = _shared(kv.get(_METADATA), kv.get(_ENDPOINTS))
    name, id = _identity(message)
    node = Node(message.add or "", id=id, metadata=metadata, status=status)
    return Told(Service(name, message.v or "", shared.metadata, shared.endpoints, (node,)), seconds)


def withdrawn(data: bytes) -> tuple[str, str]:
    """Name and id of the node that an unregister message is about. Raises InvalidService for what is none."""
    return _identity(_decode(data))


def _decode(data: bytes) -> _Message:
    if len(data) > codec.MAX_DECODED:
        raise InvalidService(f"message of {len(data)} bytes; at most {codec.MAX_DECODED} are read")
    try:
        return _read(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidService(f"not a message of eddieraa/registry: {error}") from None


def _identity(message: _Message) -> tuple[str, str]:
    """The id that we gave; or the address, which is what eddieraa/registry tells nodes apart by, or else the host."""
    name = codec.lenient_text(message.name or "", "service name")
    id = (message.kv or {}).get(_ID) or message.add or message.h or name
    return name, codec.lenient_text(id, "node id")


def _message(record: Service, host: str) -> _Message:
    node = record.nodes[0]
    kv: dict[str, str | None] = {
        f"{_PREFIX}{key}" if key.startswith(_PREFIX) else key: value for key, value in node.metadata.items()
    }
    kv[_ID] = node.id
    if str(node.status) not in _THEIRS:
        kv[_STATUS] = str(node.status)
    if record.metadata or record.endpoints:
        kv |= _carried(record.metadata, record.endpoints)
    return _Message(
        net="tcp", add=node.address, name=record.name, v=record.version, h=host, kv=dict(sorted(kv.items()))
    )


@lru_cache(maxsize=256)
def _carried(metadata: FrozenDict, endpoints: tuple[Endpoint, ...]) -> dict[str, str]:
    """What of a version is the same in all its nodes, as JSON; what is empty is left out."""
    parts = _split(codec.encode(Service("-", "", metadata, endpoints)))
    told = {_METADATA: parts.metadata if metadata else b"", _ENDPOINTS: parts.endpoints if endpoints else b""}
    return {key: bytes(value).decode() for key, value in told.items() if value}


def _bare(key: str) -> str:
    return key.removeprefix(_PREFIX) if key.startswith(_PREFIX * 2) else key


def _shared(metadata: str | None, endpoints: str | None) -> Service:
    """The same, read by the codec, which keeps and shares it."""
    if not metadata and not endpoints:
        return _NOTHING
    text = f'{{"name":"-","metadata":{metadata or "null"},"endpoints":{endpoints or "null"}}}'
    return codec.decode(text.encode())


_NOTHING = Service("-", metadata=FrozenDict())
