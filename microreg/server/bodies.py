"""Reading what a client sends, bounded in size. How long it may take is for who runs the server."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.types import Message, Receive, Scope

from microreg.server.problems import Problem

__all__ = ["read_body", "read_json"]

T = TypeVar("T")


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


def _too_large(limit: int) -> Problem:
    return Problem(
        413, "body_too_large", f"at most {limit} bytes are read of a body", headers={b"connection": b"close"}
    )
