"""What ``register`` accepts: strict out, so that every store and every neighbour can hold it.

Every function raises :class:`InvalidService` that says what was wrong and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from microreg import codec
from microreg.arguments import is_number, shown
from microreg.errors import InvalidService, RecordTooLarge
from microreg.model import Endpoint, Node, Service, Status, Value
from microreg.net import check_advertised

__all__ = [
    "DEFAULT_TTL",
    "LONGEST_NAME",
    "MAX_TTL",
    "MIN_TTL",
    "check_name",
    "check_removal",
    "check_service",
    "check_ttl",
]

DEFAULT_TTL = 15.0
"""Seconds that a record lives without renewal, unless told otherwise."""
MIN_TTL = 1.0
MAX_TTL = 86_400.0
"""Seconds: one day."""

LONGEST_NAME = 63
"""Characters of a name, or of an id, that may be registered."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_MAX_PAIRS = 64
_MAX_VALUE = 1024
_MAX_TEXT = 255
_OVERHEAD = 30
"""A sixth of the bytes that an encoded record has beside names, ids and the like, at most."""


def check_service(service: Service) -> None:
    """Whether every node of the service may be registered."""
    _check_shape(service)
    _check_name(service.name, "service name")
    _check_text(service.version, f"version of service {service.name!r}")
    if not _is_plain(service.metadata):
        _check_metadata(service.metadata, f"metadata of service {service.name!r}")
    for endpoint in service.endpoints:
        _check_endpoint(endpoint, service.name)
    for node in service.nodes:
        _check_node(node, service.name)
    for record in service.records():
        if _is_small(record):
            continue
        size = len(codec.encode(record))
        if size > codec.MAX_RECORD:
            raise RecordTooLarge(
                f"record of node {record.nodes[0].id!r} of service {service.name!r} has {size} bytes; "
                f"at most {codec.MAX_RECORD} are allowed: carry less metadata or fewer endpoints",
                size=size,
                limit=codec.MAX_RECORD,
            )


def check_removal(service: Service) -> None:
    """Whether the service names nodes that could be registered: name and ids, nothing else."""
    _check_shape(service)
    check_name(service.name)
    for node in service.nodes:
        _lenient(node.id, "node id")


def check_ttl(ttl: float) -> float:
    """The ttl as a float: seconds from 1 to 86,400 (one day)."""
    if type(ttl) is float and MIN_TTL <= ttl <= MAX_TTL:
        return ttl
    if not is_number(ttl) or not MIN_TTL <= ttl <= MAX_TTL:
        raise InvalidService(f"ttl {shown(ttl)}: expected a number of seconds, {MIN_TTL:g} to {MAX_TTL:g} (one day)")
    return float(ttl)


def check_name(name: str) -> None:
    """Whether a service of this name can exist at all (foreign records may have laxer names than ours)."""
    _lenient(name, "service name")


def _lenient(text: str, what: str) -> None:
    if not isinstance(text, str):
        raise InvalidService(f"{what} is {shown(text)}; expected a str")
    codec.lenient_text(text, what)


def _check_shape(service: Service) -> None:
    if not isinstance(service, Service):
        raise InvalidService(f"expected a microreg.Service, got {type(service).__name__}")
    if not service.nodes:
        raise InvalidService(
            f"service {shown(service.name)} has no node: a registry stores nodes, so at least one is needed, "
            "for example Service(name, nodes=[Node('10.0.0.7:8080')])"
        )
    seen: set[str] = set()
    for node in service.nodes:
        if not isinstance(node, Node):
            raise InvalidService(f"node of service {shown(service.name)} is {shown(node)}; expected a microreg.Node")
        if not isinstance(node.id, str):
            raise InvalidService(f"node id of service {shown(service.name)} is {shown(node.id)}; expected a str")
        if node.id in seen:
            name = shown(service.name)
            raise InvalidService(
                f"service {name} has two nodes with the id {shown(node.id)}; ids are unique within a service"
            )
        seen.add(node.id)


