"""The one JSON form of a Service: exactly go-micro's object, plus a node's ``status`` when it is not passing.

Decoding is lenient: any key order, unknown keys ignored, null for empty, sizes and depth bounded.
Equal endpoint lists and metadata are shared between nodes: that takes less memory, and leaves the collector of garbage
next to nothing to look at, however many nodes there are.
"""

from __future__ import annotations

from functools import lru_cache
from sys import intern
from typing import cast

import msgspec

from microreg.errors import InvalidService
from microreg.model import EMPTY, Endpoint, FrozenDict, Node, Service, Status, Value

__all__ = ["MAX_DECODED", "MAX_DEPTH", "MAX_RECORD", "decode", "encode", "lenient_text"]

MAX_RECORD = 64 * 1024
"""Bytes that an encoded record of ours may have."""
MAX_DECODED = 1024 * 1024
"""Bytes of a record beyond which nobody tries to decode it."""
MAX_DEPTH = 16
"""Levels of nested request and response values."""
_SHARED = 16 * 1024
"""Bytes of endpoints, service metadata, or a head (what stands before the nodes) up to which they are kept."""
_NODES = b',"nodes":['
_HEADS = 1024
"""So many heads are kept; then it begins anew."""
_KEY = 96
"""Bytes of a head by which it is found: enough to tell name and version, and cheap to hash."""
_METADATA = 1024
"""So many metadata of nodes are kept; then it begins anew."""
_METADATA_KEYS = 16
"""Keys of a node's metadata up to which they are kept."""
_METADATA_LENGTH = 512
"""Characters of a node's metadata up to which they are kept."""

_Raw = msgspec.Raw
_NULL = msgspec.Raw(b"null")
_Pairs = dict[str, str | None]


class _Value(msgspec.Struct):
    name: str | None = None
    type: str | None = None
    values: list[_Value | None] | None = None


class _Endpoint(msgspec.Struct):
    name: str | None = None
    request: _Value | None = None
    response: _Value | None = None
    metadata: _Pairs | None = None


class _Node(msgspec.Struct):
    id: str | None = None
    address: str | None = None
    metadata: _Pairs | None = None
    status: str | None = None


class _PlainNode(msgspec.Struct):
    """A node as nearly everybody writes it: nothing null that matters, no status of the future."""

    id: str
    address: str = ""
    metadata: dict[str, str] | None = None
    status: Status = Status.PASSING


class _WrittenNode(msgspec.Struct, omit_defaults=True):
    id: str
    address: str
    metadata: FrozenDict
    status: str = ""


class _WrittenService(msgspec.Struct):
    name: str
    version: str
    metadata: FrozenDict
    endpoints: _Raw
    nodes: list[_WrittenNode]


class _Service(msgspec.Struct):
    name: str
    version: str | None = None
    metadata: _Raw = _NULL
    endpoints: _Raw = _NULL
    nodes: list[_Node | None] | None = None


_encode = msgspec.json.Encoder(enc_hook=str.__str__, order="deterministic").encode  # metadata sorted, not fields
_NO_ENDPOINTS = msgspec.Raw(b"[]")
_decode_service = msgspec.json.Decoder(_Service).decode
_decode_nodes = msgspec.json.Decoder(list[_PlainNode]).decode
_decode_endpoints = msgspec.json.Decoder(list[_Endpoint | None] | None).decode
_decode_metadata = msgspec.json.Decoder(_Pairs | None).decode
_STATUS = {str(status): status for status in Status}
_heads: dict[tuple[int, bytes], tuple[bytes, Service]] = {}
_metadata_of_nodes: dict[tuple[str, ...], FrozenDict] = {}
_ESCAPES = tuple((char.encode(), rb"\u%04x" % ord(char)) for char in "&<>\u2028\u2029")


def encode(service: Service) -> bytes:
    """The service as go-micro's JSON: no spaces, metadata sorted, ``<>&`` and line separators escaped as Go does."""
    nodes = [_written(node) for node in service.nodes]
    try:
        endpoints = _encoded_endpoints(service.endpoints) if service.endpoints else _NO_ENDPOINTS
        text = _encode(_WrittenService(service.name, service.version, service.metadata, endpoints, nodes))
    except UnicodeEncodeError as error:
        raise InvalidService(
            f"service {service.name!r} contains a lone surrogate ({error.object[error.start]!r}), "
            "which has no UTF-8 form; expected valid Unicode text"
        ) from None
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    return text


