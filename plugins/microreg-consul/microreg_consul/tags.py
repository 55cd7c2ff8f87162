"""go-micro's tags: what it says of a node in Consul, each deflated and in hexadecimal digits.

``t-…`` is a pair of the node's metadata as a JSON object, ``e-…`` an endpoint, ``v-…`` the version. Its first versions
wrote them plainly, ``t={"zone":"a"}``, ``e={…}`` and ``v=1.0.0``, which it still reads.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, cast

from microreg.codec import MAX_DECODED, MAX_RECORD, decode, encode
from microreg.errors import InvalidService
from microreg.model import EMPTY, Endpoint, Service

__all__ = ["Tagged", "pack", "unpack"]

_SHARED = 16 * 1024
_FORMS = frozenset(kind + form for kind in "tev" for form in "-=")


class Tagged(NamedTuple):
    """What tags say of a node; ``version`` is None where no tag says one."""

    version: str | None
    metadata: dict[str, str]
    endpoints: tuple[Endpoint, ...]


class _Tag(NamedTuple):
    """What one tag says, and how many bytes that took."""

    size: int = 0
    version: str | None = None
    metadata: dict[str, str] = EMPTY
    endpoints: tuple[Endpoint, ...] = ()


_FOREIGN = _Tag()


def pack(record: Service) -> list[str]:
    """The tags of a record, always in the same order: another one would be a change to Consul."""
    pairs = sorted(record.nodes[0].metadata.items())
    return [
        *(_deflated("t", _cut("metadata", b"{}", Service("-", metadata={key: value}))) for key, value in pairs),
        *(_deflated("e", _cut("endpoints", b"[]", Service("-", endpoints=[each]))[1:-1]) for each in record.endpoints),
        _deflated("v", record.version.encode()),
    ]


def unpack(tags: Iterable[str]) -> Tagged:
    """What these tags say, in whatever order and among whatever tags of others.

    Raises InvalidService for a deflate bomb: one tag of more than 64 KiB, or more than 1 MiB together.
    """
    size, version = 0, None
    metadata: dict[str, str] = {}
    endpoints: list[Endpoint] = []
    for tag in tags:
        if tag[:2] in _FORMS:
            found = _read(tag) if tag[0] == "t" or len(tag) > _SHARED else _read_shared(tag)
            size += found.size
            if size > MAX_DECODED:
                raise InvalidService(f"its tags hold more than {MAX_DECODED} bytes")
            version = found.version if version is None else version
            metadata |= found.metadata
            endpoints += found.endpoints
    return Tagged(version, metadata, tuple(endpoints))


def _read(tag: str) -> _Tag:
    try:
        data = _inflate(bytes.fromhex(tag[2:])) if tag[1] == "-" else tag[2:].encode()
        text = data.decode()
    except (ValueError, zlib.error):
        return _FOREIGN
    if len(data) > MAX_RECORD:
        raise InvalidService(f"one of its tags holds more than {MAX_RECORD} bytes")
    if tag[0] == "v":
        return _Tag(len(data), version=text)
    if tag[0] == "t":
        return _Tag(len(data), metadata=_metadata(text))
    try:
        return _Tag(len(data), endpoints=decode(b'{"name":"-","endpoints":[%s]}' % data).endpoints)
    except InvalidService:
        return _Tag(len(data))


_read_shared = lru_cache(maxsize=256)(_read)
"""Versions and endpoints are the same at many nodes."""


def _metadata(text: str) -> dict[str, str]:
    """The texts in this JSON object; nothing where it is none."""
    try:
        pairs: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    found = cast("dict[str, object]", pairs) if isinstance(pairs, dict) else {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _inflate(data: bytes) -> bytes:
    """At most one byte more than a tag may hold. Raises ValueError or zlib.error for what is not deflated."""
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, MAX_RECORD + 1)
    if not inflater.eof and len(inflated) <= MAX_RECORD:
        raise ValueError("it is cut off")
    return inflated


def _deflated(kind: str, data: bytes) -> str:
    return f"{kind}-{zlib.compress(data).hex()}"


def _cut(part: str, empty: bytes, service: Service) -> bytes:
    """This part of a service that has nothing else, in the codec's JSON."""
    before, _, after = encode(Service("-")).partition(b'"%s":%s' % (part.encode(), empty))
    return encode(service)[len(before) + len(part) + 3 : -len(after)]