def _check_name(text: str, what: str) -> None:
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise InvalidService(
            f"{what} {shown(text)}: expected 1 to {LONGEST_NAME} letters, digits, '.', '_' or '-', "
            "beginning and ending with a letter or digit"
        )


def _check_text(text: str, what: str) -> None:
    if not isinstance(text, str):
        raise InvalidService(f"{what} is {shown(text)}; expected a str")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidService(f"{what} contains a lone surrogate; expected valid Unicode text") from None
    if size > _MAX_TEXT or not text.isprintable():
        raise InvalidService(f"{what} {text[:80]!r}: expected at most {_MAX_TEXT} bytes of printable text")


def _check_metadata(metadata: Mapping[str, str], what: str) -> None:
    if len(metadata) > _MAX_PAIRS:
        raise InvalidService(f"{what} has {len(metadata)} pairs; at most {_MAX_PAIRS} are allowed")
    for key, value in metadata.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise InvalidService(f"{what}: key {shown(key)}: expected 1 to 128 letters, digits, '_', '.' or '-'")
        if not isinstance(value, str):
            raise InvalidService(f"{what}: value of {key!r} is a {type(value).__name__}; expected a str")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidService(f"{what}: value of {key!r} contains a lone surrogate; expected valid text") from None
        if size > _MAX_VALUE:
            raise InvalidService(f"{what}: value of {key!r} has {size} bytes; at most {_MAX_VALUE} are allowed")


def _is_plain(metadata: Mapping[str, str]) -> bool:
    """Whether nothing is wrong with metadata such as nearly everybody has; False where it takes a closer look."""
    if not metadata:
        return True
    if len(metadata) > _MAX_PAIRS:
        return False
    for key, value in metadata.items():
        if type(key) is not str or type(value) is not str or len(value) > _MAX_VALUE:
            return False
        if not value.isascii() or not _KEY.fullmatch(key):
            return False
    return True


def _is_small(record: Service) -> bool:
    """Whether the record cannot be too large, without encoding it: at most six bytes of JSON for a character."""
    node = record.nodes[0]
    size = len(record.name) + len(record.version) + len(node.id) + len(node.address) + _OVERHEAD
    for metadata in (record.metadata, node.metadata):
        for key, value in metadata.items():
            size += len(key) + len(value) + 1
    return not record.endpoints and 6 * size <= codec.MAX_RECORD


def _check_endpoint(endpoint: Endpoint, name: str) -> None:
    if not isinstance(endpoint, Endpoint):
        raise InvalidService(f"endpoint of service {name!r} is {shown(endpoint)}; expected a microreg.Endpoint")
    what = f"endpoint {shown(endpoint.name)} of service {name!r}"
    _check_text(endpoint.name, f"name of {what}")
    if not endpoint.name:
        raise InvalidService(f"an endpoint of service {name!r} has an empty name")
    _check_metadata(endpoint.metadata, f"metadata of {what}")
    for value in (endpoint.request, endpoint.response):
        if value is not None:
            _check_value(value, what, codec.MAX_DEPTH)


def _check_value(value: Value, what: str, depth: int) -> None:
    if not isinstance(value, Value) or not isinstance(value.values, tuple):
        raise InvalidService(f"{what}: {shown(value)} is not a microreg.Value with a tuple of values")
    if depth == 0:
        raise InvalidService(f"{what}: values are nested deeper than {codec.MAX_DEPTH} levels")
    _check_text(value.name, f"a value's name in {what}")
    _check_text(value.type, f"a value's type in {what}")
    for inner in value.values:
        _check_value(inner, what, depth - 1)


def _check_node(node: Node, name: str) -> None:
    _check_name(node.id, f"node id of service {name!r}")
    check_advertised(node.address)
    if not _is_plain(node.metadata):
        _check_metadata(node.metadata, f"metadata of node {node.id!r} of service {name!r}")
    if not isinstance(node.status, Status):
        raise InvalidService(f"status of node {node.id!r} is {shown(node.status)}; expected a microreg.Status")