def decode(data: bytes | bytearray | memoryview | str) -> Service:
    """The service in this JSON. Raises :class:`InvalidService`, saying why, where there is none."""
    if len(data) > MAX_DECODED:
        raise InvalidService(f"record of {len(data)} bytes; at most {MAX_DECODED} are read")
    try:
        found = _shared_head(data) if type(data) is bytes else None
        return found or _decode_any(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidService(f"not a service in JSON: {error}") from None


def _decode_any(data: bytes | bytearray | memoryview | str) -> Service:
    wire = _decode_service(data)
    return Service(
        intern(lenient_text(wire.name, "service name")),
        intern(wire.version or ""),
        _metadata(bytes(wire.metadata)),
        _endpoints(bytes(wire.endpoints)),
        [_node(node) for node in wire.nodes or () if node is not None],
    )


def _shared_head(data: bytes) -> Service | None:
    """The service, where ``data`` is a head seen before and a list of plain nodes; None: read it in the slow way.

    Everything before the nodes is the same in all records of a version. In JSON the bytes of ``_NODES`` are
    always a key, and of the outermost object if what stands before them is an object once it is closed.
    """
    end = data.rfind(_NODES)
    if end < 0 or end > _SHARED or not data.endswith(b"}"):
        return None
    key = end, data[: min(end, _KEY)]
    known = _heads.get(key)
    try:
        if known is None or not data.startswith(known[0]):
            if len(_heads) >= _HEADS:
                _heads.clear()
            head = data[:end]
            known = _heads[key] = head, _decode_any(head + b"}").with_nodes()
        nodes = tuple([_plain(node) for node in _decode_nodes(data[end + len(_NODES) - 1 : -1])])
    except (msgspec.MsgspecError, UnicodeError, RecursionError, InvalidService):
        return None
    return known[1].with_nodes(*nodes)


def lenient_text(text: str, what: str) -> str:
    """A name or id that somebody else wrote: any non-empty printable text of up to 255 bytes of UTF-8."""
    if text.isprintable() and 0 < len(text) <= 63:
        return text
    if not text.isprintable() or not 0 < len(text.encode()) <= 255:
        raise InvalidService(f"{what} {text[:80]!r}: expected 1 to 255 bytes of printable text")
    return text


def _written(node: Node) -> _WrittenNode:
    status = "" if node.status is Status.PASSING else str(node.status)
    return _WrittenNode(node.id, node.address, node.metadata, status)


@lru_cache(maxsize=128)
def _encoded_endpoints(endpoints: tuple[Endpoint, ...]) -> _Raw:
    """A list of endpoints, which most nodes of a service share. Not for one that is empty."""
    documents = [
        {
            "name": endpoint.name,
            "request": _value_document(endpoint.request, MAX_DEPTH),
            "response": _value_document(endpoint.response, MAX_DEPTH),
            "metadata": dict(sorted(endpoint.metadata.items())),
        }
        for endpoint in endpoints
    ]
    return _Raw(msgspec.json.encode(documents, enc_hook=str.__str__))


def _value_document(value: Value | None, depth: int) -> dict[str, object] | None:
    if value is None:
        return None
    if depth == 0:
        raise InvalidService(f"endpoint value {value.name!r} is nested deeper than {MAX_DEPTH} levels")
    values = [_value_document(inner, depth - 1) for inner in value.values]
    return {"name": value.name, "type": value.type, "values": values or None}


def _node(wire: _Node) -> Node:
    address = wire.address or ""
    return Node(
        address,
        id=lenient_text(wire.id or address, "node id"),
        metadata=_strings(wire.metadata),
        status=_STATUS.get(wire.status or "", Status.PASSING),
    )


def _plain(wire: _PlainNode) -> Node:
    metadata = _shared(wire.metadata) if wire.metadata else EMPTY
    return Node(wire.address, id=lenient_text(wire.id, "node id"), metadata=metadata, status=wire.status)


def _shared(metadata: dict[str, str]) -> FrozenDict:
    """The metadata of a node, as one object for all that have the same, where these are short and not too many."""
    key = (*metadata.values(),)
    known = _metadata_of_nodes.get(key)
    if known is not None and known == metadata:
        return known
    found = FrozenDict(metadata)
    if len(key) <= _METADATA_KEYS and sum(map(len, metadata)) + sum(map(len, key)) <= _METADATA_LENGTH:
        if len(_metadata_of_nodes) >= _METADATA:
            _metadata_of_nodes.clear()
        _metadata_of_nodes[key] = found
    return found


def _strings(pairs: _Pairs | None) -> FrozenDict:
    if not pairs:
        return EMPTY
    if None in pairs.values():
        return FrozenDict({key: value or "" for key, value in pairs.items()})
    return FrozenDict(cast(dict[str, str], pairs))


def _metadata(raw: bytes) -> FrozenDict:
    return _shared_metadata(raw) if len(raw) <= _SHARED else _shared_metadata.__wrapped__(raw)


def _endpoints(raw: bytes) -> tuple[Endpoint, ...]:
    return _shared_endpoints(raw) if len(raw) <= _SHARED else _shared_endpoints.__wrapped__(raw)


@lru_cache(maxsize=1024)
def _shared_metadata(raw: bytes) -> FrozenDict:
    return _strings(_decode_metadata(raw))


@lru_cache(maxsize=1024)
def _shared_endpoints(raw: bytes) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(
            wire.name or "",
            _value(wire.request, MAX_DEPTH),
            _value(wire.response, MAX_DEPTH),
            _strings(wire.metadata),
        )
        for wire in _decode_endpoints(raw) or ()
        if wire is not None
    )


def _value(wire: _Value | None, depth: int) -> Value | None:
    if wire is None:
        return None
    if depth == 0:
        raise InvalidService(f"endpoint value {wire.name!r} is nested deeper than {MAX_DEPTH} levels")
    inner = [_value(value, depth - 1) for value in wire.values or ()]
    return Value(wire.name or "", wire.type or "", tuple(value for value in inner if value is not None))
