"""Reading what a client sends, bounded in size and looked at. How long it may take is for who runs the server."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

import msgspec
from starlette.types import Message, Receive, Scope

from microreg import Service, Status
from microreg.codec import decode
from microreg.errors import InvalidService
from microreg.server.problems import Problem

__all__ = ["read_body", "read_json", "record_of"]

T = TypeVar("T")

_STATUSES = frozenset(map(str, Status))


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises Problem where it is larger than ``limit`` bytes, or ends too early."""
    for key, value in scope["headers"]:
        if key == b"content-length" and value.isdigit() and int(value[:19]) > limit:
            raise _too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body") or len(body) > limit or message["type"] != "http.request":
        return await _rest(message, receive, limit)
    return body


async def _rest(message: Message, receive: Receive, limit: int) -> bytes:
    """A body that comes in pieces, of which ``message`` is the first."""
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise Problem(400, "bad_request", "the connection ended within the body")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


async def read_json(scope: Scope, receive: Receive, limit: int, kind: type[T]) -> T:
    """The body as JSON of this shape. Raises Problem for anything else."""
    try:
        return msgspec.json.decode(await read_body(scope, receive, limit), type=kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid_body", f"the body: {error}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Problem(400, "bad_request", f"the body is not JSON: {error}") from None


_Metadata = dict[str, str | None] | None


class _Node(msgspec.Struct):
    status: str | None = None
    metadata: _Metadata = None


class _Value(msgspec.Struct):
    values: list[_Value | None] | None = None


class _Endpoint(msgspec.Struct):
    request: _Value | None = None
    response: _Value | None = None
    metadata: _Metadata = None


class _Record(msgspec.Struct):
    """What the codec, which reads what anybody has stored, passes over."""

    nodes: list[_Node | None]
    endpoints: list[_Endpoint | None] | None = None
    metadata: _Metadata = None


_decode_record = msgspec.json.Decoder(_Record).decode


def record_of(name: str, id: str, body: bytes) -> Service:
    """The service in a body that is to have this name, and one node, with this id. Keys that are not known are ignored.

    Raises InvalidService for anything else, also for what would be stored as something else than what was sent.
    """
    record = decode(body)
    if record.name != name or [node.id for node in record.nodes] != [id]:
        raise InvalidService(
            f"the path is of node {id!r} of service {name!r}; expected a body with this name, and this one node"
        )
    # Nothing else is passed over by the codec; a backslash may hide a key.
    if b"null" in body or b"status" in body or b"\\" in body:
        _check_record(name, id, _decode_record(body))
    return record


def _check_record(name: str, id: str, sent: _Record) -> None:
    for what, members in _members(sent):
        if None in members:
            raise InvalidService(f"{what} of service {name!r}: expected no null among them")
    for status in (node.status for node in sent.nodes if node is not None):
        if status is not None and status not in _STATUSES:
            expected = ", ".join(map(str, Status))
            raise InvalidService(f"status {status[:80]!r} of node {id!r}: expected one of {expected}")


def _members(sent: _Record) -> Iterator[tuple[str, Collection[object]]]:
    """Whatever has members in a record, and what they are."""
    yield "nodes", sent.nodes
    yield "endpoints", sent.endpoints or ()
    nodes = [node for node in sent.nodes if node is not None]
    endpoints = [endpoint for endpoint in sent.endpoints or () if endpoint is not None]
    parts: list[_Record | _Node | _Endpoint] = [sent, *nodes, *endpoints]
    for part in parts:
        yield "metadata", (part.metadata or {}).values()
    left = [value for endpoint in endpoints for value in (endpoint.request, endpoint.response) if value is not None]
    while left:
        values = left.pop().values or ()
        yield "values", values
        left += [value for value in values if value is not None]


def _too_large(limit: int) -> Problem:
    return Problem(
        413, "body_too_large", f"at most {limit} bytes are read of a body", headers={b"connection": b"close"}
    )
